"""Whatever is wrong with a snapshot: an ordinary start, or a failure with the reason, by policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from tests.e2e.conftest import WEB
from tests.e2e.damage import republish, tamper
from tests.e2e.pods import Pod, Running
from tests.e2e.stack import Stack, is_cold

pytestmark = pytest.mark.node

MARKER = "/opt/of-the-snapshot"


@pytest.fixture(scope="module")
def marked(stack: Stack) -> str:
    """A snapshot whose writable layer and /dev/shm hold a marker."""
    pod = stack.pods.start(WEB)
    assert pod.exec(["sh", "-c", f"mkdir {MARKER}; touch /dev/shm/of-the-snapshot"])[0] == 0
    stack.capture(pod, "marked")
    stack.pods.remove(pod)
    return "marked"


def assert_started_cold(stack: Stack, pod: Pod) -> Running:
    """It starts as if nothing had been asked; nothing of the snapshot is in it."""
    running = stack.pods.start(pod)
    assert is_cold(running), running.log()
    status, out, _ = running.exec(["sh", "-c", f"ls -d {MARKER} /dev/shm/*; ls /opt"])
    assert MARKER not in out
    assert "of-the-snapshot" not in out
    assert status in {0, 1, 2}
    return running


def assert_fails(stack: Stack, pod: Pod, *words: str) -> str:
    """It does not start, and the error names the reason."""
    running, error = stack.pods.try_start(pod)
    assert error, f"started: {running.log()}"
    assert [word for word in words if word.lower() not in error.lower()] == [], error
    assert "Traceback" not in error
    return error


@dataclass(frozen=True)
class Case:
    """A snapshot that cannot be used, and words of the reason."""

    name: str
    words: tuple[str, ...]
    manifest: str = ""
    files: str = ""
    """Changes files, and the manifest with them: only CRIU will notice."""
    broken: bool = False
    """Whether the snapshot itself is to blame, so that the node does not try it again."""


FLIP = """
with open(f"{here}/%s", "r+b") as file:
    file.seek(-40, 2); data = file.read(20)
    file.seek(-40, 2); file.write(bytes(x ^ 255 for x in data))
"""

CASES = [
    Case("architecture", ("riscv64",), "manifest['host']['arch'] = 'riscv64'"),
    Case("newer-criu", ("CRIU", "99.0"), "manifest['host']['criu'] = '99.0'"),
    Case("cpu-feature", ("quantum",), "manifest['host']['cpu_features'].append('quantum')"),
    Case("kernel", ("kernel", "99.1"), "manifest['host']['kernel'] = '99.1.0'"),
    Case("page-size", ("16384",), "manifest['host']['page_size'] = 16384"),
    Case(
        "image",
        ("image", "0000000000"),
        "manifest['source']['image_digest'] = 'sha256:' + '0' * 64",
    ),
    Case("command", ("program",), "manifest['source']['command'] = ['/bin/other']"),
    Case("newer-format", ("format",), "manifest['format'] = 99", broken=True),
    Case(
        "no-capabilities",
        ("security",),
        "manifest['security'] = {key: None for key in manifest['security']}",
    ),
    Case(
        "a-mount-more",
        ("/elsewhere",),
        "manifest['mounts'].append({'destination': '/elsewhere', 'type': 'bind', 'kind': 'dir'})",
    ),
    Case(
        "path-outside",
        ("path",),
        "manifest['artifacts'][0]['path'] = '../../../etc/shadow'",
        broken=True,
    ),
    Case("pages-altered", ("pages",), FLIP % "images/pages-1.img", broken=True),
    Case(
        "pages-truncated",
        ("pages",),
        "os.truncate(f'{here}/images/pages-1.img', 4096)",
        broken=True,
    ),
    Case(
        "inventory-altered",
        ("inventory",),
        "open(f'{here}/images/inventory.img', 'ab').write(b'x')",
        broken=True,
    ),
    Case(
        "inventory-missing",
        ("inventory",),
        "os.remove(f'{here}/images/inventory.img')",
        broken=True,
    ),
    Case("rootfs-altered", ("rootfs",), FLIP % "rootfs.tar", broken=True),
    Case(
        "criu-fails-on-core",
        ("CRIU",),
        files="open(f'{here}/images/core-1.img', 'r+b').truncate(200)",
        broken=True,
    ),
    Case(
        "criu-fails-on-tree",
        ("CRIU",),
        files="open(f'{here}/images/pstree.img', 'r+b').truncate(12)",
        broken=True,
    ),
    Case(
        "rootfs-is-no-tar",
        ("writable layer",),
        files="open(f'{here}/rootfs.tar', 'wb').write(b'no tar at all' * 1000)",
        broken=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_unusable_snapshot(stack: Stack, marked: str, case: Case) -> None:
    republish(stack, marked, case.name, code=case.manifest, artifacts=case.files)
    with stack.leaves_nothing():
        stack.pods.remove(assert_started_cold(stack, WEB.restoring(case.name)))
    republish(stack, marked, f"{case.name}-2", code=case.manifest, artifacts=case.files)
    with stack.leaves_nothing():
        error = assert_fails(stack, WEB.restoring(f"{case.name}-2", on_failure="fail"), *case.words)
        stack.pods.remove(stack.pods.running[-1])
    # Only what broke is quarantined: the second try says so.
    with stack.leaves_nothing():
        again = assert_fails(stack, WEB.restoring(f"{case.name}-2", on_failure="fail"))
        stack.pods.remove(stack.pods.running[-1])
    assert ("unquarantine" in again) == case.broken, f"{error}\n{again}"


def test_unquarantine(stack: Stack, marked: str) -> None:
    digest = republish(stack, marked, "mended")
    path = f"{stack.snapshot('e2e/mended')}/images/inventory.img"
    good = stack.node.exec(["sh", "-c", f"base64 {path}"]).stdout
    tamper(stack, "e2e/mended", "open(f'{here}/images/inventory.img', 'ab').write(b'x')")
    assert_fails(stack, WEB.restoring("mended", on_failure="fail"), "inventory")
    stack.node.exec(["sh", "-c", f"base64 -d > {path}"], input=good)
    assert_fails(stack, WEB.restoring("mended", on_failure="fail"), "unquarantine")
    stack.podthaw("unquarantine", digest)
    assert not is_cold(stack.pods.start(WEB.restoring("mended", on_failure="fail")))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", ("nowhere", "no snapshot")),
        ("nowhere@sha256:" + "a" * 64, ("aaaaaaaa",)),
        ("oci://registry.test/repo:tag", ("not yet supported",)),
        ("s3://bucket/key", ("not yet supported",)),
    ],
)
def test_absent_snapshot(stack: Stack, name: str, words: tuple[str, ...]) -> None:
    with stack.leaves_nothing():
        stack.pods.remove(assert_started_cold(stack, WEB.restoring(name)))
        assert_fails(stack, WEB.restoring(name, on_failure="fail"), *words)
        stack.pods.remove(stack.pods.running[-1])


def test_another_namespaces_snapshot(stack: Stack, marked: str) -> None:
    other = replace(WEB, namespace="other")
    assert_started_cold(stack, other.restoring(marked))
    assert_fails(stack, other.restoring(marked, on_failure="fail"), marked)
    digest = stack.digest(f"e2e/{marked}")
    assert_fails(stack, other.restoring(f"{marked}@{digest}", on_failure="fail"), marked)


def test_tampered_after_it_was_verified(stack: Stack, marked: str) -> None:
    republish(stack, marked, "later")
    assert not is_cold(stack.pods.start(WEB.restoring("later", on_failure="fail")))
    tamper(stack, "e2e/later", FLIP % "images/pages-1.img")
    assert_started_cold(stack, WEB.restoring("later"))


# -- the request asks for another security profile -----------------------------------------


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ({"capabilities": {"drop_capabilities": ["NET_RAW"]}}, ("capabilit",)),
        ({"capabilities": {"add_capabilities": ["NET_ADMIN"]}}, ("capabilit",)),
        ({"seccomp": {"profile_type": "RuntimeDefault"}}, ("seccomp",)),
        ({"run_as_user": {"value": 1000}}, ("user",)),
        ({"supplemental_groups": [4242]}, ("gids", "4242")),
        ({"no_new_privs": True}, ("new",)),
        ({"privileged": True, "masked_paths": [], "readonly_paths": []}, ("security",)),
        ({"readonly_rootfs": True}, ("read",)),
        ({"namespace_options": {"pid": "POD"}}, ("namespace",)),
        ({"masked_paths": []}, ("mask",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_security_profile(
    stack: Stack, marked: str, security: dict[str, object], words: tuple[str, ...]
) -> None:
    pod = replace(
        WEB, containers=[replace(WEB.containers[0], security=security, env={"SCRATCH": "/dev/shm"})]
    )
    pod = replace(pod, privileged="privileged" in security)
    assert_started_cold(stack, pod.restoring(marked))
    assert_fails(stack, pod.restoring(marked, on_failure="fail"), *words)


def test_a_profile_that_was_captured_is_restored(stack: Stack) -> None:
    security = {
        "capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["NET_RAW"]},
        "seccomp": {"profile_type": "RuntimeDefault"},
        "no_new_privs": True,
        "supplemental_groups": [4242],
    }
    pod = replace(WEB, containers=[replace(WEB.containers[0], security=security)])
    cold = stack.pods.start(pod)
    stack.capture(cold, "profile")
    restored = stack.pods.start(pod.restoring("profile", on_failure="fail"))
    lines = ("Cap", "Seccomp:", "NoNewPrivs", "Groups", "Uid", "Gid")
    script = ["sh", "-c", "cat /proc/1/status"]
    found = [
        [line for line in one.exec(script)[1].splitlines() if line.startswith(lines)]
        for one in (cold, restored)
    ]
    assert found[0] == found[1]
    assert len(found[0]) > 8


# -- the node is in trouble ------------------------------------------------------------------


@pytest.fixture
def tiny(stack: Stack, request: pytest.FixtureRequest) -> Iterator[str]:
    """A filesystem with next to no room over a directory."""
    path: str = request.param
    stack.node.exec(["mkdir", "-p", path])
    stack.node.exec(["mount", "-t", "tmpfs", "-o", "size=16k,mode=0700", "none", path])
    yield path
    stack.node.exec(["umount", path])


@pytest.mark.parametrize("tiny", ["/run/podthaw/plans"], indirect=True)
def test_full_disk_at_restore(stack: Stack, marked: str, tiny: str) -> None:
    assert_started_cold(stack, WEB.restoring(marked))
    assert_fails(stack, WEB.restoring(marked, on_failure="fail"), "full")
    del tiny


@pytest.mark.parametrize("tiny", ["/var/lib/podthaw/store/tmp"], indirect=True)
def test_full_disk_at_capture(stack: Stack, tiny: str) -> None:
    pod = stack.pods.start(WEB)
    result = stack.capture(pod, "too-large", check=False)
    assert result.status != 0
    assert "space" in result.stderr
    assert "Traceback" not in result.stderr
    assert pod.get("/ready") == "ready"
    assert "too-large" not in stack.podthaw("list", "-q", check=False).stdout
    assert stack.node.exec(["ls", "-A", tiny]).stdout == ""


def test_read_only_store(stack: Stack, marked: str) -> None:
    """Capture says so; a restore does not need to write there."""
    store = "/var/lib/podthaw/store"
    pod = stack.pods.start(WEB)
    stack.node.exec(["mount", "--bind", store, store])
    stack.node.exec(["mount", "-o", "remount,ro,bind", store])
    try:
        result = stack.capture(pod, "unwritable", check=False)
        assert result.status != 0
        assert "read-only" in result.stderr.lower()
        assert "Traceback" not in result.stderr
        assert pod.get("/ready") == "ready"
        other = stack.pods.start(WEB.restoring(marked))
        assert other.get("/ready") == "ready"
    finally:
        stack.node.exec(["umount", store])


def test_ordinary_pods_start_while_the_store_is_gone(stack: Stack) -> None:
    store = "/var/lib/podthaw/store"
    stack.node.exec(["mv", f"{store}/names", f"{store}/names-aside"])
    try:
        assert is_cold(stack.pods.start(WEB))
        assert_started_cold(stack, WEB.restoring("marked"))
    finally:
        stack.node.exec(["sh", "-c", f"rm -rf {store}/names; mv {store}/names-aside {store}/names"])
