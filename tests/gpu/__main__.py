"""Capture and restore on a real GPU: ``python -m tests.gpu pack``, then there ``… run``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

TARGET = Path(__file__).parents[2] / "build/gpu"


def main() -> int:
    """Read the command line, pack or run."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pack", help="write build/gpu/node.tar.xz, on a machine with a network")
    reporter = commands.add_parser("report", help="tables from results.json")
    reporter.add_argument("files", type=Path, nargs="+", metavar="FILE")
    runner = commands.add_parser("run", help="run everything, as root, on the machine with the GPU")
    runner.add_argument("--archive", type=Path, default=TARGET / "node.tar.xz")
    runner.add_argument("--output", type=Path, default=TARGET / "out", help="results.json and logs")
    runner.add_argument("--cases", default="all", help="names, by commas; none: -")
    runner.add_argument("--sizes", default="2048,16384", help="MiB of the figures, by commas; -")
    runner.add_argument("--seconds", type=float, default=3600, help="no case begins after that")
    runner.add_argument("--python", default=sys.executable, help="the programs' (with PyTorch)")
    runner.add_argument(
        "--folders", default="/usr,/opt", help="folders of the machine that the programs see"
    )
    runner.add_argument(
        "--driver",
        choices=["podthaw", "script"],
        default="podthaw",
        help="who gives a restored process its GPU: Podthaw, or the test after StartContainer",
    )
    runner.add_argument("--no-gpu", action="store_true", help="a dry run with a plain program")
    options = parser.parse_args()
    if options.command == "pack":
        from tests.gpu import pack

        path = pack.pack()
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        return 0
    if options.command == "report":
        from tests.gpu import report

        print(report.report(options.files), end="")
        return 0
    from tests.gpu import bare, cdi

    settings = {
        "gpu": not options.no_gpu,
        "cases": [] if options.cases == "-" else options.cases.split(","),
        "sizes": [] if options.sizes == "-" else [int(one) for one in options.sizes.split(",")],
        "seconds": options.seconds,
        "python": options.python,
        "folders": options.folders.split(","),
        "driver": options.driver,
    }
    return bare.enter(options.archive, options.output, json.dumps(settings), cdi.places())


if __name__ == "__main__":
    sys.exit(main())
