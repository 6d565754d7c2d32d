"""What can go wrong, named by what the caller does next.

    PodthawError
    ├── Unfit     not here or not now: start cold; the snapshot stays good
    ├── Broken    the snapshot itself failed: start cold and quarantine it on this node
    └── Refused   the request must not be served at all: fail

Every message is one sentence that a person can act on: the fact that differs, what was wanted
and what was found.
"""

from __future__ import annotations


class PodthawError(Exception):
    """Base of all expected failures; its text is shown to users as it is."""

    kind = "error"

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
        """More lines for a log or an Event, e.g. the end of CRIU's log; may be empty."""


class Unfit(PodthawError):
    """The snapshot cannot be used for this request on this host at this time."""

    kind = "unfit"


class Broken(PodthawError):
    """The snapshot is damaged or CRIU could not restore it."""

    kind = "broken"


class Refused(PodthawError):
    """The request is malformed, not allowed, or would lose data."""

    kind = "refused"
