"""Changes in a directory tree whose content cannot be trusted, by names that cannot either.

Every path is walked from an open directory, one component at a time, and no symbolic link is
ever followed: neither one of the image, nor one that an archive made a moment before, nor one
that a running process puts in the way. Names are relative and have no ``..``.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager

from shim.errors import Broken

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_LONGEST = 255  # bytes of one name: NAME_MAX of every Linux file system

Parts = tuple[str, ...]


def split(name: str) -> Parts:
    """The components of an archive's name; empty for the top. Raises Broken when it leads out."""
    if "\0" in name or name.startswith("/"):
        raise Broken(f"the snapshot has a file named {name[:200]!r}, which is not a relative path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise Broken(f"the snapshot has a file named {name[:200]!r}, which leads out of its folder")
    if any(len(os.fsencode(part)) > _LONGEST for part in parts):
        raise Broken(f"the snapshot has a file named {name[:200]!r}…, which is too long")
    return parts


class Tree:
    """An open directory and changes below it. OSError is passed on as it comes."""

    def __init__(self, top: str) -> None:
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parts: Parts = ()
        self._fd = self._top

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.forget()
        os.close(self._top)

    def forget(self) -> None:
        """Let go of the directory that was walked to last (it may be removed)."""
        if self._fd != self._top:
            os.close(self._fd)
        self._fd, self._parts = self._top, ()

    def directory(self, parts: Parts) -> int:
        """A descriptor of the directory ``parts``, good until the next call on this tree.

        Raises Broken when a component is a symbolic link or no directory, FileNotFoundError.
        """
        if parts == self._parts:
            return self._fd
        self.forget()
        fd = self._top
        try:
            for position, part in enumerate(parts):
                try:
                    deeper = os.open(part, _DIRECTORY, dir_fd=fd)
                except NotADirectoryError as error:  # Linux says this of a link, too
                    where = "/".join(parts[: position + 1])
                    raise Broken(
                        f"the snapshot has files below {where!r}, which is no directory here"
                    ) from error
                if fd != self._top:
                    os.close(fd)
                fd = deeper
        except BaseException:
            if fd != self._top:
                os.close(fd)
            raise
        self._fd, self._parts = fd, parts
        return fd

    @contextmanager
    def held(self, parts: Parts) -> Iterator[int]:
        """A descriptor of the directory ``parts`` that later calls leave open."""
        fd = os.dup(self.directory(parts))
        try:
            yield fd
        finally:
            os.close(fd)

    def status(self, parts: Parts) -> os.stat_result | None:
        """Status of an entry (a link's own), or None when there is none."""
        if not parts:
            return os.fstat(self._top)
        try:
            folder = self.directory(parts[:-1])
            return os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def remove(self, parts: Parts) -> None:
        """Remove an entry with everything below it; nothing when there is none."""
        status = self.status(parts)
        if status is None:
            return
        folder = self.directory(parts[:-1])
        if stat.S_ISDIR(status.st_mode):
            self.clear(parts)
            os.rmdir(parts[-1], dir_fd=self.directory(parts[:-1]))
        else:
            os.unlink(parts[-1], dir_fd=folder)

    def clear(self, parts: Parts) -> None:
        """Remove everything below a directory; nothing when it is absent."""
        try:
            with self.held(parts) as fd:
                self.forget()
                _clear(fd)
        except FileNotFoundError:
            return


def _clear(fd: int) -> None:
    """Remove the content of an open directory, following no link."""
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
            continue
        child = os.open(name, _DIRECTORY, dir_fd=fd)
        try:
            _clear(child)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=fd)
