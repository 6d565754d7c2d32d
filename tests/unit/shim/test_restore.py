"""``create`` with a plan, over real mounts and control groups and a runtime that is made up.

Each test runs the program in a mount namespace of its own. The made-up runc behaves as runc does
where it matters: it makes its state folder, binds the root filesystem there, starts a process in
the container's control group and writes to the container's output; then it does what it is told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim import mounts, plan, snapshot
from shim import spec as oci
from tests.unit.shim.tars import Tar
from tests.unit.shim.test_runtime import launcher
from tests.unit.shim.test_supervise import alive, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and control groups need root")

RUNC = """#!/bin/sh
# the last argument is the container
for id; do :; done
echo "$@" >> $FAKE/calls
state=$FAKE/state/$id
case " $* " in
*" delete "*) rmdir $state/criu-root 2>/dev/null; rm -rf --one-file-system $state; exit 0;;
*" create "*) cat $BUNDLE/config.json > $FAKE/created; ls $BUNDLE/rootfs > $FAKE/listing
              ls $FAKE/shm >> $FAKE/listing; exit 0;;
*" exec "*) while [ "$1" != exec ]; do shift; done; shift 2; exec "$@";;
*" restore "*) ;;
*) exit 0;;
esac
cat $BUNDLE/config.json > $FAKE/restored; ls $BUNDLE/rootfs > $FAKE/listing
ls $FAKE/shm >> $FAKE/listing
mkdir -p $state/criu-root $GROUP
grep -q podthaw-pages $BUNDLE/config.json && : > $BUNDLE/rootfs/.podthaw-pages
mount --rbind $BUNDLE/rootfs $state/criu-root
mkdir -p $BUNDLE/rootfs/volume; mount --bind $FAKE/volume $BUNDLE/rootfs/volume
(echo 0 > $GROUP/cgroup.procs; exec setsid sleep 600) &
echo $! > $FAKE/pid
until grep -q . $GROUP/cgroup.procs; do sleep 0.01; done
mkdir -p $WORK/.criu.cgyard.abcdef; mount -t tmpfs none $WORK/.criu.cgyard.abcdef
echo "half an answer" >&2
case $MODE in
ok) umount $WORK/.criu.cgyard.abcdef $BUNDLE/rootfs/volume
    umount -l $state/criu-root; rmdir $WORK/.criu.cgyard.abcdef $state/criu-root
    echo 1 > $FAKE/pidfile; exit 0;;
fail) echo "(00.1) Error (criu/files-reg.c:1): File lib/x has bad size 1 (expect 2)" \\
          > $WORK/restore.log; exit 1;;
full) echo "Error (criu/x.c:1): write: No space left on device" > $WORK/restore.log; exit 1;;
killed) kill -9 $$;;
silent) echo 'time="x" level=error msg="no such \\"thing\\""' > $PLAN/runc.log; exit 1;;
hang) exec sleep 600;;
esac
"""


def output_of(process: subprocess.Popen[str]) -> str:
    """Wait for the end; what was printed. A restored process keeps the pipe open longer."""
    process.wait(timeout=60)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    return process.stdout.read() or ""


class Case:
    """A bundle, a snapshot and a plan, ready for one ``create``."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.id = uuid.uuid4().hex
        self.plan = uuid.uuid4().hex
        self.run = top / "run"
        self.bundle = top / "bundle"
        self.shim = launcher(top / "podthaw-runc")
        for name in ("run", "bundle/rootfs", "lower", "disk", "shm", "state", "volume", "snap",
                     "images"):  # fmt: skip
            (top / name).mkdir(parents=True)
        (top / "volume/data").write_text("precious")
        (top / "lower/base").write_text("base")
        hierarchy = next(m.target for m in mounts.read() if m.type in ("cgroup", "cgroup2"))
        self.group = Path(f"{hierarchy}/podthaw-test/{self.id}")
        self.spec: dict[str, Any] = {
            "annotations": {
                plan.PLAN_ANNOTATION: self.plan,
                "io.kubernetes.cri.sandbox-id": "sandbox",
                "io.kubernetes.cri.container-name": "main",
            },
            "process": {"args": ["x"], "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/dev/shm", "type": "bind", "source": str(top / "shm")}],
            "linux": {"cgroupsPath": f"/podthaw-test/{self.id}"},
        }
        self.order: dict[str, Any] = {}

    def prepare(self) -> None:
        """Write spec, snapshot and plan."""
        (self.bundle / "config.json").write_text(json.dumps(self.spec))
        fake = self.top / "runc"
        fake.write_text(RUNC)
        fake.chmod(0o755)
        nothing: dict[str, Any] = {
            "source": snapshot.Source(
                namespace="n", pod="p", pod_uid="u", container="main", container_id="c",
                image="i", image_digest="sha256:1", command=["x"],
            ),
            "host": snapshot.HostNeeds(
                arch="x", kernel="k", criu="4", cpu_features=[], page_size=4096, cgroup=1
            ),
        }  # fmt: skip
        data = snapshot.encode(
            snapshot.Manifest(
                created="2026-01-01T00:00:00Z", **nothing,
                security=oci.security_profile(self.spec),
                mounts=oci.mounts(self.spec, self.bundle / "rootfs"),
                processes=[], addresses=[], hostname="h", stdio=[], artifacts=[],
            )
        )  # fmt: skip
        (self.top / "snap/manifest.json").write_bytes(data)
        fields = {
            "id": self.plan, "created": 0.0, "namespace": "n", "pod": "p", "pod_uid": "u",
            "sandbox_id": "sandbox", "container": "main", "attempt": 0, "name": "warm",
            "snapshot": snapshot.digest(data), "snapshot_dir": str(self.top / "snap"),
            "images": str(self.top / "images"), "runtime": str(fake),
            "rootfs_diff": Tar(self.top / "r.tar").add("changed", b"1").done(),
            "shm": Tar(self.top / "s.tar").add("memory", b"1").done(),
        }  # fmt: skip
        plan.write(plan.Plan(**{**fields, **self.order}), self.run)

    def environment(self, mode: str) -> dict[str, str]:
        return {
            **os.environ, "PODTHAW_RUN": str(self.run), "FAKE": str(self.top), "MODE": mode,
            "BUNDLE": str(self.bundle), "GROUP": str(self.group),
            "WORK": str(self.run / "restores" / f"{self.id}.work"),
            "PLAN": str(self.run / "plans" / self.plan),
        }  # fmt: skip

    def start(self, mode: str, *, after: str = "") -> subprocess.Popen[str]:
        """Call ``create``; the shell commands ``after`` see the same mounts."""
        top, call = self.top, f"{self.shim} --root {self.top}/state"
        script = f"""
            mount -t tmpfs none {top}/disk && mkdir {top}/disk/upper {top}/disk/work
            mount -t overlay overlay {self.bundle}/rootfs \
                -o lowerdir={top}/lower,upperdir={top}/disk/upper,workdir={top}/disk/work
            {call} --log {top}/log.json --log-format json create --bundle {self.bundle} \
                --pid-file {top}/pidfile {self.id} < /dev/null &
            echo $! > {top}/shim-pid
            wait $!; echo $? > {top}/status
            {after}
            grep {top} /proc/self/mountinfo > {top}/mounts-left
            ls {self.bundle}/rootfs > {top}/rootfs-after; ls {top}/disk/upper > {top}/upper-after
        """
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        return subprocess.Popen(
            command, env=self.environment(mode), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def create(self, mode: str, **more: str) -> tuple[int, plan.Result | None]:
        """``create`` to its end: exit status and result."""
        self.prepare()
        with self.start(mode, **more) as process:
            self.output = output_of(process)
        status = int((self.top / "status").read_text())
        return status, plan.read_result(self.plan, self.run)

    def read(self, name: str) -> str:
        return (self.top / name).read_text()

    @property
    def calls(self) -> list[str]:
        """The verbs that the runtime was called with."""
        path = self.top / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [
            next(
                word
                for word in line.split()
                if word in ("restore", "exec", "create", "delete", "start")
            )
            for line in lines
        ]

    def assert_nothing_left(self, *, mounted: bool = True) -> None:
        """No process, mount, control group, state, file or record of the restore."""
        pid = self.top / "pid"
        if pid.exists():
            assert until(lambda: not alive(int(pid.read_text())))
        assert not self.group.exists()
        assert list((self.top / "state").iterdir()) == []
        left = [line.split()[4] for line in self.read("mounts-left").splitlines()]
        assert sorted(left) == sorted(
            [f"{self.top}/disk", *([f"{self.bundle}/rootfs"] if mounted else [])]
        )
        assert self.read("upper-after") == ""
        assert [path.name for path in (self.top / "shm").iterdir()] == []
        assert json.loads((self.bundle / "config.json").read_text()) == self.spec
        assert sorted(path.name for path in self.bundle.iterdir()) == ["config.json", "rootfs"]
        assert list((self.run / "restores").iterdir()) == []
        assert self.read("volume/data") == "precious"


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    pid = tmp_path / "pid"
    if pid.exists() and alive(int(pid.read_text())):
        os.kill(int(pid.read_text()), signal.SIGKILL)
        until(lambda: not alive(int(pid.read_text())))
    for folder in (made.group, made.group.parent):
        if folder.exists() and not list(folder.glob("*/")):
            folder.rmdir()


def test_restored(case: Case) -> None:
    status, result = case.create("ok")
    assert (status, case.calls) == (0, ["restore"])
    assert result is not None
    assert (result.outcome, result.container_id, result.reason) == ("restored", case.id, "")
    assert list(result.phases) == ["check", "rootfs", "shm", "criu"]
    assert set(case.read("listing").split()) == {"base", "changed", "memory"}
    seen = json.loads(case.read("restored"))["annotations"]
    assert seen["org.criu.config"] == str(case.run / "plans" / case.plan / "criu.conf")
    assert json.loads((case.bundle / "config.json").read_text()) == case.spec
    line = case.read("calls")
    for option in ("--detach", "--tcp-established", "--file-locks", "--ext-unix-sk"):
        assert option in line
    assert f"--root {case.top}/state" in line
    assert f"--pid-file {case.top}/pidfile" in line
    assert "log.json" not in line
    assert alive(int(case.read("pid")))


def test_start_of_a_restored_container_does_nothing_and_delete_forgets_it(case: Case) -> None:
    case.create("ok", after=f"{case.shim} start {case.id}; echo $? > {case.top}/started")
    assert case.read("started") == "0\n"
    assert case.calls == ["restore"]
    environment = case.environment("ok")
    path = f"{case.top}/bin"
    Path(path).mkdir()
    (case.top / "bin/runc").symlink_to(case.top / "runc")
    environment["PATH"] = f"{path}:{environment['PATH']}"
    subprocess.run([case.shim, "delete", case.id], env=environment, check=True)
    assert case.calls == ["restore", "delete"]
    assert list((case.run / "restores").iterdir()) == []
    subprocess.run([case.shim, "start", case.id], env=environment, check=True)
    assert case.calls == ["restore", "delete", "start"]


PAGES = {"source": "/store/1/pages", "destination": "/.podthaw-pages"}


def test_only_the_restore_is_told_of_the_mount_of_mapped_memory(case: Case) -> None:
    """And without a process that has the guard's filter there is no restored container."""
    case.order = {"pages_mount": PAGES}
    status, result = case.create("ok")
    assert (status, case.calls) == (0, ["restore", "delete", "create"])
    *others, mount = json.loads(case.read("restored"))["mounts"]
    assert others == case.spec["mounts"]
    assert (mount["destination"], mount["source"]) == ("/.podthaw-pages", "/store/1/pages")
    assert {"bind", "ro"} < set(mount["options"])
    assert json.loads(case.read("created")) == case.spec
    assert result is not None
    assert (result.outcome, result.kind) == ("cold", "unfit")
    assert "no process of the container has the filter" in result.reason
    case.assert_nothing_left()
    assert list((case.run / "guards").iterdir()) == []


@pytest.mark.parametrize("diff", [{}, {"rootfs_diff": None, "shm": None}], ids=["files", "none"])
def test_a_cold_start_sees_nothing_of_mapped_memory(case: Case, diff: dict[str, None]) -> None:
    case.order = {"pages_mount": PAGES, **diff}
    status, _ = case.create("fail")
    assert (status, case.calls) == (0, ["restore", "delete", "create"])
    assert json.loads(case.read("created")) == case.spec
    assert case.read("rootfs-after").split() == ["base"]
    case.assert_nothing_left()
    assert list((case.run / "guards").iterdir()) == []


def test_a_container_with_a_mount_where_mapped_memory_belongs_starts_cold(case: Case) -> None:
    case.order = {"pages_mount": PAGES}
    case.spec["mounts"].append(
        {"destination": "/.podthaw-pages", "type": "bind", "source": str(case.top / "volume")}
    )
    status, result = case.create("ok")
    assert (status, case.calls) == (0, ["create"])
    assert result is not None
    assert result.kind == "unfit"
    assert "a mount at /.podthaw-pages, where Podthaw mounts the snapshot's memory" in result.reason


def test_a_hook_is_carried_out_before_the_container_counts_as_restored(case: Case) -> None:
    case.order = {"after_restore": f"exec:touch '{case.top}/woken'"}
    status, result = case.create("ok")
    assert (status, case.calls) == (0, ["restore", "exec"])
    assert (case.top / "woken").exists()
    assert result is not None
    assert result.outcome == "restored"
    assert list(result.phases) == ["check", "rootfs", "shm", "criu", "hook"]
    command = case.read("calls").splitlines()[1]
    assert f"--root {case.top}/state" in command
    assert command.endswith(f"exec {case.id} touch {case.top}/woken")


@pytest.mark.parametrize("policy", ["cold", "fail"])
@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        ("exec:sh -c 'echo not now; exit 4'", "ended with status 4: not now"),
        ("exec:/bin/sleep 600", "was not done within"),
        ("http:9/x", "was not answered at 127.0.0.1"),
        ("signal:USR1", "has no receiver"),
    ],
)
def test_a_hook_that_fails_undoes_the_restore(
    case: Case, hook: str, reason: str, policy: str
) -> None:
    # The process that the made-up runtime names is not in the container's control group.
    case.order = {"after_restore": hook, "on_failure": policy, "restore_timeout": 3.0}
    status, result = case.create("ok")
    assert result is not None
    assert (result.outcome, result.kind) == ("cold" if policy == "cold" else "failed", "unfit")
    assert reason in result.reason
    assert "the hook after-restore failed, the program was not woken: " in result.reason
    assert list(result.phases)[4:6] == ["hook", "undo"]
    assert (status == 0) == (policy == "cold")
    assert case.calls[-1] == ("create" if policy == "cold" else "delete")
    case.assert_nothing_left()


def test_a_plan_with_a_hook_that_nobody_could_have_asked_for_is_refused(case: Case) -> None:
    case.order = {"after_restore": "http:80/x\r\nHost: other"}
    status, result = case.create("ok")
    assert status == 1
    assert result is not None
    assert (result.outcome, result.kind) == ("failed", "refused")
    case.assert_nothing_left()


@pytest.mark.parametrize(
    ("mode", "kind", "reason"),
    [
        ("fail", "broken", "differs in size"),
        ("full", "unfit", "disk is full"),
        ("killed", "unfit", "killed by signal 9"),
        ("silent", "broken", 'no such "thing"'),
    ],
)
def test_a_failure_ends_in_a_cold_start_of_an_untouched_container(
    case: Case, mode: str, kind: str, reason: str
) -> None:
    status, result = case.create(mode)
    assert (status, case.calls) == (0, ["restore", "delete", "create"])
    assert result is not None
    assert (result.outcome, result.kind) == ("cold", kind)
    assert reason in result.reason
    assert case.read("listing").split() == ["base"]
    assert json.loads(case.read("created")) == case.spec
    case.assert_nothing_left()
    assert "half an answer" not in case.output


def test_a_failure_with_the_policy_fail(case: Case) -> None:
    case.order["on_failure"] = "fail"
    status, result = case.create("fail")
    assert (status, case.calls) == (1, ["restore", "delete"])
    assert result is not None
    assert result.outcome == "failed"
    message = json.loads(case.read("log.json").splitlines()[-1])
    assert message["level"] == "error"
    assert "warm was not restored" in message["msg"]
    assert "differs in size" in message["msg"]
    case.assert_nothing_left()


def test_a_run_directory_that_cannot_be_written_ends_in_a_cold_start(case: Case) -> None:
    (case.run / "restores" / f"{case.id}.new").mkdir(parents=True)
    status, result = case.create("ok")
    assert (status, case.calls) == (0, ["create"])
    assert result is not None
    assert (result.outcome, result.kind) == ("cold", "unfit")
    assert "cannot be written: Is a directory" in result.reason


def test_a_worker_that_hangs_is_killed(case: Case) -> None:
    """Say on a file system that does not answer: no tick of its own comes then."""
    case.order["restore_timeout"] = 0.3
    hanging = (
        "import time\nfrom shim import restore, snapshot\n"
        "restore._UNDO_TIME = 0.2\nsnapshot.read = lambda *_: time.sleep(600)\n"
    )
    start = "from shim.__main__"
    case.shim.write_text(case.shim.read_text().replace(start, hanging + start))
    status, result = case.create("ok")
    assert (status, case.calls) == (0, ["create"])
    assert result is not None
    assert (result.outcome, result.kind) == ("cold", "unfit")
    case.assert_nothing_left()


def test_the_deadline(case: Case) -> None:
    case.order["restore_timeout"] = 0.7
    begun = time.monotonic()
    status, result = case.create("hang")
    assert time.monotonic() - begun < 20
    assert (status, case.calls) == (0, ["restore", "delete", "create"])
    assert result is not None
    assert (result.outcome, result.kind) == ("cold", "broken")
    assert "did not finish within 0.7 seconds" in result.reason
    case.assert_nothing_left()


def _wait_until_restoring(case: Case) -> int:
    assert until(lambda: (case.top / "pid").exists() and case.read("pid").strip() != "", 20)
    time.sleep(0.2)
    return int(case.read("shim-pid"))


def _worker_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0])


def test_sigterm_takes_everything_back_and_starts_nothing(case: Case) -> None:
    case.prepare()
    with case.start("hang") as process:
        os.kill(_wait_until_restoring(case), signal.SIGTERM)
        output_of(process)
    assert case.read("status") == "1\n"
    assert case.calls == ["restore", "delete"]
    case.assert_nothing_left(mounted=False)


def test_sigkill_of_the_program_is_cleaned_up_by_its_worker(case: Case) -> None:
    case.prepare()
    wait = f"while [ -e {case.run}/restores/{case.id} ]; do sleep 0.05; done"
    with case.start("hang", after=wait) as process:
        os.kill(_wait_until_restoring(case), signal.SIGKILL)
        output_of(process)
    assert case.read("status") == "137\n"
    assert case.calls == ["restore", "delete"]
    case.assert_nothing_left(mounted=False)
    result = plan.read_result(case.plan, case.run)
    assert result is not None
    assert result.outcome == "failed"


def test_sigkill_of_the_worker_ends_in_a_cold_start(case: Case) -> None:
    case.prepare()
    with case.start("hang") as process:
        os.kill(_worker_of(_wait_until_restoring(case)), signal.SIGKILL)
        output_of(process)
    assert case.read("status") == "0\n"
    assert case.calls == ["restore", "delete", "create"]
    result = plan.read_result(case.plan, case.run)
    assert result is not None
    assert (result.outcome, result.reason) == ("cold", "the process that restored it was killed")
    case.assert_nothing_left()


@pytest.mark.parametrize("cleaner", ["delete", "recover"])
def test_sigkill_of_both_is_cleaned_up_by_delete_or_by_the_daemon(case: Case, cleaner: str) -> None:
    case.prepare()
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r}); "
        f"from shim import restore; print(restore.recover({str(case.run)!r}))"
    )
    after = {
        "delete": f"PATH={case.top}/bin:$PATH {case.shim} --root {case.top}/state delete --force "
        f"{case.id}",
        "recover": f'{sys.executable} -c "{code}"',
    }[cleaner]
    (case.top / "bin").mkdir()
    (case.top / "bin/runc").symlink_to(case.top / "runc")
    with case.start("hang", after=after) as process:
        pid = _wait_until_restoring(case)
        worker = _worker_of(pid)
        os.kill(pid, signal.SIGSTOP)  # so that it sees nothing of the worker's end
        os.kill(worker, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        output = output_of(process)
    assert case.read("status") == "137\n"
    assert case.calls[:2] == ["restore", "delete"]
    case.assert_nothing_left(mounted=False)
    if cleaner == "recover":
        assert f"took back the unfinished restore of container {case.id}" in output


def change(spec: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split("/")
    for name in parents:
        spec = spec.setdefault(name, {})
    spec[last] = value


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("process/noNewPrivileges", True, "security profile differs"),
        ("process/terminal", True, "terminal"),
        ("mounts", [], "no mount at /dev/shm"),
        ("mounts", [{"destination": "/dev/shm", "type": "tmpfs"}], "type bind"),
        ("mounts", [{"destination": "/dev/shm", "type": "bind", "source": "/etc/passwd"}],
         "dir in the snapshot and a file"),
        ("linux/cgroupsPath", "/shared", "group of its own"),
    ],
)  # fmt: skip
def test_a_request_that_does_not_fit_starts_cold_untouched(
    case: Case, path: str, value: object, reason: str
) -> None:
    case.prepare()
    change(case.spec, path, value)
    (case.bundle / "config.json").write_text(json.dumps(case.spec))
    with case.start("ok") as process:
        output_of(process)
    result = plan.read_result(case.plan, case.run)
    assert result is not None
    assert (result.outcome, result.kind, case.calls) == ("cold", "unfit", ["create"])
    assert reason in result.reason


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [("io.kubernetes.cri.sandbox-id", "pod sandbox sandbox"),
     ("io.kubernetes.cri.container-name", "container main")],
)  # fmt: skip
def test_a_plan_of_another_container_is_refused(case: Case, annotation: str, reason: str) -> None:
    case.spec["annotations"][annotation] = "other"
    status, result = case.create("ok")
    assert (status, result, case.calls) == (1, None, [])
    assert reason in json.loads(case.read("log.json"))["msg"]
    assert not (case.run / "plans" / case.plan / "claimed").exists()


def test_a_plan_serves_once(case: Case) -> None:
    case.prepare()
    plan.claim(case.plan, case.run)
    with case.start("ok") as process:
        output_of(process)
    assert (case.read("status"), case.calls) == ("1\n", [])
    assert "a plan serves once" in json.loads(case.read("log.json"))["msg"]


def test_a_hostile_layer_is_broken_and_leaves_nothing(case: Case) -> None:
    case.order["rootfs_diff"] = (
        Tar(case.top / "bad.tar").add("good", b"1").link("up", "..").add("up/x", b"2").done()
    )
    status, result = case.create("ok")
    assert (status, case.calls) == (0, ["create"])
    assert result is not None
    assert (result.outcome, result.kind) == ("cold", "broken")
    case.assert_nothing_left()


def test_an_altered_manifest_is_broken(case: Case) -> None:
    case.prepare()
    with (case.top / "snap/manifest.json").open("a") as file:
        file.write("\n")
    with case.start("ok") as process:
        output_of(process)
    result = plan.read_result(case.plan, case.run)
    assert result is not None
    assert (result.outcome, result.kind) == ("cold", "broken")
    assert "altered" in result.reason


def test_a_snapshot_without_files_leaves_the_root_filesystem_alone(case: Case) -> None:
    case.order |= {"rootfs_diff": None, "shm": None}
    status, result = case.create("fail")
    assert status == 0
    assert result is not None
    assert result.outcome == "cold"
    case.assert_nothing_left()
