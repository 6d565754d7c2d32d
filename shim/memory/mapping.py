"""The two ways to finish a dump: map its memory, or have all of it copied at restore.

Both work on the images of a finished dump in place, and both make them stand alone: nothing of
an earlier snapshot or of a dump before the last (CRIU's ``parent``) is needed any more.
"""

from __future__ import annotations

from pathlib import Path

from shim.memory.model import Memory


def map_memory(images: Path, stage: Path, *, earlier: Path | None = None) -> Memory:
    """Move the large private anonymous areas of a dump into ``stage/pages``.

    ``images`` is CRIU's image folder, rewritten in place; ``stage`` is the root of the snapshot to
    be, on the same file system, and gets ``pages``, ``pages.sums`` and ``memory.json``.
    ``earlier`` is the ``pages`` file that the dumped container has at MOUNT_POINT, when it was
    restored from a mapped snapshot: what the dump does not hold of such an area is read there.

    A ``parent`` link in ``images`` is followed for pages that an earlier dump holds, and then
    removed; removing those folders is the caller's.

    Returns what was mapped: ``areas`` is empty when nothing was worth it, and then none of the
    three files exists, but the images still stand alone.

    Raises Broken for images that are damaged or of an unknown layout, OSError (ENOSPC, EIO …)
    when writing fails. In both cases the images are not usable; the caller drops the stage.
    """
    raise NotImplementedError


def copy_memory(images: Path, *, earlier: Path | None = None) -> None:
    """Make the images of a dump plain ones, which hold all their memory.

    For a container that was restored from a mapped snapshot (``earlier`` as for
    :func:`map_memory`): the areas become anonymous again, their pages are copied into the images,
    and the file and mount of MOUNT_POINT are dropped. For a dump with ``parent`` images: those
    pages are copied in. Any other dump is left as it is.

    Raises Broken and OSError as :func:`map_memory` does.
    """
    raise NotImplementedError
