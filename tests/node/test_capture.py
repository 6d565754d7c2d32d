"""``podthaw capture`` of real containers: what it saves, what it leaves, how it fails."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from shim import snapshot
from tests.node import capturing, gobuild, images
from tests.node.capturing import STORE, busy, check_undisturbed, name_of, podthaw, unique
from tests.node.cri import Cri
from tests.node.node import FLAVOURS, Node

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def cri(node: Node) -> Iterator[Cri]:
    with node.cri() as client:
        yield client


@pytest.fixture
def small_store(node: Node) -> Iterator[str]:
    """A configuration whose store is a file system of 24 MiB; its path."""
    node.exec(["mkdir", "-p", "/run/small"])
    node.exec(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "small", "/run/small"])
    config = 'version = 3\n[plugins."dev.podthaw.v1"]\nstore = "/run/small/store"\n'
    node.write("/run/small.toml", config)
    yield "/run/small.toml"
    node.exec(["umount", "-l", "/run/small"])


def _manifest(node: Node, digest: str) -> snapshot.Manifest:
    data = node.read(f"{STORE}/snapshots/{digest.removeprefix('sha256:')}/manifest.json")
    assert snapshot.digest(data) == digest
    return snapshot.decode(data)


def _tar(node: Node, path: str) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(node.read(path))) as archive:
        return {entry.name: entry for entry in archive}


@pytest.mark.parametrize("node", FLAVOURS, indirect=True)
def test_the_core_on_every_flavour(node: Node) -> None:
    """A program without sockets: trixie's CRIU cannot save those on kernels from 6.16 on."""
    with node.cri() as cri, cri.run_pod(unique("plain")) as pod:
        script = "echo kept > /root/file; n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done"
        container = pod.run("main", images.BUSYBOX, ["sh", "-c", script])
        capturing.wait_until_it_counts(node, container, beyond=5)
        name = unique("plain")
        podthaw(node, "capture", name_of(container), "--name", name)
        capturing.wait_until_it_counts(node, container)
        podthaw(node, "verify", f"default/{name}")
        digest = json.loads(podthaw(node, "inspect", f"default/{name}", "-o", "json").stdout)
        assert digest["manifest"]["processes"][0]["pid"] == 1


@pytest.mark.parametrize("node", ["trixie"], indirect=True)
def test_a_criu_that_cannot_save_sockets_on_this_kernel_is_told(node: Node) -> None:
    with node.cri() as cri, busy(node, cri, 1) as container:
        result = podthaw(node, "capture", name_of(container), "--name", "x", check=False)
        if result.status:
            assert "upgrade the package criu" in result.stderr
        check_undisturbed(node, container)


@pytest.mark.parametrize("node", ["sid", "newest"], indirect=True)
def test_a_snapshot_of_a_busy_container(node: Node) -> None:
    with node.cri() as cri, busy(node, cri) as container:
        container.exec("sh", "-c", "rm /etc/group; chmod 750 /data; mkfifo /data/fifo")
        name = unique("snap")
        out = podthaw(node, "capture", name_of(container), "--name", name, "-o", "json").stdout
        told = json.loads(out)
        check_undisturbed(node, container)
        manifest = _manifest(node, told["digest"])
        assert podthaw(node, "list", "-q").stdout.split().count(f"default/{name}") == 1
        podthaw(node, "verify", f"default/{name}")

        assert manifest.source.pod == container.pod.name
        assert manifest.source.image == images.PYTHON
        assert manifest.source.image_digest.startswith("sha256:")
        assert manifest.source.command[:2] == ["python3", "-c"]
        assert manifest.addresses == [container.pod.ip]
        assert manifest.hostname == container.pod.name
        assert [process.pid for process in manifest.processes] == [1]
        assert manifest.processes[0].threads >= 3
        assert manifest.processes[0].resident > 20 << 20
        assert manifest.stdio[0] == "/dev/null"
        assert all(stream.startswith("pipe:[") for stream in manifest.stdio[1:])
        assert 0 < manifest.frozen_seconds < 30
        assert manifest.frozen_seconds == pytest.approx(told["frozen_seconds"], abs=1e-5)

        folder = f"{STORE}/snapshots/{told['digest'].removeprefix('sha256:')}"
        entries = _tar(node, f"{folder}/rootfs.tar")
        assert "etc/.wh.group" in entries
        assert entries["data"].mode == 0o750
        assert entries["data/fifo"].isfifo()
        assert "data/file" in entries
        # The deleted name of a file that has another one: CRIU opens this one at restore.
        (kept,) = (entry for name, entry in entries.items() if "link_remap" in name)
        assert kept.linkname == "data/second" or entries["data/second"].linkname == kept.name
        # What the runtime made to mount things on is not the container's.
        assert not {"etc/hosts", "etc/resolv.conf", "etc/hostname"} & set(entries)
        assert list(_tar(node, f"{folder}/shm.tar")) == ["segment"]


def test_capture_and_stop(node: Node, cri: Cri) -> None:
    with busy(node, cri) as container:
        name = unique("stopped")
        podthaw(node, "capture", name_of(container), "--name", name, "--stop")
        assert container.wait() == 137
        podthaw(node, "verify", f"default/{name}")
        again = podthaw(node, "capture", name_of(container), "--name", name, check=False)
        assert again.status == 1
        assert "no running container" in again.stderr


def test_a_store_that_fills_up_while_stopping_keeps_the_container(
    node: Node, cri: Cri, small_store: str
) -> None:
    with busy(node, cri, 1) as container:
        container.exec("sh", "-c", "dd if=/dev/urandom of=/data/big bs=1M count=9 2>/dev/null")
        # Holes that preflight cannot foresee: files on the store that come between.
        node.exec(["dd", "if=/dev/zero", "of=/run/small/other", "bs=1M", "count=8"])
        command = ["--config", small_store, "capture", name_of(container), "--name", "x", "--stop"]
        result = podthaw(node, *command, check=False)
        assert result.status == 1
        assert "free" in result.stderr or "full" in result.stderr
        check_undisturbed(node, container)


def test_too_little_space_is_told_before_anything_is_frozen(
    node: Node, cri: Cri, small_store: str
) -> None:
    with busy(node, cri, 60) as container:
        command = ["--config", small_store, "capture", name_of(container), "--name", "x"]
        result = podthaw(node, *command, check=False)
        assert result.status == 1
        assert "MiB are free" in result.stderr
        check_undisturbed(node, container)


@pytest.mark.usefixtures("small_store")
@pytest.mark.parametrize("megabytes", [60, 1], ids=["memory", "files"])
def test_a_disk_that_fills_up(node: Node, cri: Cri, megabytes: int) -> None:
    """Without preflight: CRIU meets the end of the disk, or the reading of the files does."""
    with busy(node, cri, megabytes) as container:
        if megabytes == 1:
            container.exec("dd", "if=/dev/urandom", "of=/data/big", "bs=1M", "count=30")
        node.exec(["mkdir", "-p", "/run/small/stage"])
        code = (
            "from pathlib import Path; from shim import capture, container; from shim.errors import"
            " PodthawError\n"
            "order = capture.Order(stage=Path('/run/small/stage'), work=Path('/run/small-work'))\n"
            "try: capture.dump(container.find(sys.argv[1]), order)\n"
            "except PodthawError as error: print(error)"
        )
        told = capturing.python(node, code, container.id).stdout
        assert "the disk is full" in told, told
        assert "the container runs on" in told
        assert node.exec(["ls", "-A", "/run/small"]).stdout.split() == []
        check_undisturbed(node, container)


def test_a_store_that_cannot_be_written(node: Node, cri: Cri, small_store: str) -> None:
    node.exec(["mount", "-o", "remount,ro", "/run/small"])
    with busy(node, cri, 1) as container:
        command = ["--config", small_store, "capture", name_of(container), "--name", "x"]
        result = podthaw(node, *command, check=False)
        assert result.status == 1
        assert "read-only" in result.stderr
        assert "Traceback" not in result.stderr
        check_undisturbed(node, container)


def test_two_captures_at_once(node: Node, cri: Cri) -> None:
    with busy(node, cri, 200) as container:
        script = (
            'for n in a b c; do "$1" capture "$2" --name "$3-$n" > /tmp/race.$n 2>&1 & done; wait;'
            "cat /tmp/race.?"
        )
        words = ["sh", "-c", script, "sh", capturing.PODTHAW, name_of(container), unique("race")]
        told = node.exec(words, timeout=120).stdout
        assert "another capture of the container" in told
        assert " is sha256:" in told
        check_undisturbed(node, container)


def test_a_dump_that_hangs_is_given_up(node: Node, cri: Cri) -> None:
    """A CRIU that does not move any more is killed after its time, and its traces removed."""
    with busy(node, cri, 100) as container:
        wrapper = '#!/bin/sh\n[ "$1" = dump ] || exec criu "$@"\ncriu "$@" & sleep 0.15\n'
        node.write("/run/hanging-criu", wrapper + "kill -STOP $!; wait\n", mode=0o755)
        config = 'version = 3\n[plugins."dev.podthaw.v1"]\ncriu = "/run/hanging-criu"\n'
        node.write("/run/hanging.toml", config)
        command = ["--config", "/run/hanging.toml", "capture", name_of(container), "--name", "x"]
        result = podthaw(node, *command, "--timeout", "2s", check=False)
        assert result.status == 1
        assert "longer than it may" in result.stderr
        check_undisturbed(node, container)


def test_what_people_get_wrong(node: Node, cri: Cri) -> None:
    def told(*words: str) -> str:
        result = podthaw(node, "capture", *words, check=False)
        assert result.status in (1, 2)
        assert "Traceback" not in result.stderr
        return result.stderr

    with cri.run_pod(unique("many")) as pod:
        name = f"default/{pod.name}"
        assert f"the pod {name} has no running container" in told(name, "--name", "x")
        pod.run("one", images.BUSYBOX, ["sleep", "999"])
        pod.run("two", images.BUSYBOX, ["sleep", "999"])
        short = pod.run("three", images.BUSYBOX, ["true"])
        short.wait()
        assert "name one with -c: one, two" in told(name, "--name", "x")
        assert "it has: one, three, two" in told(name, "-c", "four", "--name", "x")
        assert "has exited" in told(name, "-c", "three", "--name", "x")
        assert "not a snapshot's name" in told(name, "-c", "one", "--name", "../x")
        assert "there is no pod default/absent" in told("default/absent", "--name", "x")
        assert "wanted NAMESPACE/POD" in told("absent", "--name", "x")
        assert "--name" in told(name)
        node.write("/run/absent.toml", 'version = 3\n[grpc]\naddress = "/run/absent.sock"\n')
        result = podthaw(
            node, "--config", "/run/absent.toml", "capture", name, "--name", "x", check=False
        )
        assert result.status == 1
        assert "/run/absent.sock" in result.stderr or "cannot be reached" in result.stderr


def test_the_standard_tar_is_read_by_checkpointctl(node: Node, cri: Cri) -> None:
    tool = gobuild.binary(gobuild.CHECKPOINTCTL)
    node.put(tool, "/opt/checkpointctl")
    node.exec(["chmod", "755", "/opt/checkpointctl"])
    with busy(node, cri) as container:
        path = "/var/lib/podthaw/checkpoint-test.tar"
        podthaw(node, "capture", "--container-id", container.id, "--export", path)
        check_undisturbed(node, container)
        assert node.exec(["stat", "-c", "%a", path]).stdout.strip() == "600"
        shown = node.exec(["/opt/checkpointctl", "show", path]).stdout
        assert images.PYTHON in shown
        assert "containerd" in shown
        told = node.exec(["/opt/checkpointctl", "inspect", "--all", "--format=json", path]).stdout
        value: dict[str, Any] = json.loads(told)[0]
        assert value["container_name"] == "main"
        assert value["process_tree"]["pid"] == 1
        text = json.dumps(value)
        for expected in (container.pod.name, "/dev/shm", "8080", "LISTEN", "frozen_time"):
            assert expected in text, expected
        node.exec(["rm", path])
        listing = node.exec(["ls", "-A", "/var/lib/podthaw"]).stdout.split()
        assert not [name for name in listing if name.startswith(".")]
