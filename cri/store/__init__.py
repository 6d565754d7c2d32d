"""The snapshot store.

Map
    ``store``        :class:`Store`, all operations
    ``refs``         namespaces, names, digests, references: what may be written, pure
    ``lookup``       from what is written to a snapshot
    ``files``        reading and writing below the root, atomic and never through a link
    ``publication``  a new snapshot: staged, checked, synced, renamed into place
    ``names``        names that point to digests
    ``pins``         what keeps a snapshot from being removed
    ``removal``      one snapshot out of the store
    ``gc``           what garbage collection removes, pure
    ``leftovers``    what processes that died left behind
    ``artifacts``    the files of a snapshot against its manifest
    ``entry``        what the store knows of one snapshot
"""

from cri.store.entry import Snapshot
from cri.store.gc import Policy, Removal
from cri.store.lookup import Found
from cri.store.removal import Force
from cri.store.store import Collected, Store

__all__ = ["Collected", "Force", "Found", "Policy", "Removal", "Snapshot", "Store"]
