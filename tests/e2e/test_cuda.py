"""Containers with a GPU, on the fake driver: captured and restored through containerd and CRIU.

The driver (tests/fakegpu) has the states and refusals of NVIDIA's; while a process has its device
open, CRIU does not dump it, and what it computes on the GPU it checks at every step.
"""

from __future__ import annotations

import itertools
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import fakegpu
from tests.e2e.conftest import WEB
from tests.e2e.pods import Running
from tests.e2e.rpc import RpcError, reason
from tests.e2e.stack import RUN, Stack
from tests.e2e.test_killed import KILLS
from tests.fakegpu import HOME, Gpu
from tests.fakegpu.node import PROGRAM, Call, Gpus, stands, steps, wait_for_steps

pytestmark = pytest.mark.node

SECOND = 1e9


@pytest.fixture(scope="module")
def installed(stack: Stack) -> Iterator[Gpus]:
    gpus = Gpus(stack.node)
    yield gpus
    gpus.remove()


@pytest.fixture
def gpus(installed: Gpus) -> Iterator[Gpus]:
    installed.clear()
    yield installed
    installed.clear()


@pytest.fixture(scope="module")
def three(stack: Stack, installed: Gpus) -> str:
    """The name of a snapshot of three programs on the first GPU."""
    installed.clear()
    pod = start(stack, installed, "--children", "2")
    stack.capture(pod, "three")
    stack.pods.remove(pod)
    return "three"


def start(stack: Stack, gpus: Gpus, *arguments: str, users: int = 0) -> Running:
    pod = stack.pods.start(gpus.pod(*arguments), ready=False)
    children = int(arguments[arguments.index("--children") + 1]) if arguments[:1] else 0
    wait_for_steps(pod, users=users or children + 1)
    return pod


def restore(stack: Stack, gpus: Gpus, name: str, gpu: int = 0) -> Running:
    """A pod from the snapshot of three, or an error."""
    pod = gpus.pod("--children", "2", gpus=(gpu,)).restoring(name, on_failure="fail")
    return stack.pods.start(pod, ready=False)


def of(log: list[Call], name: str) -> list[Call]:
    return [call for call in log if call.name == name]


def overlap(calls: list[Call]) -> bool:
    """Whether all of them were under way at one moment."""
    return max(call.begin for call in calls) < min(call.end for call in calls)


# -- capture ---------------------------------------------------------------------------------


def test_capture_locks_all_then_checkpoints_all_at_once(stack: Stack, gpus: Gpus) -> None:
    pod = start(stack, gpus, "--children", "2")
    gpus.delays("0 100 400 400 0")
    with stack.leaves_nothing():
        told = json.loads(stack.capture(pod, "order", "-o", "json").stdout)
        stack.podthaw("remove", "e2e/order")
        stack.podthaw("gc")
    log = gpus.log()
    assert [call.result for call in log] == [0] * 12
    assert sorted({call.pid for call in log}) == sorted({step.pid for step in steps(pod)})
    for name in ("lock", "checkpoint", "restore"):
        assert len(of(log, name)) == 3
        assert overlap(of(log, name)), name
    order = ("lock", "checkpoint", "restore", "unlock")
    for before, after in itertools.pairwise(order):
        last = max(call.end for call in of(log, before))
        assert last <= min(call.begin for call in of(log, after)), (before, after)
    assert told["phases"]["cuda_checkpoint"] >= 0.4
    assert told["phases"]["cuda_resume"] >= 0.4
    assert told["frozen_seconds"] >= 0.9
    wait_for_steps(pod, users=3)


def test_what_is_computed_goes_on_where_it_was(stack: Stack, gpus: Gpus) -> None:
    pod = start(stack, gpus)
    stack.capture(pod, "one")
    wait_for_steps(pod)
    numbers = [step.number for step in steps(pod)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_only_a_child_uses_the_gpu(stack: Stack, gpus: Gpus) -> None:
    pod = start(stack, gpus, "--children", "1", "--parent-idle", users=1)
    stack.capture(pod, "child")
    assert {call.pid for call in gpus.log()} == {step.pid for step in steps(pod)}
    assert 1 not in {call.pid for call in gpus.log()}
    wait_for_steps(pod)
    asked = gpus.pod("--children", "1", "--parent-idle").restoring("child", on_failure="fail")
    wait_for_steps(stack.pods.start(asked, ready=False))


def test_stop_leaves_no_process_to_bring_back(stack: Stack, gpus: Gpus) -> None:
    pod = start(stack, gpus)
    stack.capture(pod, "stopped-gpu", "--stop")
    assert pod.wait_exit()["exit_code"] == 137
    assert {call.name for call in gpus.log()} == {"lock", "checkpoint"}
    asked = gpus.pod().restoring("stopped-gpu", on_failure="fail")
    wait_for_steps(stack.pods.start(asked, ready=False))


def test_the_manifest_tells_of_the_gpu(stack: Stack, gpus: Gpus, three: str) -> None:
    (gpu,) = stack.inspect(f"e2e/{three}")["manifest"]["gpu"]
    assert gpu["uuid"] == gpus.all[0].uuid
    assert gpu["model"] == "NVIDIA Fake 100"
    assert gpu["driver"] == "580.159.04"
    assert (gpu["capability"], gpu["ecc"], gpu["mig"]) == ("9.0", "on", "off")
    assert gpu["memory"] == 1024 << 20
    assert gpu["used"] == 3 << 20


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
def test_the_second_of_three_fails(stack: Stack, gpus: Gpus, call: str) -> None:
    pod = start(stack, gpus, "--children", "2")
    second = sorted({step.pid for step in steps(pod)})[1]
    gpus.fault(call, "error 999 0 1", pid=second)
    with stack.leaves_nothing():
        result = stack.capture(pod, "failed", check=False)
    assert result.status != 0
    assert f"process {second} (" in result.stderr
    assert "CUDA_ERROR_UNKNOWN" in result.stderr
    wait_for_steps(pod, users=3)
    unlocked = {one.pid for one in of(gpus.log(), "unlock") if one.result == 0}
    assert len(unlocked) == (2 if call == "lock" else 3)
    assert stack.podthaw("inspect", "e2e/failed", check=False).status != 0


def test_managed_memory_is_told(stack: Stack, gpus: Gpus) -> None:
    pod = stack.pods.start(gpus.pod("--managed"), ready=False)
    wait_for_steps(pod)
    result = stack.capture(pod, "managed", check=False)
    assert "managed memory" in result.stderr
    wait_for_steps(pod)


def test_a_memory_limit_without_room_for_the_gpus_memory(stack: Stack, gpus: Gpus) -> None:
    """The kernel would kill the process in the middle of the checkpoint.

    The fake GPU's memory counts against the limit as well.
    """
    limited = {"resources": {"memory_limit_in_bytes": 100 << 20}}
    pod = stack.pods.start(gpus.pod("--mib", "64", **limited), ready=False)
    wait_for_steps(pod)
    result = stack.capture(pod, "limited", check=False)
    assert "64.0 MiB of GPU memory" in result.stderr
    assert gpus.log() == []
    wait_for_steps(pod)


def test_work_that_does_not_end(stack: Stack, gpus: Gpus) -> None:
    """What the driver answers then; that its lock waits as long as it is told is a unit test."""
    pod = start(stack, gpus)
    gpus.fault("lock", "error 600 0 1")
    result = stack.capture(pod, "busy", check=False)
    assert result.status != 0
    assert "did not come to an end in time (CUDA_ERROR_NOT_READY" in result.stderr
    wait_for_steps(pod)


@pytest.mark.parametrize("call", ["lock", "checkpoint", "restore", "unlock"])
def test_a_driver_that_hangs_at_a_capture(stack: Stack, gpus: Gpus, call: str) -> None:
    """The processes run on: what hangs is given up, and asked anew by another helper."""
    pod = start(stack, gpus, "--children", "1")
    gpus.fault(call, "hang 0 0 1")
    # Time for CRIU where it comes before; the driver is given as long as its memory needs then.
    timeout = "5s" if call in ("lock", "checkpoint") else "30s"
    with stack.leaves_nothing():
        result = stack.capture(pod, "hung", "--timeout", timeout, check=False)
    assert result.status != 0
    assert f"did not answer in time ({call} of process" in result.stderr
    wait_for_steps(pod, users=2)


def test_a_process_that_the_driver_loses(stack: Stack, gpus: Gpus) -> None:
    pod = start(stack, gpus, "--children", "1")
    gpus.fault("checkpoint", "lost 0 0 1", pid=1)
    result = stack.capture(pod, "lost", check=False)
    assert "does not run on" in result.stderr
    assert "gave up on it" in result.stderr


def test_a_capture_that_is_killed_at_any_moment(stack: Stack, gpus: Gpus) -> None:
    """SIGKILL while the driver locks, checkpoints, CRIU dumps, or the GPU is given back."""
    pod = start(stack, gpus, "--children", "1")
    gpus.delays("0 150 150 150 150")
    seen: set[str] = set()
    with stack.leaves_nothing():
        for tenths in (5, 7, 8, 9, 10, 11, 12, 14, 16, 18):
            stack.node.exec(
                [
                    "timeout",
                    "-s",
                    "KILL",
                    f"{tenths / 10}",
                    "/opt/podthaw/bin/podthaw",
                    "capture",
                    f"e2e/{pod.name}",
                    "--name",
                    "killed-gpu",
                ],
                check=False,
            )
            wait_for_steps(pod, users=2)
            seen |= {call.name for call in gpus.log()}
            stack.podthaw("remove", "e2e/killed-gpu", check=False)
        stack.podthaw("gc", check=False)
    assert seen == {"lock", "checkpoint", "restore", "unlock"}
    gpus.delays()
    stack.capture(pod, "killed-gpu")
    wait_for_steps(pod, users=2)


def test_a_dump_that_fails_gives_the_gpu_back(stack: Stack, gpus: Gpus) -> None:
    """CRIU is given up: it has no time left when the driver is done."""
    pod = start(stack, gpus, "--children", "1")
    gpus.delays("0 0 1200 0 0")
    with stack.leaves_nothing():
        result = stack.capture(pod, "late-gpu", "--timeout", "1800ms", check=False)
        if result.status == 0:  # it was quick enough
            stack.podthaw("remove", "e2e/late-gpu")
            stack.podthaw("gc")
    wait_for_steps(pod, users=2)
    assert len(of(gpus.log(), "unlock")) == 2


@pytest.mark.parametrize("old", [False, True])
def test_a_driver_that_cannot(stack: Stack, gpus: Gpus, old: bool) -> None:  # noqa: FBT001
    pod = start(stack, gpus)
    if old:
        gpus.install(old=True)
    else:
        gpus.remove()
    try:
        with stack.leaves_nothing():
            result = stack.capture(pod, "old", check=False)
            checked = stack.podthaw("capture", f"e2e/{pod.name}", "--check", check=False)
    finally:
        gpus.install()
    for text in (result.stderr, checked.stdout + checked.stderr):
        assert ("570 or newer" if old else "no NVIDIA driver") in text
    wait_for_steps(pod)


def test_checkpoint_call_of_a_container_with_a_gpu(
    stack: Stack, gpus: Gpus, tmp_path: Path
) -> None:
    pod = start(stack, gpus, "--children", "1")
    path = "/var/lib/kubelet/checkpoints/gpu.tar"
    stack.node.exec(["mkdir", "-p", "/var/lib/kubelet/checkpoints"])
    stack.cri.ask("CheckpointContainer", container_id=pod.id(), location=path, timeout=60)
    wait_for_steps(pod, users=2)
    assert len(of(gpus.log(), "unlock")) == 2
    local = tmp_path / "gpu.tar"
    stack.node.get(path, local)
    with tarfile.open(local) as archive:
        file = archive.extractfile("checkpoint/cuda.json")
        assert file is not None
        assert len(json.load(file)["processes"]) == 2
    stack.node.exec(["rm", path])


# -- restore ---------------------------------------------------------------------------------


def test_another_gpu(stack: Stack, gpus: Gpus, three: str) -> None:
    gpus.delays("0 0 0 400 100")
    with stack.leaves_nothing():
        pod = restore(stack, gpus, three, gpu=1)
        new = wait_for_steps(pod, users=3)
        assert {step.gpu for step in new} == {gpus.all[1].uuid}
        assert min(step.number for step in new) > 1
        log = gpus.log()
        assert [len(of(log, name)) for name in ("restore", "unlock")] == [3, 3]
        assert overlap(of(log, "restore"))
        assert max(one.end for one in of(log, "restore")) < of(log, "unlock")[0].begin
        assert pod.exec(["ls", "/dev/nvidia0"])[0] != 0
        assert pod.exec(["sh", "-c", ": < /dev/nvidia1"])[0] == 0
        script = "mknod /tmp/old c 10 229; : < /tmp/old"  # the number of the GPU of the capture
        status, _, stderr = pod.exec(["sh", "-c", script])
        assert status != 0
        assert "not permitted" in stderr
        stack.pods.remove(pod)


def test_the_same_gpu(stack: Stack, gpus: Gpus, three: str) -> None:
    pod = restore(stack, gpus, three)
    assert {step.gpu for step in wait_for_steps(pod, users=3)} == {gpus.all[0].uuid}


def test_processes_are_locked_until_start(stack: Stack, gpus: Gpus, three: str) -> None:
    """``create`` ends with locked processes; the runtime's ``start`` lets them go."""
    gpus.fault("unlock", "error 999 0 1")
    pod = gpus.pod("--children", "2").restoring(three, on_failure="fail")
    with stack.leaves_nothing():
        running, error = stack.pods.try_start(pod)
        assert "has not unlocked process" in error
        stack.pods.remove(running)
    calls = of(gpus.log(), "unlock")
    assert len([call for call in calls if call.result == 0]) == 2


def test_a_restore_that_fails_starts_cold(stack: Stack, gpus: Gpus, three: str) -> None:
    """The second of three: the first two are thrown away with the whole restore."""
    gpus.fault("restore", "error 999 1 1")
    with stack.leaves_nothing():
        pod = stack.pods.start(gpus.pod("--children", "2").restoring(three), ready=False)
        new = wait_for_steps(pod, users=3)
        assert min(step.number for step in steps(pod)) == 1
        assert len({step.pid for step in new}) == 3
        stack.pods.remove(pod)
    assert of(gpus.log(), "unlock") == []


@pytest.mark.parametrize("fault", ["error 2 0 1", "lost 0 0 1"])
def test_a_restore_that_fails_is_told(stack: Stack, gpus: Gpus, three: str, fault: str) -> None:
    gpus.fault("restore", fault)
    pod = gpus.pod("--children", "2").restoring(three, on_failure="fail")
    with stack.leaves_nothing():
        running, error = stack.pods.try_start(pod)
        stack.pods.remove(running)
    assert "has not restored process" in error
    assert ("too little free memory" if "2" in fault else "UNKNOWN") in error
    # It is no fault of the snapshot:
    gpus.clear()
    wait_for_steps(restore(stack, gpus, three), users=3)


def test_a_driver_that_hangs_at_a_restore(stack: Stack, gpus: Gpus, three: str) -> None:
    """The start is not held up beyond its deadline; the container starts cold."""
    pod = gpus.pod("--children", "2").restoring(three)
    with stack.leaves_nothing():
        running = stack.pods.sandbox(pod)
        stack.pods.create(running, pod.containers[0])
        shorter = "for p in /run/podthaw/plans/*/plan.json; do "
        shorter += 'sed -i \'s/"restore_timeout": [0-9.]*/"restore_timeout": 4.0/\' $p; done'
        stack.node.exec(["sh", "-c", shorter])
        gpus.fault("restore", "hang 0 0 -1")
        stack.pods.start_container(running, "main")
        assert 3 < running.start_seconds["main"] < 15
        wait_for_steps(running, users=3)
        assert min(step.number for step in steps(running)) == 1
        result = stack.node.exec(["sh", "-c", "cat /run/podthaw/plans/*/result.json"]).stdout
        assert "did not answer in time (restore of process" in result
        stack.pods.remove(running)


@pytest.mark.parametrize("who", ["worker", "both"])
def test_a_restore_that_is_killed_at_the_driver(
    stack: Stack, gpus: Gpus, three: str, who: str
) -> None:
    gpus.delays("0 0 0 3000 0")
    pod = gpus.pod("--children", "2").restoring(three)
    there = f"grep -q 'restoring.: true' {RUN}/restores/* 2>/dev/null && pgrep -f '^{PROGRAM}'"
    script = f"for i in $(seq 400); do {there} >/dev/null && break; sleep 0.02; done; sleep 0.7; "
    script += KILLS[who]
    with stack.leaves_nothing():
        running = stack.pods.sandbox(pod)
        stack.pods.create(running, pod.containers[0])
        killer = threading.Thread(target=stack.node.exec, args=(["sh", "-c", script],))
        killer.start()
        error = ""
        try:
            stack.pods.start_container(running, "main")
        except RpcError as failed:
            error = reason(failed)
        killer.join()
        if who == "worker":
            assert error == ""
            gpus.delays()
            wait_for_steps(running, users=3)
            assert min(step.number for step in steps(running)) == 1
        else:
            assert error
        code = "import sys; sys.path.insert(0, '/opt/podthaw/lib'); from shim import restore; "
        stack.node.exec(["python3", "-c", code + "restore.recover()"])
        stack.pods.remove(running)


def unfit_model(gpus: Gpus) -> None:
    gpus.write(Gpu(number=0, model="NVIDIA Other 9"))


def unfit_memory(gpus: Gpus) -> None:
    gpus.write(Gpu(number=0, memory=512, free=500))


def unfit_free(gpus: Gpus) -> None:
    gpus.write(Gpu(number=0, free=2))


def unfit_driver(gpus: Gpus) -> None:
    gpus.nvml(driver="580.95.05")


def unfit_ecc(gpus: Gpus) -> None:
    gpus.nvml(ecc=0)


def unfit_mig(gpus: Gpus) -> None:
    gpus.nvml(mig=1)


def unfit_absent(gpus: Gpus) -> None:
    gpus.write()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (unfit_model, ("wanted 'NVIDIA Fake 100'", "found 'NVIDIA Other 9'")),
        (unfit_memory, ("wanted 1.0 GiB of memory", "found 512 MiB")),
        (unfit_free, ("wanted 3 MiB of free memory", "found 2 MiB")),
        (unfit_driver, ("wanted driver 580.159.04", "found 580.95.05")),
        (unfit_ecc, ("wanted ECC on", "found off")),
        (unfit_mig, ("wanted MIG off", "found on")),
        (unfit_absent, ("NVIDIA Fake 100", "finds none on this host")),
    ],
)
def test_a_gpu_that_does_not_fit(
    stack: Stack, gpus: Gpus, three: str, make: Callable[[Gpus], None], words: tuple[str, ...]
) -> None:
    make(gpus)
    pod = gpus.pod("--children", "2").restoring(three, on_failure="fail")
    with stack.leaves_nothing():
        running, error = stack.pods.try_start(pod)
        stack.pods.remove(running)
    for word in words:
        assert word.replace("'", "") in error.replace("'", ""), error
    assert gpus.log() == []


def test_another_number_of_gpus(stack: Stack, gpus: Gpus, three: str) -> None:
    pod = gpus.pod("--children", "2", gpus=(0, 1)).restoring(three, on_failure="fail")
    with stack.leaves_nothing():
        running, error = stack.pods.try_start(pod)
        stack.pods.remove(running)
    assert "wants 1 GPU, found 2 GPUs" in error


def test_a_restored_container_is_captured_again(stack: Stack, gpus: Gpus, three: str) -> None:
    first = restore(stack, gpus, three, gpu=1)
    wait_for_steps(first, users=3)
    stack.capture(first, "again-gpu")
    wait_for_steps(first, users=3)
    reached = min(step.number for step in steps(first)[-3:])
    second = restore(stack, gpus, "again-gpu", gpu=0)
    new = wait_for_steps(second, users=3)
    assert {step.gpu for step in new} == {gpus.all[0].uuid}
    assert max(step.number for step in new) > reached / 2
    wait_for_steps(first, users=3)


def test_a_hook_finds_its_program_running(stack: Stack, gpus: Gpus, three: str) -> None:
    """A hook may need the GPU: with one the processes run on before it."""
    pod = gpus.pod("--children", "2").restoring(
        three, on_failure="fail", after_restore="exec:/bin/sh -c 'sleep 0.5'"
    )
    running = stack.pods.start(pod, ready=False)
    wait_for_steps(running, users=3)
    assert len(of(gpus.log(), "unlock")) == 3


def test_by_the_program_cuda_checkpoint(stack: Stack, gpus: Gpus) -> None:
    """The alternative of the configuration: slower, and the same to the user."""
    program, dropin = f"{HOME}/cuda-checkpoint", "/etc/containerd/conf.d/50-podthaw.toml"
    stack.node.write(program, fakegpu.checkpoint().read_bytes(), mode=0o755)

    def configure(old: str, new: str) -> None:
        stack.node.exec(["sed", "-i", f's|cuda = "{old}"|cuda = "{new}"|', dropin])
        stack.node.kill("proxy")
        stack.node.start_proxy()

    pod = start(stack, gpus, "--children", "1")
    configure("driver", program)
    try:
        gpus.remove()
        stack.node.write("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", fakegpu.nvml().read_bytes())
        stack.capture(pod, "by-program")
        wait_for_steps(pod, users=2)
        asked = gpus.pod("--children", "1", gpus=(1,)).restoring("by-program", on_failure="fail")
        new = wait_for_steps(stack.pods.start(asked, ready=False), users=2)
        assert {step.gpu for step in new} == {gpus.all[1].uuid}
        assert {call.name for call in gpus.log()} == {"lock", "checkpoint", "restore", "unlock"}
    finally:
        gpus.install()
        configure(program, "driver")


# -- everybody else --------------------------------------------------------------------------


def test_ordinary_pods_never_meet_the_driver(stack: Stack, gpus: Gpus) -> None:
    """Not even one that would hang at the first question."""
    for call in ("state", "init", "lock"):
        gpus.fault(call, "hang 0 0 -1")
    pod = stack.pods.start(WEB)
    stack.capture(pod, "ordinary")
    stack.pods.start(WEB.restoring("ordinary", on_failure="fail"))
    assert gpus.log() == []


def test_a_gpu_that_is_not_used_is_the_new_one_after_a_restore(stack: Stack, gpus: Gpus) -> None:
    def pod(gpu: int, *arguments: str) -> Running:
        made = gpus.pod(*arguments, gpus=(gpu,))
        asked = made.restoring("unused", on_failure="fail") if gpu else made
        return stack.pods.start(asked, ready=False)

    first = pod(0, "--parent-idle", "--forever")
    stack.capture(first, "unused")
    assert gpus.log() == []
    second = pod(1, "--parent-idle", "--forever")
    assert second.exec(["sh", "-c", ": < /dev/nvidia1"])[0] == 0
    assert second.exec(["ls", "/dev/nvidia0"])[0] != 0


def test_a_locked_program_stands(stack: Stack, gpus: Gpus) -> None:
    """The fake driver's own lock, through the driver client on the node."""
    pod = start(stack, gpus)
    code = (
        "import sys, time; from shim.cuda.helper import Helper\n"
        "with Helper() as h: print(h.ask(sys.argv[1], [int(sys.argv[2])], time.monotonic() + 5,"
        " seconds=2))"
    )
    pid = json.loads(pod.status(verbose=True)["info"]["info"])["pid"]
    for call, expected in (("lock", True), ("unlock", False)):
        command = ["env", "PYTHONPATH=/opt/podthaw/lib", "python3", "-c", code, call, str(pid)]
        stack.node.exec(command)
        assert stands(pod) is expected
