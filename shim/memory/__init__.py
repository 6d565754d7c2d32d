"""Memory that is mapped at restore instead of copied.

CRIU reads every page into the new process before it runs. After a dump this package makes large
private anonymous areas private mappings of one file, ``pages``, which the restored process faults
in as it needs them. The container reaches that file at :data:`MOUNT_POINT`.

Only constants here: a restore, which is on the start path, imports no more.
"""

from __future__ import annotations

MOUNT_POINT = "/.podthaw-pages"
"""Where a restored container finds the file, by a read-only bind mount of it."""

PAGES = "pages"
"""The memory: sparse; what is not stored is zero. At the root of a snapshot, as the next two."""

SUMS = "pages.sums"
"""The digests of the stored ranges, one line each: offset, length, SHA-256 (``sums.py``)."""

MEMORY = "memory.json"
"""Which area of which process lies where (``model.py``)."""
