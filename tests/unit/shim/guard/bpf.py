"""An interpreter of classic BPF as seccomp runs it, for the instructions that the filter uses."""

from __future__ import annotations

import struct

MASK = 0xFFFFFFFF


def data(number: int, arguments: tuple[int, ...] = (), *, arch: int = 0xC000003E) -> bytes:
    """``struct seccomp_data``."""
    padded = (*arguments, *(0,) * 6)[:6]
    return struct.pack("=iIQ6Q", number, arch, 0, *padded)


def run(  # noqa: C901, PLR0912 - one case for each instruction
    program: bytes, given: bytes, *, constant: bool = False
) -> int:
    """The answer of a program.

    With ``constant`` as the kernel works it out in advance: only number and architecture are known,
    and only a few instructions (seccomp_is_const_allow); -1 when that is not enough.
    """
    code = [*struct.iter_unpack("=HBBI", program)]
    assert len(code) <= 4096
    a = x = at = 0
    memory = [0] * 16
    while True:
        operation, yes, no, k = code[at]
        at += 1
        if constant and operation not in (0x20, 0x06, 0x05, 0x15, 0x25, 0x35, 0x45, 0x54):
            return -1
        match operation:
            case 0x20:
                if constant and k not in (0, 4):
                    return -1
                (a,) = struct.unpack_from("=I", given, k)
            case 0x00:
                a = k
            case 0x60:
                a = memory[k]
            case 0x61:
                x = memory[k]
            case 0x02:
                memory[k] = a
            case 0x07:
                x = a
            case 0x06:
                return k
            case 0x05:
                at += k
            case 0x15 | 0x25 | 0x35 | 0x45 | 0x2D | 0x3D:
                other = x if operation & 8 else k
                kind = operation & 0xF7
                holds = {
                    0x15: a == other,
                    0x25: a > other,
                    0x35: a >= other,
                    0x45: a & other != 0,
                }[kind]
                at += yes if holds else no
            case 0x04:
                a = (a + k) & MASK
            case 0x0C:
                a = (a + x) & MASK
            case 0x4C:
                a |= x
            case 0x64:
                a = (a << k) & MASK
            case 0x74:
                a >>= k
            case _:
                raise AssertionError(f"the interpreter knows no instruction {operation:#x}")
