"""shim.criu against CRIU itself: a dump is read, rewritten for another pod, and restored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from shim.criu import images, mm, pagemap, rewrite
from shim.criu.wire import Message
from tests.node.node import FILES, Node

pytestmark = pytest.mark.node

FOLDER = "/tmp/sockets"
NEIGHBOUR, OLD, NEW = "10.99.0.1", "10.99.0.5", "10.99.0.9"

NETWORK = f"""
set -e
ip link add sk0 type bridge
ip addr add {NEIGHBOUR}/24 dev sk0
ip link set sk0 up
for one in old:{OLD} new:{NEW}; do
  ns=sk-${{one%:*}}
  ip netns add $ns
  ip link add v$ns type veth peer name eth0 netns $ns
  ip link set v$ns master sk0 up
  ip -n $ns addr add ${{one#*:}}/24 dev eth0
  ip -n $ns link set eth0 up
  ip -n $ns link set lo up
done
"""
SERVER = f"""
import socket
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(("{NEIGHBOUR}", 7000))
listening.listen(8)
held = []
while True:
    held.append(listening.accept()[0])
    if len(held) > 1:
        held[-1].sendall(b"hello")
"""
START = f"""
hostname old-pod
exec setsid python3 {FOLDER}/sockets.py {OLD} {NEIGHBOUR} {FOLDER} </dev/null >{FOLDER}/log 2>&1
"""
DUMP = f"""
cd {FOLDER}
criu dump -t $(cat ready) -D dump -o dump.log -v4 --tcp-established --network-lock skip \
  --manage-cgroups=ignore --external net[$(stat -L -c %i /run/netns/sk-old)]:extRootNetNS \
  || {{ grep Error dump/dump.log; exit 1; }}
"""
RESTORE = f"""
cd {FOLDER}
rm -f found pid
exec 7</run/netns/sk-new
criu restore -d -D moved -W {FOLDER} -o restore.log -v4 --pidfile {FOLDER}/pid \
  --tcp-established --manage-cgroups=ignore --inherit-fd fd[7]:extRootNetNS \
  || {{ grep Error restore.log; exit 1; }}
kill -USR1 $(cat pid)
"""
CLEAN = f"""
for pid in $(cat {FOLDER}/pid 2>/dev/null); do kill -9 $pid 2>/dev/null; done
true
"""
CLEAN_NETWORK = "ip netns del sk-old; ip netns del sk-new; ip link del sk0; true"


@pytest.fixture(scope="module")
def dump(node: Node) -> Iterator[Path]:
    """The images of a dumped process with sockets."""
    node.exec(["mkdir", "-p", f"{FOLDER}/dump"])
    node.write(f"{FOLDER}/sockets.py", (FILES / "sockets.py").read_text())
    node.exec(["sh", "-c", NETWORK])
    node.spawn("neighbour", ["python3", "-c", SERVER])
    node.spawn(
        "sockets", ["nsenter", "--net=/run/netns/sk-old", "unshare", "-u", "sh", "-c", START]
    )
    node.wait("the process", lambda: node.path(f"{FOLDER}/ready").exists(), timeout=20)
    node.exec(["sh", "-c", DUMP])
    yield node.path(f"{FOLDER}/dump")
    node.kill("neighbour")
    node.exec(["sh", "-c", CLEAN_NETWORK])


@pytest.fixture
def restored(node: Node, dump: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Restore the process at the new address, and have it try its sockets."""

    def restore(tcp: Literal["close", "established"]) -> dict[str, Any]:
        node.exec(["rm", "-rf", f"{FOLDER}/moved"])
        node.exec(["mkdir", f"{FOLDER}/moved"])
        moved = node.path(f"{FOLDER}/moved")
        for path in dump.iterdir():
            data = path.read_bytes()
            if path.name == "files.img":
                data = rewrite.files(data, old=[OLD], new=[NEW], tcp=tcp)[0]
            elif path.name == "inventory.img":
                data = rewrite.inventory(data)
            elif path.name.startswith("utsns-"):
                data = rewrite.utsns(data, "new-pod")
            (moved / path.name).write_bytes(data)
        node.exec(["sh", "-c", RESTORE])
        found = node.path(f"{FOLDER}/found")
        node.wait("what the process found", found.exists, timeout=20)
        answer: dict[str, Any] = json.loads(found.read_bytes())
        return answer

    yield restore
    node.exec(["sh", "-c", CLEAN])


def test_every_image_is_put_together_again(dump: Path) -> None:
    read = 0
    for path in dump.glob("*.img"):
        if path.name.startswith("pages-"):
            continue
        data = path.read_bytes()
        image = images.decode(data, path.name)
        assert images.encode(image) == data
        assert all(Message.parse(one.message).encode() == one.message for one in image.entries)
        read += 1
    assert read > 10


def test_memory_areas_and_page_maps_are_put_together_again(dump: Path) -> None:
    areas = runs = 0
    for path in dump.glob("mm-*.img"):
        space = mm.AddressSpace.decode(path.read_bytes(), path.name)
        assert space.encode() == path.read_bytes()
        areas += len(space.vmas)
    for path in dump.glob("pagemap-*.img"):
        table = pagemap.decode(path.read_bytes(), path.name)
        assert pagemap.encode(table) == path.read_bytes()
        runs += len(table.runs)
    assert areas > 10
    assert runs > 10


INNER = {
    "hostname": "new-pod",
    "on own": NEW,
    "on all": "0.0.0.0",  # noqa: S104 - what the process says
    "datagrams": NEW,
    "loop": ["queued", "back"],
    "inner": ["queued", NEW],
    "mapped": ["six", f"::ffff:{NEW}"],
    "accepts": 2,
    "connects": "hello",
}


def test_inner_connections_move_and_outer_ones_are_closed(
    restored: Callable[..., dict[str, Any]],
) -> None:
    hung_up = 0x10  # EPOLLHUP
    assert restored("close") == {
        **INNER,
        "outer polls": [hung_up],
        "outer reads": "OSError",
        "outer writes": "BrokenPipeError",
        "lone": "OSError",
        "in flight": "OSError",
    }


def test_with_policy_established_the_peer_answers_with_a_reset(
    restored: Callable[..., dict[str, Any]],
) -> None:
    found = restored("established")
    assert {key: found[key] for key in INNER} == INNER
    assert found["outer reads"] == "ConnectionResetError"
    assert found["lone"] == ""
