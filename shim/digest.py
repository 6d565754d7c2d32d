"""SHA-256 of something small, without loading OpenSSL: that alone takes 2 ms of a start."""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256  # what hashlib itself falls back to, from Python 3.12 on
    except ImportError:
        from hashlib import sha256


def hexdigest(data: bytes) -> str:
    """SHA-256 in hexadecimal. For large data use hashlib, which is faster."""
    return sha256(data).hexdigest()
