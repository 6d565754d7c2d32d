"""What an image says that its containers run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def entrypoint_and_cmd(info: Mapping[str, str]) -> tuple[list[str], list[str]] | None:
    """Entrypoint and command of an image, from the ``info`` of a verbose ImageStatus answer.

    containerd puts a JSON text there, ``{"imageSpec": {"config": {…}}}``. None when the answer
    does not tell.
    """
    try:
        config: Any = json.loads(info["info"])["imageSpec"]["config"]
        entrypoint, cmd = [*(config.get("Entrypoint") or ())], [*(config.get("Cmd") or ())]
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    if not all(isinstance(word, str) for word in [*entrypoint, *cmd]):
        return None
    return entrypoint, cmd
