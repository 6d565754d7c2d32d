"""Report an error as runc does, so that containerd finds it where it looks.

runc writes through logrus to ``--log`` (appending) in ``--log-format`` text or json, and the
plain message to standard error as well; without ``--log`` the formatted line goes to standard
error alone. containerd shows the message of the last line whose level is ``error``.
"""

from __future__ import annotations

import os
import sys
import time


def error(message: str, log: str = "", log_format: str = "text") -> None:
    """Write one error. Never raises: there is nowhere left to report to."""
    line = _json(message) if log_format == "json" else _text(message)
    if log:
        try:
            fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, line.encode("utf-8", "replace"))
            finally:
                os.close(fd)
            line = message + "\n"
        except OSError:
            pass  # standard error still says it
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _json(message: str) -> str:
    import json  # noqa: PLC0415 - costs milliseconds that only an error needs to pay

    return json.dumps({"level": "error", "msg": message, "time": _now()}) + "\n"


def _text(message: str) -> str:
    quoted = message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'time="{_now()}" level=error msg="{quoted}"\n'


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
