"""Reading a snapshot ahead: what a pod will need is in the page cache when its containers start.

``ranges``      arithmetic of ranges of a file
``cache``       what of a file is in the page cache
``reading``     reads ranges of files in the background: bounded, cancelled, out of the way
``order``       what of a snapshot is read, and in which order
``hot``         which pages restored containers touched first: this node's memory of it
``learning``    watches a restored container to find them
``prefetcher``  which pods want which snapshot; one reader a snapshot
"""

from __future__ import annotations

from typing import Literal

Mode = Literal["all", "hot", "none"]
"""How much is read ahead: everything; all but the rest of the mapped memory; nothing."""
