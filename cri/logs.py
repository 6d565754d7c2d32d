"""The daemon's log on standard error: as kubelet's and containerd's neighbours read it, or JSON."""

from __future__ import annotations

import json
import logging
import sys
import time

_LETTERS = {"DEBUG": "D", "INFO": "I", "WARNING": "W", "ERROR": "E", "CRITICAL": "F"}


class TextFormatter(logging.Formatter):
    """klog's line: ``I1124 10:16:05.123456   1234 relay.py:42] text key="value"``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on lines of its own."""
        when = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1_000_000)
        head = f"{_LETTERS.get(record.levelname, 'I')}{when}.{micros:06d} {record.process:>7}"
        text = f"{head} {record.filename}:{record.lineno}] {_one_line(record.getMessage())}"
        for key, value in _fields(record).items():
            if value not in (None, "", (), [], {}):
                text += f" {key}={json.dumps(value, default=str, ensure_ascii=False)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``ts`` (RFC 3339, UTC), ``level``, ``logger``, ``msg`` and fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, a traceback in ``error``."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "ts": f"{when}.{int(record.created % 1 * 1000):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        line |= {key: value for key, value in _fields(record).items() if key not in line}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The facts that a caller gave with ``extra={"fields": {…}}``."""
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _one_line(text: str) -> str:
    """What a pod or containerd put into a message must not look like another line."""
    return text.replace("\n", "\\n").replace("\r", "\\r")


def configure(level: str, form: str) -> None:
    """Sends every log record of ``level`` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It would write every header of every call.
    logging.getLogger("hpack").setLevel(logging.WARNING)
