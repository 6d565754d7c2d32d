"""One thing that stands in the way of a capture, told so that a person can act on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["fail", "warn"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that stands in the way of a capture."""

    check: str
    """Short name of the check, e.g. ``io-uring``."""
    severity: Severity
    """``fail``: the capture is not tried; ``warn``: it is, and something will not come back."""
    what: str
    """The process, descriptor or path."""
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.remedy}"
