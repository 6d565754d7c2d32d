"""The members of a tar archive that cannot be trusted, each checked before it is used.

:mod:`tarfile` takes numbers as they stand: negative sizes that lead back to the same header,
owners that no kernel has, times that are no numbers. Whatever is odd makes the archive damaged.
"""

from __future__ import annotations

import math
import tarfile

from shim.errors import Broken

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

DAMAGE = (
    tarfile.TarError, ArithmeticError, ValueError, LookupError, EOFError, MemoryError
)  # fmt: skip
"""What :mod:`tarfile` raises for an archive that is none."""

_MAX_ID = (1 << 32) - 2  # the last one means none
_MAX_DEVICE = (1 << 12, 1 << 20)  # Linux: bits of major and minor
_MAX_TIME = 1 << 62  # nanoseconds


def read(tar: tarfile.TarFile, tick: Callable[[], None]) -> Iterator[tarfile.TarInfo]:
    """Every member, in order. Raises Broken, what ``tick`` raises, and one of DAMAGE."""
    last = -1
    for member in tar:
        tick()
        if member.offset <= last:
            raise _odd(member, "comes a second time")
        last = member.offset
        _check(member)
        yield member


def regions(member: tarfile.TarInfo) -> list[tuple[int, int]]:
    """Offsets in the file and lengths of a member's content, which lies in one piece in the tar."""
    if not member.issparse():
        return [(0, member.size)]
    found, end = [], 0
    holes: Any = member.sparse  # a list of pairs; typeshed knows only the header's bytes
    for start, length in holes:
        if start < end or length < 0 or start + length > member.size:
            raise _odd(member, "has a map of its holes that is none")
        end = start + length
        found.append((start, length))
    return found


def times(member: tarfile.TarInfo) -> tuple[int, int]:
    """Access and modification time in nanoseconds; from the PAX text, which is exact."""
    whole, _, fraction = member.pax_headers.get("mtime", "").partition(".")
    if whole.isdecimal() and (fraction.isdecimal() or not fraction):
        nanoseconds = int(whole) * 10**9 + int(fraction[:9].ljust(9, "0"))
    else:
        nanoseconds = int(float(member.mtime) * 1e9)
    return nanoseconds, nanoseconds


def _check(member: tarfile.TarInfo) -> None:
    if not 0 <= member.size < 1 << 62:
        raise _odd(member, f"has the size {member.size}")
    if not (0 <= member.uid <= _MAX_ID and 0 <= member.gid <= _MAX_ID):
        raise _odd(member, f"has the owner {member.uid}:{member.gid}")
    if not math.isfinite(member.mtime) or abs(times(member)[0]) > _MAX_TIME:
        raise _odd(member, f"has the time {member.pax_headers.get('mtime', member.mtime)!s:.40}")
    if "\0" in member.linkname or any("\0" in key for key in member.pax_headers):
        raise _odd(member, "has a name with a zero byte")
    numbers = (member.devmajor, member.devminor)
    if member.isdev() and not all(
        0 <= one < most for one, most in zip(numbers, _MAX_DEVICE, strict=True)
    ):
        raise _odd(member, f"has the device number {numbers[0]}:{numbers[1]}")


def _odd(member: tarfile.TarInfo, what: str) -> Broken:
    return Broken(f"the snapshot's file {member.name[:200]!r} {what}")
