"""Memory that is mapped from the snapshot: shared, each container's own once written, and exact.

That a program sees no difference is test_inside.py's (tests/e2e/workloads/mapped.py); here is what
can be seen from outside.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.damage import republish, tamper
from tests.e2e.pods import Container, Pod, Running
from tests.e2e.stack import Stack, is_cold

pytestmark = pytest.mark.node

MIB = 64
BIG = Pod(
    name="big",
    containers=[Container(args=("-B", "-u", "-m", "workloads.runner", "big-memory"))],
)
"""A process with 64 MiB of random memory, besides the small server."""

MAPPINGS = r"""
import json, os, re
found = {"mapped": 0, "private": 0, "shared": 0}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        text = open(f"/proc/{pid}/smaps").read()
    except OSError:
        continue
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text):
        if "/.podthaw-pages" in block.split("\n")[0]:
            value = lambda key: int(re.search(rf"{key}:\s+(\d+)", block)[1])
            found["mapped"] += value("Size")
            found["private"] += value("Anonymous")
            found["shared"] += value("Rss") - value("Anonymous")
print(json.dumps(found))
"""

MEMORY = r"""
import hashlib, os, re, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    for line in open(f"/proc/{pid}/maps") if pid != str(os.getpid()) else ():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if end - start == 64 << 20:
            with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
                if sys.argv[1:]:
                    os.pwrite(memory.fileno(), sys.argv[1].encode(), start + 12345678)
                data = b"".join(os.pread(memory.fileno(), 1 << 20, start + (n << 20))
                                for n in range(64))
            print(hashlib.sha256(data).hexdigest())
"""


def mappings(pod: Running) -> dict[str, int]:
    """KiB of the mapped memory of all processes of a pod's container, by what became of it."""
    status, output, errors = pod.exec(["python3", "-c", MAPPINGS])
    assert status == 0, errors
    value: dict[str, int] = json.loads(output)
    return value


def content(pod: Running, write: str = "") -> str:
    """The digest of the 64 MiB, after something was written there behind the program's back."""
    status, output, errors = pod.exec(["python3", "-c", MEMORY, *([write] if write else [])])
    assert status == 0, errors
    assert len(output.split()) == 1, output
    return output.strip()


def mode(stack: Stack, name: str) -> str:
    """How the snapshot's memory comes back, as its manifest says."""
    manifest = json.loads(stack.node.read(f"{stack.snapshot(f'e2e/{name}')}/manifest.json"))
    return str(manifest["memory"])


@pytest.fixture(scope="module")
def original(stack: Stack) -> Iterator[Running]:
    """The program that was captured as ``big``, and that runs on."""
    pod = stack.pods.start(BIG)
    pod.kept = True
    stack.capture(pod, "big")
    yield pod
    stack.pods.remove(pod)


def restored(stack: Stack, name: str, pod: Pod = BIG) -> Running:
    running = stack.pods.start(pod.restoring(name, on_failure="fail"))
    assert not is_cold(running)
    return running


def test_mapped_is_the_default(stack: Stack, original: Running) -> None:
    assert mode(stack, "big") == "mapped"
    assert "is whole" in stack.podthaw("verify", "e2e/big").stdout
    pod = restored(stack, "big")
    assert mappings(pod)["mapped"] >= MIB << 10
    assert mappings(original)["mapped"] == 0
    answer = pod.observe()["big-memory"]
    assert answer["before"] == answer["now"] == content(original)


def test_replicas_share_what_they_do_not_write(stack: Stack, original: Running) -> None:
    first, second = restored(stack, "big"), restored(stack, "big")
    before = content(first)
    assert content(second) == before == content(original)
    for pod in (first, second):
        pod.observe()  # reads all of it
        found = mappings(pod)
        assert found["shared"] >= MIB << 10, found
        assert found["private"] <= found["mapped"] * 0.15, found
    changed = content(first, "only here")
    assert changed != before
    assert [content(pod) for pod in (first, second, original)] == [changed, before, before]
    assert content(restored(stack, "big")) == before
    assert stack.podthaw("verify", "e2e/big").status == 0


def test_a_forked_tree_is_stored_once(stack: Stack) -> None:
    arguments = ("-B", "-u", "-m", "workloads.runner", "big-tree")
    asked = Pod(name="tree", containers=[Container(args=arguments)])
    original = stack.pods.start(asked)
    stack.capture(original, "tree")
    disk = stack.node.exec(["du", "-sm", stack.snapshot("e2e/tree")]).stdout.split()[0]
    assert int(disk) < 1.5 * MIB
    pod = restored(stack, "tree", asked)
    found = mappings(pod)
    assert found["mapped"] >= 4 * MIB << 10
    assert found["private"] < MIB << 8
    answer = pod.observe()["big-tree"]
    assert answer["children"] == [answer["before"]] * 3
    assert answer == original.observe()["big-tree"]


def test_what_the_container_sees_of_it(stack: Stack, original: Running) -> None:
    """One read-only file, which only its root can read."""
    assert original.exec(["ls", "/.podthaw-pages"])[0] != 0
    pod = restored(stack, "big")
    status, output, _ = pod.exec(["sh", "-c", "stat -c '%a %u' /.podthaw-pages; mount"])
    assert status == 0
    assert output.startswith("600 0\n")
    (line,) = [one for one in output.splitlines() if " on /.podthaw-pages " in one]
    assert {"ro", "nosuid", "nodev"} <= set(re.split(r"[(),]", line))
    assert pod.exec(["sh", "-c", ": > /.podthaw-pages"])[0] != 0
    assert pod.exec(["rm", "/.podthaw-pages"])[0] != 0


def seccomp(pod: Running) -> list[int]:
    """Mode and number of filters of the first process."""
    _, output, _ = pod.exec(["grep", "^Seccomp", "/proc/1/status"])
    return [int(line.split()[1]) for line in output.splitlines()]


@pytest.mark.parametrize("profile", ["Unconfined", "RuntimeDefault"])
def test_the_guard_is_one_filter_more(stack: Stack, profile: str) -> None:
    """And only one, also in a copy of a copy; what `exec` starts has none of it."""
    security = {"seccomp": {"profile_type": profile}}
    asked = replace(BIG, containers=[replace(BIG.containers[0], security=security)])
    pod = stack.pods.start(asked)
    _, filters = seccomp(pod)
    for generation in range(2):
        stack.capture(pod, f"{profile.lower()}-{generation}")
        pod = restored(stack, f"{profile.lower()}-{generation}", asked)
        assert seccomp(pod) == [2, filters + 1]
    inside = pod.exec(["grep", "^Seccomp_filters", "/proc/self/status"])[1]
    assert inside.split()[1] == str(filters)
    stack.capture(pod, f"{profile.lower()}-flat", "--memory", "eager")
    assert seccomp(restored(stack, f"{profile.lower()}-flat", asked))[-1] == filters


END_GUARD = r"""
import os, signal, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
    except OSError:
        continue
    program = [word for word in words if b"from shim.guard" in word and b"os.kill" not in word]
    if program and sys.argv[1].encode() in words:
        os.kill(int(pid), signal.SIGKILL)
        print(pid)
"""


def test_without_its_guard_calls_fail_and_memory_is_right(stack: Stack) -> None:
    """And a copy of such a container has a guard again."""
    arguments = ("-B", "-u", "-m", "workloads.runner", "mapped-advice")
    asked = Pod(name="advice", containers=[Container(args=arguments)])
    first = stack.pods.start(asked)
    stack.capture(first, "guarded")
    pod = restored(stack, "guarded", asked)
    ended = stack.node.exec(["python3", "-c", END_GUARD, pod.id()]).stdout.split()
    assert len(ended) == 1
    stack.capture(pod, "guarded-again")
    copy = restored(stack, "guarded-again", asked)
    expected = first.observe()["mapped-advice"]
    assert copy.observe()["mapped-advice"] == expected
    seen = pod.observe()["mapped-advice"]
    assert seen["DONTNEED"] == ["OSError 38", ["3 own", "1 other", "12 own"]]
    assert seen["rest"] == expected["rest"]
    stack.pods.remove(pod)


def test_nothing_stays_of_a_restored_container(stack: Stack, original: Running) -> None:
    assert original.ids
    with stack.leaves_nothing():
        stack.pods.remove(restored(stack, "big"))


def test_generations(stack: Stack, original: Running) -> None:
    """A restored program is captured, and its copy again, while and after the snapshots go."""
    stack.capture(original, "first")
    pod, name, seen = original, "first", content(original)
    for number, following in enumerate(("second", "third", "fourth")):
        pod = restored(stack, name)
        assert content(pod) == seen
        seen = content(pod, f"generation {number}")
        if number == 1:  # before the capture of what is mapped from it
            stack.podthaw("remove", "--force", "--in-use", f"e2e/{name}")
        stack.capture(pod, following)
        if number != 1:
            refused = stack.podthaw("remove", f"e2e/{name}", check=False)
            assert "is in use" in refused.stderr
            stack.podthaw("remove", "--force", "--in-use", f"e2e/{name}")
        assert mode(stack, following) == "mapped"
        assert stack.podthaw("verify", f"e2e/{following}").status == 0
        assert content(pod) == seen
        listed = stack.node.exec(
            ["sh", "-c", "tar -tf $0/rootfs.tar || :", stack.snapshot(f"e2e/{following}")]
        ).stdout
        assert "podthaw" not in listed
        assert pod.observe()["big-memory"]["now"] == seen
        name = following
    last = restored(stack, name)
    assert content(last) == seen
    assert last.observe()["big-memory"]["now"] == seen


def test_a_restored_program_is_captured_eagerly(stack: Stack, original: Running) -> None:
    assert original.ids
    pod = restored(stack, "big")
    seen = content(pod, "then copied")
    stack.capture(pod, "flat", "--memory", "eager")
    assert mode(stack, "flat") == "eager"
    copy = restored(stack, "flat")
    assert content(copy) == seen
    assert mappings(copy)["mapped"] == 0
    assert copy.exec(["ls", "/.podthaw-pages"])[0] != 0


def test_memory_that_is_copied(stack: Stack, original: Running) -> None:
    """As the flag says, or the node's configuration."""
    stack.capture(original, "eager", "--memory", "eager")
    assert mode(stack, "eager") == "eager"
    pod = restored(stack, "eager")
    assert content(pod) == content(original)
    assert mappings(pod)["mapped"] == 0
    table = 'version = 3\n[plugins."dev.podthaw.v1"]\nmemory = "eager"\n'
    stack.node.write("/run/eager.toml", table)
    command = ["--config", "/run/eager.toml", "capture", f"e2e/{original.name}", "--name", "keyed"]
    stack.podthaw(*command)
    assert mode(stack, "keyed") == "eager"


def test_a_snapshot_of_the_format_before_mapped_memory(stack: Stack, original: Running) -> None:
    stack.capture(original, "before", "--memory", "eager")
    older = """
manifest['format'] = 1
del manifest['memory']
for artifact in manifest['artifacts']:
    del artifact['holes']
"""
    republish(stack, "before", "format-1", code=older)
    assert content(restored(stack, "format-1")) == content(original)


def test_stop_captures_mapped_memory_before_the_end(stack: Stack) -> None:
    pod = stack.pods.start(BIG)
    seen = content(pod)
    stack.capture(pod, "ended", "--stop")
    assert pod.wait_exit()["exit_code"] == 137
    assert mode(stack, "ended") == "mapped"
    assert content(restored(stack, "ended")) == seen


def test_the_standard_tar_holds_all_memory(stack: Stack, original: Running, tmp_path: Path) -> None:
    """A reader of it, as containerd's own restore, knows nothing of mapped memory."""
    assert original.ids
    pod = restored(stack, "big")
    path = "/var/lib/mapped.tar"
    stack.cri.ask("CheckpointContainer", container_id=pod.id(), location=path, timeout=60)
    stack.node.get(path, tmp_path / "mapped.tar")
    stack.node.exec(["rm", path])
    with tarfile.open(tmp_path / "mapped.tar") as archive:
        sizes = {member.name: member.size for member in archive.getmembers()}
        mounts = archive.extractfile(next(name for name in sizes if "/mountpoints-" in name))
        assert mounts is not None
        assert b".podthaw-pages" not in mounts.read()
        files = archive.extractfile("checkpoint/files.img")
        assert files is not None
        assert b".podthaw-pages" not in files.read()
    pages = [size for name, size in sizes.items() if name.startswith("checkpoint/pages-")]
    assert sum(pages) >= MIB << 20
    assert not [name for name in sizes if "podthaw" in name]


def test_a_mount_of_the_programs_own_there(stack: Stack) -> None:
    """Such a container is captured, and its memory copied."""
    mount = {"container_path": "/.podthaw-pages", "host_path": "/var/lib/own"}
    stack.node.exec(["mkdir", "-p", "/var/lib/own"])
    own = replace(BIG, containers=[replace(BIG.containers[0], mounts=[mount])])
    pod = stack.pods.start(own)
    stack.capture(pod, "own")
    assert mode(stack, "own") == "eager"
    assert content(restored(stack, "own", own)) == content(pod)


def test_a_mount_of_the_requests_own_there(stack: Stack, original: Running) -> None:
    assert original.ids
    mount = {"container_path": "/.podthaw-pages/below", "host_path": "/var/lib/own"}
    stack.node.exec(["mkdir", "-p", "/var/lib/own"])
    other = replace(BIG, containers=[replace(BIG.containers[0], mounts=[mount])])
    _, error = stack.pods.try_start(other.restoring("big", on_failure="fail"))
    assert "/.podthaw-pages" in error
    assert is_cold(stack.pods.start(other.restoring("big")))


ALTERED = {
    "byte": "f = open(f'{here}/pages', 'r+b'); f.seek(size // 2); f.write(b'altered')",
    "hole": "os.truncate(f'{here}/pages', size + (1 << 20)); os.truncate(f'{here}/pages', size)\n"
    "f = open(f'{here}/pages', 'r+b'); f.seek(0, os.SEEK_SET); f.write(b'x')",
    "size": "os.truncate(f'{here}/pages', size - 4096)",
    "sums": "open(f'{here}/pages.sums', 'a').write('x')",
    "map": "os.remove(f'{here}/memory.json')",
}


@pytest.mark.parametrize("attack", ALTERED)
def test_altered_memory_is_never_used(stack: Stack, original: Running, attack: str) -> None:
    assert original.ids
    republish(stack, "big", f"altered-{attack}")
    code = f"size = os.path.getsize(f'{{here}}/pages')\n{ALTERED[attack]}"
    tamper(stack, f"e2e/altered-{attack}", code)
    verified = stack.podthaw("verify", f"e2e/altered-{attack}", check=False)
    assert verified.status == 1
    assert "is damaged" in verified.stderr
    pod = stack.pods.start(BIG.restoring(f"altered-{attack}"))
    assert is_cold(pod)
    assert "is not tried again" in reason_of(stack, BIG.restoring(f"altered-{attack}"))


def reason_of(stack: Stack, pod: Pod) -> str:
    """Why a pod that must be restored is not."""
    annotations = {**pod.annotations, "podthaw.dev/on-failure": "fail"}
    return stack.pods.try_start(replace(pod, annotations=annotations))[1]


def test_a_restore_that_fails_leaves_nothing_of_the_mount(stack: Stack, original: Running) -> None:
    assert original.ids
    cut = "import glob\nos.truncate(glob.glob(f'{here}/images/core-*')[0], 8)"
    republish(stack, "big", "cut", artifacts=cut)
    with stack.leaves_nothing():
        pod = stack.pods.start(BIG.restoring("cut"))
        assert is_cold(pod)
        assert pod.exec(["ls", "/.podthaw-pages"])[0] != 0
        assert ".podthaw-pages" not in pod.exec(["cat", "/proc/self/mountinfo"])[1]
        upper = pod.exec(["ls", "-A", "/"])[1]
        assert ".podthaw-pages" not in upper
        stack.pods.remove(pod)
