"""A process's address space, ``mm-N.img``: the areas (VMAs) and how CRIU will map each.

Only what decides whether an area is mapped or copied is decoded; everything else is kept as it
stands. Field numbers: images/mm.proto and images/vma.proto of CRIU 4.2, the same in 4.1; flags:
criu/include/image.h, bits of a VMA's status; asm-generic/mman.h for x86-64.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken

# mm_entry
_START_BRK, _BRK, _EXE, _VMAS = 6, 7, 12, 14
# vma_entry
_START, _END, _PGOFF, _SHMID, _PROT, _FLAGS, _STATUS, _FD, _MADV, _FDFLAGS = range(1, 11)
_REQUIRED = (_START, _END, _PGOFF, _SHMID, _PROT, _FLAGS, _STATUS, _FD)

# status
REGULAR, HEAP = 1 << 0, 1 << 5
FILE_PRIVATE, ANON_PRIVATE = 1 << 6, 1 << 9
GUARD = 1 << 16
"""No VMA of the kernel's: a range that MADV_GUARD_INSTALL has made inaccessible."""

# flags
MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE = 0x02, 0x20, 0x4000
_O_RDONLY = 0


@dataclass(frozen=True, slots=True)
class Vma:
    """One area."""

    start: int
    end: int
    pgoff: int
    """Of a file mapping: offset in the file, in bytes."""
    shmid: int
    """Of a file mapping: the file's id in ``files.img``."""
    prot: int
    flags: int
    """Of mmap."""
    status: int
    """What kind of area it is, in bits of CRIU's."""
    madv: int
    """Bit N: madvise's advice N is in force."""
    raw: bytes
    """The message, with all that is not decoded."""

    @property
    def pages(self) -> int:
        """How many pages it spans, whether they hold anything or not."""
        return (self.end - self.start) >> 12

    def as_file_mapping(self, file_id: int, offset: int) -> Vma:
        """The same addresses as a private mapping of a file that is opened for reading."""
        return dataclasses.replace(
            self,
            pgoff=offset,
            shmid=file_id,
            flags=self.flags & ~MAP_ANONYMOUS | MAP_PRIVATE,
            status=REGULAR | FILE_PRIVATE,
        )

    def as_anonymous(self, *, heap: bool) -> Vma:
        """The same addresses as private anonymous memory."""
        return dataclasses.replace(
            self,
            pgoff=0,
            shmid=0,
            flags=self.flags | MAP_ANONYMOUS | MAP_PRIVATE,
            status=REGULAR | ANON_PRIVATE | (HEAP if heap else 0),
        )

    def encode(self) -> bytes:
        """The message, with what differs from ``raw`` set in it."""
        message = Message.parse(self.raw)
        for field, value in (
            (_PGOFF, self.pgoff),
            (_SHMID, self.shmid),
            (_FLAGS, self.flags),
            (_STATUS, self.status),
        ):
            if message.uint(field) != value:
                message.set_uint(field, value)
        if self.status & FILE_PRIVATE and _FDFLAGS not in message:
            message.set_uint(_FDFLAGS, _O_RDONLY)
        if self.status & ANON_PRIVATE:
            message.remove(_FDFLAGS)
        return message.encode()


@dataclass(slots=True)
class AddressSpace:
    """``mm-N.img``, decoded as far as needed; set ``vmas`` to change it."""

    vmas: list[Vma]
    """By address; the ranges with the status GUARD come last."""
    exe: int
    """The executable's id in ``files.img``."""
    brk: tuple[int, int]
    """Where the heap of brk(2) begins and ends."""
    _image: images.Image
    _message: Message

    @classmethod
    def decode(cls, data: bytes, name: str) -> AddressSpace:
        """Take the image apart; Broken when it is damaged or of a layout not known."""
        image = images.decode(data, name)
        if image.magic != images.MM or len(image.entries) != 1:
            raise Broken(
                f"{name} should hold one address space, found {len(image.entries)} entries "
                f"of type {images.NAMES[image.magic]}"
            )
        message = Message.parse(image.entries[0].message)
        vmas = [_vma(field.value, name) for field in message if field.number == _VMAS]
        if not vmas:  # before CRIU 2.0 they were in an image of their own
            raise Broken(f"{name} lists no memory areas: it is of a CRIU that is not supported")
        return cls(
            vmas, message.uint(_EXE), (message.uint(_START_BRK), message.uint(_BRK)), image, message
        )

    def encode(self) -> bytes:
        """The image with the areas as they are now; byte for byte the old one without a change."""
        position = iter(self.vmas)
        fields = []
        for field in self._message:
            if field.number != _VMAS:
                fields.append(field)
                continue
            one = Message([field])
            vma = next(position)
            if not _same(vma):
                one.set_bytes(_VMAS, vma.encode())
            fields += list(one)
        entry = images.Entry(Message(fields).encode())
        return images.encode(dataclasses.replace(self._image, entries=[entry]))

    def is_heap(self, vma: Vma) -> bool:
        """Whether an area lies where brk(2) puts memory."""
        start, end = self.brk
        return vma.start < end and start < vma.end


def _vma(raw: int | bytes, name: str) -> Vma:
    if isinstance(raw, int):
        raise Broken(f"{name} is damaged: a memory area in it is a number")
    message = Message.parse(raw)
    values = {field.number: field.value for field in message if isinstance(field.value, int)}
    try:
        start, end, pgoff, shmid, prot, flags, status, _ = (values[key] for key in _REQUIRED)
    except KeyError as error:
        raise Broken(f"{name} is damaged: a memory area in it lacks field {error}") from None
    if not 0 <= start < end or (start | end) & 0xFFF:
        raise Broken(f"{name} is damaged: it has a memory area from {start:#x} to {end:#x}")
    return Vma(start, end, pgoff, shmid, prot, flags, status, values.get(_MADV, 0), raw)


def _same(vma: Vma) -> bool:
    return _vma(vma.raw, "") == vma
