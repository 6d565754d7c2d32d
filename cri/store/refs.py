"""What people may write to mean a snapshot: namespaces, names, digests, references.

All of it is hostile input: an annotation is typed by whoever may create a pod. The patterns are
narrow enough for each part to be a file name as it stands: no slash, no leading dot, no control
character, no ``..``, never longer than a file name may be. Pure functions; nothing is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shim.errors import Refused

NAME_RULE = (
    "1 to 128 lower-case letters, digits, '.', '_' and '-', "
    "with a letter or digit at both ends and no '..'"
)
NAMESPACE_RULE = "1 to 63 lower-case letters, digits and '-', with a letter or digit at both ends"
RESERVED = frozenset({"auto"})
"""What would be names, but have a meaning of their own in a pod's annotation."""

SHORT_DIGEST = 6
"""Fewest hexadecimal digits by which a snapshot may be named on the command line."""

_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SHORT = re.compile(r"(sha256:)?([0-9a-f]{1,64})")
_SHOWN = 80


def shown(text: str) -> str:
    """Foreign text quoted for a message: escaped, and cut to one line's length."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def is_name(text: str) -> bool:
    """Whether this can be a snapshot's name."""
    return _NAME.fullmatch(text) is not None and ".." not in text and text not in RESERVED


def is_namespace(text: str) -> bool:
    """Whether this can be a Kubernetes namespace (RFC 1123 label)."""
    return _NAMESPACE.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether this is ``sha256:`` and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def is_hex(text: str) -> bool:
    """Whether this is the name of a snapshot's folder: 64 lower-case hexadecimal digits."""
    return is_digest(f"sha256:{text}")


def check_name(text: str) -> str:
    """The name itself, or Refused."""
    if text in RESERVED:
        raise Refused(
            f"{text} cannot be a snapshot's name: in a pod's annotation it means a policy"
        )
    if not is_name(text):
        raise Refused(f"{shown(text)} is not a snapshot's name: wanted {NAME_RULE}")
    return text


def check_namespace(text: str) -> str:
    """The namespace itself, or Refused."""
    if not is_namespace(text):
        raise Refused(f"{shown(text)} is not a namespace: wanted {NAMESPACE_RULE}")
    return text


def hex_of(digest: str) -> str:
    """The 64 hexadecimal digits of a digest, its folder's name; Refused when it is none."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise Refused(
            f"{shown(digest)} is not a digest: wanted sha256: and 64 lower-case hexadecimal digits"
        )
    return match[1]


def short_hex(text: str) -> str | None:
    """The digits of a full or short digest, with or without ``sha256:``; None when it is none.

    Raises Refused for ``sha256:`` with too few digits. Without ``sha256:``, too few digits are no
    digest.
    """
    match = _SHORT.fullmatch(text)
    if match is None or (len(match[2]) < SHORT_DIGEST and not match[1]):
        return None
    if len(match[2]) < SHORT_DIGEST:
        raise Refused(
            f"the digest {shown(text)} is too short: wanted {SHORT_DIGEST} digits or more, "
            f"found {len(match[2])}"
        )
    return match[2]


@dataclass(frozen=True)
class Reference:
    """``NAME`` or ``NAME@sha256:<hex>``, to be resolved in one namespace."""

    name: str
    digest: str | None = None
    """The digest that the name must point to, or None for whatever it points to."""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference as an annotation holds it; Refused when it is none."""
        name, at, digest = text.partition("@")
        check_name(name)
        if not at:
            return cls(name)
        hex_of(digest)
        return cls(name, digest)

    def __str__(self) -> str:
        return self.name if self.digest is None else f"{self.name}@{self.digest}"
