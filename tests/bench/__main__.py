"""All measurements, one after the other: ``python -m tests.bench``.

The results also go to build/bench.json. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPORT = Path(__file__).resolve().parents[2] / "build/bench.json"

PARTS = {
    "proxy": "what the proxy adds to a call",
    "shim": "what podthaw-runc adds to an ordinary start",
}


def main() -> int:
    report: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for part, what in PARTS.items():
            print(f"== {part}: {what}", flush=True)
            result = Path(scratch) / f"{part}.json"
            command = [sys.executable, "-m", f"tests.bench.{part}", "--json", str(result)]
            if subprocess.run(command, check=False).returncode:
                failed.append(part)
            report[part] = json.loads(result.read_text()) if result.exists() else None
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    verdict = f"not met, or not measured: {', '.join(failed)}" if failed else "all targets met"
    print(f"== {verdict}; the figures are in build/{REPORT.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
