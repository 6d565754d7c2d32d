"""The seccomp filter that stops the calls under which a file mapping and anonymous memory differ.

A program of classic BPF over ``struct seccomp_data`` (seccomp(2)). It asks for little: a call that
may matter, on an address near a mapped area, is handed to the agent; the agent looks closer. All
else is allowed by the number of the call alone, so that the kernel's cache of such answers
(kernel/seccomp.c, since Linux 5.11) spares running the program.

Addresses are compared in units of 64 KiB: that makes one 32-bit word of every address below 2^48,
and user space on x86-64 ends there unless a program asks for more.
"""

from __future__ import annotations

import itertools
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # the agent, which knows the numbers from here, starts without that package
    from collections.abc import Iterable, Sequence

ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
"""SECCOMP_RET_ALLOW and SECCOMP_RET_USER_NOTIF."""
X86_64, I386 = 0xC000003E, 0x40000003
"""AUDIT_ARCH_*: a 64-bit program can make calls of the 32-bit interface as well."""

MREMAP, MADVISE, IOCTL, PRCTL, PKEY_MPROTECT, PROCESS_MADVISE = 25, 28, 16, 157, 329, 440
I386_MREMAP, I386_MADVISE = 163, 219

PR_SET_VMA = 0x53564D41
UFFDIO_REGISTER, UFFDIO_MOVE = 0xC020AA00, 0xC028AA05
MREMAP_FIXED, MREMAP_DONTUNMAP = 2, 4

HARMLESS = (0, 1, 2, 3, 19, 20, 21, 22, 23, 103)
"""Advice of madvise(2) that both kinds of memory take alike: NORMAL, RANDOM, SEQUENTIAL, WILLNEED,
KEEPONFORK, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, GUARD_REMOVE. Any other, also one that a
later kernel brings, goes to the agent."""

UNIT = 16
"""Bits: ranges are rounded out to 64 KiB."""
MOST = 64
"""Ranges in one filter; more are merged over the smallest gaps."""
LIMIT = 1 << 48
"""No address from here on can be in a range."""

# Instructions (linux/bpf_common.h): loads and stores, jumps by a constant or by X, arithmetic.
_LD, _IMM, _LDM, _LDX_MEM, _ST, _TAX = 0x20, 0x00, 0x60, 0x61, 0x02, 0x07
_RET, _JA, _JEQ, _JGE, _JSET, _JGT_X, _JGE_X = 0x06, 0x05, 0x15, 0x35, 0x45, 0x2D, 0x3D
_ADD, _ADD_X, _OR_X, _LSH, _RSH = 0x04, 0x0C, 0x4C, 0x64, 0x74

_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_MARK = (0x506F6474, 0x68617701)
"""``Podthaw`` and a version, in two instructions behind the last answer that are never reached."""

_INSTRUCTION = struct.Struct("=HBBI")
_ADDRESS, _LENGTH, _FIRST, _LAST = 0, 2, 4, 5
"""Scratch words: a range as a call names it (low halves; the high ones follow), and its units."""


def intervals(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Address ranges (start, end in bytes) as at most :data:`MOST` sorted intervals of units.

    They cover all ranges and may cover more. ValueError for a range that is none or lies too high.
    """
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if not 0 <= start < end <= LIMIT:
            raise ValueError(f"{start:#x}-{end:#x} is no range of addresses below 2^48")
        first, after = start >> UNIT, -(-end >> UNIT)
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], after))
        else:
            merged.append((first, after))
    while len(merged) > MOST:
        gaps = [after[0] - before[1] for before, after in itertools.pairwise(merged)]
        at = gaps.index(min(gaps))
        merged[at : at + 2] = [(merged[at][0], merged[at + 1][1])]
    return merged


def build(ranges: Iterable[tuple[int, int]]) -> bytes:
    """The program for address ranges, as an array of ``struct sock_filter``. See intervals."""
    return _assemble(intervals(ranges))


def is_ours(program: bytes) -> bool:
    """Whether a program is one that :func:`build` made, byte for byte."""
    size = _INSTRUCTION.size
    if len(program) % size or len(program) < len(_HEAD) + len(_TAIL):
        return False
    if program[-len(_TAIL) :] != _TAIL:
        return False
    tests = [*_INSTRUCTION.iter_unpack(program[len(_HEAD) : -len(_TAIL)])]
    units = [(tests[at + 1][3], tests[at + 3][3]) for at in range(0, len(tests) - 4, 5)]
    return _assemble(units) == program


def _assemble(units: Sequence[tuple[int, int]]) -> bytes:
    return _HEAD + b"".join(_test(first, after) for first, after in units) + _TAIL


def _test(first: int, after: int) -> bytes:
    """Hand over when the range that the call names touches the units from first up to after."""
    return b"".join(
        _INSTRUCTION.pack(*one)
        for one in (
            (_LDM, 0, 0, _LAST),
            (_JGE, 0, 3, first),
            (_LDM, 0, 0, _FIRST),
            (_JGE, 1, 0, after),
            (_RET, 0, 0, NOTIFY),
        )
    )


class _Program:
    """A list of instructions whose jumps name labels; all jumps go forward."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, str | int, str | int, str | int]] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        self._labels[name] = len(self._lines)

    def do(self, code: int, value: int = 0) -> None:
        self._lines.append((code, 0, 0, value))

    def jump(self, code: int, value: int, yes: str, no: str = "") -> None:
        """Go on at a label; without ``no`` at the next instruction when the test fails."""
        self._lines.append((code, yes, no, value))

    def go(self, where: str) -> None:
        self._lines.append((_JA, 0, 0, where))

    def load(self, argument: int, *, high: bool = False) -> None:
        """One half of an argument of the call into the accumulator."""
        self.do(_LD, _ARGUMENTS + 8 * argument + 4 * high)

    def bytes(self) -> bytes:
        return b"".join(
            _INSTRUCTION.pack(
                code, self._offset(at, yes), self._offset(at, no), self._offset(at, value)
            )
            for at, (code, yes, no, value) in enumerate(self._lines)
        )

    def _offset(self, at: int, target: str | int) -> int:
        if isinstance(target, int):
            return target
        return self._labels[target] - at - 1 if target else 0


def _range(program: _Program, address: int, length: int) -> None:
    """Put the range that two arguments name into the scratch words, and go where it is tested."""
    for argument, word in ((address, _ADDRESS), (length, _LENGTH)):
        program.load(argument)
        program.do(_ST, word)
        program.load(argument, high=True)
        program.do(_ST, word + 1)
    program.go("range")


def _head() -> bytes:
    """All before the tests: which calls matter, and the range that they name in units."""
    program = _Program()
    _numbers(program)
    _always(program)
    _ranges(program)
    _mremap(program)
    _units(program)
    return program.bytes()


def _numbers(program: _Program) -> None:
    """Go on by interface and number, the only words that the kernel's cache allows to look at."""
    program.do(_LD, _ARCH)
    program.jump(_JEQ, X86_64, "native")
    program.jump(_JEQ, I386, "compatible", "allow")
    program.label("native")
    program.do(_LD, _NUMBER)
    for number, label in (
        (MADVISE, "madvise"),
        (MREMAP, "mremap"),
        (IOCTL, "ioctl"),
        (PRCTL, "prctl"),
        (PKEY_MPROTECT, "protect"),
        (PROCESS_MADVISE, "process"),
    ):
        program.jump(_JEQ, number, label)
    program.go("allow")
    program.label("compatible")
    program.do(_LD, _NUMBER)
    program.jump(_JEQ, I386_MADVISE, "madvise")
    program.jump(_JEQ, I386_MREMAP, "mremap")
    program.label("allow")
    program.do(_RET, ALLOW)


def _always(program: _Program) -> None:
    """Calls whose addresses stand in memory, where no filter can look."""
    program.label("ioctl")
    program.load(1)
    program.jump(_JEQ, UFFDIO_REGISTER, "notify")
    program.jump(_JEQ, UFFDIO_MOVE, "notify", "never")
    program.label("process")
    program.load(3)
    for advice in HARMLESS:
        program.jump(_JEQ, advice, "never")
    program.label("notify")
    program.do(_RET, NOTIFY)
    program.label("never")
    program.do(_RET, ALLOW)


def _ranges(program: _Program) -> None:
    program.label("prctl")
    program.load(0)
    program.jump(_JEQ, PR_SET_VMA, "name", "harmless")
    program.label("name")
    _range(program, 2, 3)
    program.label("madvise")
    program.load(2)
    for advice in HARMLESS:
        program.jump(_JEQ, advice, "harmless")
    program.label("protect")
    _range(program, 0, 1)
    program.label("harmless")
    program.do(_RET, ALLOW)


def _mremap(program: _Program) -> None:
    program.label("mremap")
    program.load(3)
    program.jump(_JSET, MREMAP_FIXED | MREMAP_DONTUNMAP, "moves")
    # Without these flags it can stay where it is unless it grows.
    program.load(1, high=True)
    program.do(_TAX)
    program.load(2, high=True)
    program.jump(_JGT_X, 0, "moves")
    program.jump(_JGE_X, 0, "same", "shrinks")
    program.label("same")
    program.load(1)
    program.do(_TAX)
    program.load(2)
    program.jump(_JGT_X, 0, "moves", "shrinks")
    program.label("shrinks")
    program.do(_RET, ALLOW)
    program.label("moves")
    _range(program, 0, 1)


def _units(program: _Program) -> None:
    """Turn the range in the scratch words into its first and last unit.

    The last one is that of the byte after the range: one too many at times, never one too few.
    """
    program.label("range")
    program.do(_LDM, _ADDRESS + 1)
    program.jump(_JGE, LIMIT >> 32, "far", "near")
    program.label("far")
    program.do(_RET, ALLOW)
    program.label("near")
    program.do(_LSH, 32 - UNIT)
    program.do(_TAX)
    program.do(_LDM, _ADDRESS)
    program.do(_RSH, UNIT)
    program.do(_OR_X)
    program.do(_ST, _FIRST)
    # A length of 2^48 or more reaches over everything, as does a sum.
    program.do(_LDM, _LENGTH + 1)
    program.jump(_JGE, LIMIT >> 32, "everything")
    program.do(_LDX_MEM, _ADDRESS + 1)
    program.do(_ADD_X)
    program.do(_ST, _LENGTH + 1)
    program.do(_LDX_MEM, _ADDRESS)
    program.do(_LDM, _LENGTH)
    program.do(_ADD_X)
    program.do(_ST, _LENGTH)
    program.jump(_JGE_X, 0, "summed")
    program.do(_LDM, _LENGTH + 1)
    program.do(_ADD, 1)  # the carry of the low halves
    program.do(_ST, _LENGTH + 1)
    program.label("summed")
    program.do(_LDM, _LENGTH + 1)
    program.jump(_JGE, LIMIT >> 32, "everything")
    program.do(_LSH, 32 - UNIT)
    program.do(_TAX)
    program.do(_LDM, _LENGTH)
    program.do(_RSH, UNIT)
    program.do(_OR_X)
    program.go("end")
    program.label("everything")
    program.do(_IMM, 0xFFFFFFFF)
    program.label("end")
    program.do(_ST, _LAST)


_HEAD = _head()
_TAIL = b"".join(
    _INSTRUCTION.pack(*one)
    for one in (
        (_RET, 0, 0, ALLOW),
        (_IMM, 0, 0, _MARK[0]),
        (_IMM, 0, 0, _MARK[1]),
        (_RET, 0, 0, ALLOW),
    )
)
