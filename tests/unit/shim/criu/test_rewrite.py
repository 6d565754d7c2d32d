from __future__ import annotations

import ipaddress
import struct
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.criu import images, rewrite
from shim.criu.images import Entry, Image
from shim.criu.wire import Message
from shim.errors import Broken, Unfit

OLD, NEW = "10.88.0.5", "10.88.0.9"
ANY = "0.0.0.0"  # noqa: S104 - an address in an image, nothing binds it
TCP, UDP = 6, 17
ESTABLISHED, SYN_SENT, CLOSE_WAIT, CLOSE, LISTEN = 1, 2, 8, 7, 10


def words(address: str) -> list[int]:
    packed = ipaddress.ip_address(address).packed
    return [word for (word,) in struct.iter_unpack("=I", packed)]


def socket(
    source: tuple[str, int],
    peer: tuple[str, int] = (ANY, 0),
    *,
    proto: int = TCP,
    state: int = ESTABLISHED,
    kind: int = 1,
    ns: int = 7,
) -> Message:
    """An inet_sk_entry as CRIU writes it, with fields after it that must survive."""
    v6 = ":" in source[0]
    out = Message()
    for number, value in (
        (1, 20),
        (2, 4711),
        (3, 10 if v6 else 2),
        (4, kind),
        (5, proto),
        (6, state),
        (7, source[1]),
        (8, peer[1]),
        (9, 0o2004002),
        (10, 0),
    ):
        out.set_uint(number, value)
    out.set_uints(11, words(source[0]))
    out.set_uints(12, words("::" if v6 and peer[0] == ANY else peer[0]))
    out.set_bytes(13, b"\x08\x00")
    out.set_bytes(14, b"\x08\x80\x80\x02")
    out.set_uint(18, ns)
    out.set_uint(19, 1)
    out.set_bytes(99, b"of a later release")
    return out


def files_image(*sockets: Message) -> bytes:
    other = Message()
    other.set_uint(1, 1)
    other.set_uint(2, 3)
    other.set_bytes(3, b"\x08\x03")
    entries = [Entry(other.encode())]
    for inet in sockets:
        file = Message()
        file.set_uint(1, 4)
        file.set_uint(2, 20)
        file.set_message(4, inet)
        entries.append(Entry(file.encode()))
    header = struct.pack("<II", images.COMMON_MAGIC, images.FILES)
    return images.encode(Image(header, images.FILES, entries))


def sockets_of(data: bytes) -> list[dict[str, Any]]:
    out = []
    for entry in images.decode(data, "files.img").entries:
        inet = Message.parse(entry.message).message(4)
        if not inet.encode():
            continue

        def address(number: int, inet: Message = inet) -> str:
            packed = b"".join(struct.pack("=I", word) for word in inet.uints(number))
            return str(ipaddress.ip_address(packed))

        out.append(
            {
                "state": inet.uint(6),
                "source": (address(11), inet.uint(7)),
                "peer": (address(12), inet.uint(8)),
                "shutdown": inet.uint(19),
                "later": inet.blob(99),
            }
        )
    return out


def rewritten(
    *sockets: Message,
    old: list[str] | None = None,
    new: list[str] | None = None,
    tcp: Literal["close", "established"] = "close",
) -> tuple[list[dict[str, Any]], rewrite.Sockets]:
    data, told = rewrite.files(files_image(*sockets), old=old or [OLD], new=new or [NEW], tcp=tcp)
    return sockets_of(data), told


def test_without_internet_sockets_the_image_stays_byte_for_byte() -> None:
    data = files_image()
    assert rewrite.files(data, old=[OLD], new=[NEW]) == (data, rewrite.Sockets())


def test_a_listener_on_the_old_address_moves_and_the_others_stay() -> None:
    wildcard = socket((ANY, 80), state=LISTEN)
    loopback = socket(("127.0.0.1", 81), state=LISTEN)
    own = socket((OLD, 82), state=LISTEN)
    found, told = rewritten(wildcard, loopback, own)
    assert [one["source"] for one in found] == [(ANY, 80), ("127.0.0.1", 81), (NEW, 82)]
    assert [one["state"] for one in found] == [LISTEN] * 3
    assert all(one["later"] == b"of a later release" for one in found)
    assert told == rewrite.Sockets(kept=3, moved=1)


def test_sockets_that_do_not_change_stay_byte_for_byte() -> None:
    data = files_image(socket((ANY, 80), state=LISTEN), socket(("127.0.0.1", 5), proto=UDP))
    assert rewrite.files(data, old=[OLD], new=[NEW])[0] == data


def test_a_connection_to_the_outside_is_closed_and_restore_neither_binds_nor_connects_it() -> None:
    found, told = rewritten(socket((OLD, 40000), ("93.184.215.14", 443)))
    assert found == [
        {
            "state": CLOSE,
            "source": (ANY, 0),
            "peer": (ANY, 0),
            "shutdown": 0,
            "later": b"of a later release",
        }
    ]
    assert told == rewrite.Sockets(closed=1)


def test_a_connection_from_the_outside_is_closed_and_its_listener_kept() -> None:
    found, _ = rewritten(
        socket((ANY, 8080), state=LISTEN), socket((OLD, 8080), ("10.88.0.1", 51000))
    )
    assert [one["state"] for one in found] == [LISTEN, CLOSE]


def test_both_ends_of_a_loopback_connection_are_kept_as_they_are() -> None:
    pair = [
        socket(("127.0.0.1", 8080), ("127.0.0.1", 50000)),
        socket(("127.0.0.1", 50000), ("127.0.0.1", 8080), state=CLOSE_WAIT),
    ]
    data = files_image(*pair)
    assert rewrite.files(data, old=[OLD], new=[NEW]) == (data, rewrite.Sockets(kept=2))


def test_both_ends_of_a_connection_over_the_own_address_move_together() -> None:
    found, told = rewritten(socket((OLD, 8080), (OLD, 50000)), socket((OLD, 50000), (OLD, 8080)))
    assert [(one["source"], one["peer"]) for one in found] == [
        ((NEW, 8080), (NEW, 50000)),
        ((NEW, 50000), (NEW, 8080)),
    ]
    assert told == rewrite.Sockets(kept=2, moved=2)


def test_an_ipv4_end_and_its_mapped_ipv6_end_are_a_pair() -> None:
    found, told = rewritten(
        socket((f"::ffff:{OLD}", 8080), (f"::ffff:{OLD}", 50000)),
        socket((OLD, 50000), (OLD, 8080)),
    )
    assert found[0]["source"] == (str(ipaddress.ip_address(f"::ffff:{NEW}")), 8080)
    assert found[1]["source"] == (NEW, 50000)
    assert told == rewrite.Sockets(kept=2, moved=2)


@pytest.mark.parametrize(
    "lone",
    [
        socket(("127.0.0.1", 50000), ("127.0.0.1", 8080)),
        socket(("::1", 50000), ("::1", 8080)),
        socket(("127.0.0.1", 50000), ("127.0.0.1", 8080), state=SYN_SENT),
        socket((OLD, 50000), ("10.9.9.9", 8080), state=SYN_SENT),
    ],
    ids=["other container", "other container, v6", "in flight", "in flight to the outside"],
)
def test_a_connection_with_one_end_here_is_closed(lone: Message) -> None:
    found, _ = rewritten(lone)
    assert (found[0]["state"], found[0]["source"][1], found[0]["peer"][1]) == (CLOSE, 0, 0)


def test_ends_in_two_network_namespaces_are_no_pair() -> None:
    found, told = rewritten(
        socket(("127.0.0.1", 1), ("127.0.0.1", 2), ns=7),
        socket(("127.0.0.1", 2), ("127.0.0.1", 1), ns=8),
    )
    assert [one["state"] for one in found] == [CLOSE, CLOSE]
    assert told.closed == 2


def test_a_request_in_flight_does_not_make_its_peer_a_pair() -> None:
    found, _ = rewritten(
        socket(("127.0.0.1", 1), ("127.0.0.1", 2), state=SYN_SENT),
        socket(("127.0.0.1", 2), ("127.0.0.1", 1)),
    )
    assert [one["state"] for one in found] == [CLOSE, CLOSE]


def test_policy_established_keeps_every_connection_on_the_new_address() -> None:
    found, told = rewritten(socket((OLD, 40000), ("93.184.215.14", 443)), tcp="established")
    assert found[0]["source"] == (NEW, 40000)
    assert found[0]["peer"] == ("93.184.215.14", 443)
    assert found[0]["state"] == ESTABLISHED
    assert told == rewrite.Sockets(kept=1, moved=1)


@pytest.mark.parametrize(("proto", "kind"), [(UDP, 2), (TCP, 3)], ids=["udp", "raw"])
def test_what_is_no_tcp_connection_is_never_closed(proto: int, kind: int) -> None:
    found, told = rewritten(socket((OLD, 40000), ("1.1.1.1", 53), proto=proto, kind=kind))
    assert found[0]["source"] == (NEW, 40000)
    assert found[0]["peer"] == ("1.1.1.1", 53)
    assert told == rewrite.Sockets(kept=1, moved=1)


def test_addresses_move_within_their_family_in_order() -> None:
    found, _ = rewritten(
        socket(("fd00::5", 80), state=LISTEN),
        socket((OLD, 80), state=LISTEN),
        old=[OLD, "fd00::5"],
        new=["fd00::9", NEW],
    )
    assert [one["source"][0] for one in found] == ["fd00::9", NEW]


def test_a_socket_on_a_family_that_the_new_pod_lacks_is_unfit() -> None:
    with pytest.raises(Unfit, match=r"fd00::5, and this pod has no IPv6 address"):
        rewritten(socket(("fd00::5", 80), state=LISTEN), old=[OLD, "fd00::5"], new=[NEW])


def test_a_lost_family_that_no_socket_uses_does_not_matter() -> None:
    found, _ = rewritten(socket((OLD, 80), state=LISTEN), old=[OLD, "fd00::5"], new=[NEW])
    assert found[0]["source"] == (NEW, 80)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([OLD, "127.0.0.1", ANY, "10.1.1.1"]),
            st.integers(0, 65535),
            st.sampled_from([OLD, "127.0.0.1", ANY, "10.1.1.1"]),
            st.integers(0, 65535),
            st.integers(1, 12),
        ),
        max_size=6,
    )
)
def test_nothing_of_the_old_address_and_no_lone_connection_is_left(
    rows: list[tuple[str, int, str, int, int]],
) -> None:
    given_sockets = [socket((a, p), (b, q), state=state) for a, p, b, q, state in rows]
    found, told = rewritten(*given_sockets)
    assert len(found) == len(rows) == told.kept + told.closed
    ends = {(one["source"], one["peer"]) for one in found}
    for one in found:
        assert OLD not in (one["source"][0], one["peer"][0])
        if one["peer"][1]:
            assert (one["peer"], one["source"]) in ends
    again, _ = rewrite.files(
        rewrite.files(files_image(*given_sockets), old=[OLD], new=[NEW])[0], old=[OLD], new=[NEW]
    )
    assert sockets_of(again) == found


@pytest.mark.parametrize(
    "damage", [{"number": 11, "values": []}, {"number": 11, "values": [1 << 40]}]
)
def test_a_socket_without_a_proper_address_is_broken(damage: dict[str, Any]) -> None:
    bad = socket((OLD, 1), state=LISTEN)
    bad.set_uints(damage["number"], damage["values"])
    with pytest.raises(Broken, match="damaged"):
        rewritten(bad)


def test_a_socket_of_an_unknown_family_is_broken() -> None:
    bad = socket((OLD, 1), state=LISTEN)
    bad.set_uint(3, 99)
    with pytest.raises(Broken, match="family 99"):
        rewritten(bad)


def test_a_socket_without_description_is_broken() -> None:
    file = Message()
    file.set_uint(1, 4)
    header = struct.pack("<II", images.COMMON_MAGIC, images.FILES)
    data = images.encode(Image(header, images.FILES, [Entry(file.encode())]))
    with pytest.raises(Broken, match="no description"):
        rewrite.files(data, old=[], new=[])


def single(magic: int, message: Message, count: int = 1) -> bytes:
    header = struct.pack("<II", images.COMMON_MAGIC, magic)
    if magic == images.INVENTORY:
        header = header[4:]
    return images.encode(Image(header, magic, [Entry(message.encode())] * count))


def test_the_host_name_changes_and_the_domain_name_stays() -> None:
    names = Message()
    names.set_bytes(1, b"old-pod")
    names.set_bytes(2, b"(none)")
    data = rewrite.utsns(single(images.UTSNS, names), "new-pod")
    (entry,) = images.decode(data, "utsns-9.img").entries
    assert Message.parse(entry.message).text(1) == "new-pod"
    assert Message.parse(entry.message).text(2) == "(none)"


def test_restore_shall_not_lock_the_network() -> None:
    before = Message()
    before.set_uint(1, 2)
    before.set_uint(11, 0)
    before.set_bytes(13, b"run-id")
    data = rewrite.inventory(single(images.INVENTORY, before))
    (entry,) = images.decode(data, "inventory.img").entries
    after = Message.parse(entry.message)
    assert [after.uint(1), after.uint(11), after.blob(13)] == [2, 2, b"run-id"]


def test_the_wrong_image_in_a_place_is_broken() -> None:
    files = files_image()
    with pytest.raises(Broken, match="should hold one entry of type utsns"):
        rewrite.utsns(files, "x")
    with pytest.raises(Broken, match="should hold one entry of type inventory"):
        rewrite.inventory(single(images.INVENTORY, Message(), count=2))
    with pytest.raises(Broken, match="it holds utsns"):
        rewrite.files(single(images.UTSNS, Message()), old=[], new=[])


def timer(value: tuple[int, int], interval: tuple[int, int]) -> Message:
    entry = Message()
    for field, number in enumerate((7, 2, 0, 1, 1, 0, *value, *interval), start=1):
        if field != 3:
            entry.set_uint(field, number)
    file = Message()
    file.set_uint(1, 17)  # TIMERFD
    file.set_uint(2, 7)
    file.set_message(12, entry)
    return file


@pytest.mark.parametrize(
    ("value", "interval", "wanted"),
    [
        ((0, 0), (0, 50_000_000), (0, 50_000_000)),
        ((0, 0), (3, 7), (3, 7)),
        ((0, 1), (3, 7), (0, 1)),
        ((2, 0), (0, 0), (2, 0)),
        ((0, 0), (0, 0), (0, 0)),
    ],
)
def test_only_a_periodic_timer_that_has_expired_is_set_going_again(
    value: tuple[int, int], interval: tuple[int, int], wanted: tuple[int, int]
) -> None:
    header = struct.pack("<II", images.COMMON_MAGIC, images.FILES)
    entries = [Entry(timer(value, interval).encode())]
    before = images.encode(Image(header, images.FILES, entries))
    after, _ = rewrite.files(before, old=[OLD], new=[NEW])
    entry = Message.parse(images.decode(after, "files.img").entries[0].message).message(12)
    assert (entry.uint(7), entry.uint(8)) == wanted
    assert (entry.uint(9), entry.uint(10), entry.uint(5)) == (*interval, 1)
    assert (after == before) == (value == wanted)
