"""Archives for tests, with entries that no honest packer would make."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any


class Tar:
    """A PAX archive under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, data: bytes | None = None, **fields: Any) -> Tar:
        """Add an entry; a file unless ``type`` says otherwise."""
        info = tarfile.TarInfo(name)
        info.mode = 0o644 if data is not None else 0o755
        info.type = tarfile.REGTYPE if data is not None else tarfile.DIRTYPE
        info.size = len(data or b"")
        for key, value in fields.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(data or b""))
        return self

    def link(self, name: str, target: str) -> Tar:
        """Add a symbolic link."""
        return self.add(name, b"", type=tarfile.SYMTYPE, linkname=target)

    def hard(self, name: str, target: str) -> Tar:
        """Add a hard link."""
        return self.add(name, b"", type=tarfile.LNKTYPE, linkname=target)

    def done(self) -> str:
        """Close it; its path."""
        self._tar.close()
        return str(self.path)
