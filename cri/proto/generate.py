"""Writes ``cri_pb2.py`` and ``cri_pb2.pyi`` again from ``cri.proto``: needs grpcio-tools.

``python -m cri.proto.generate`` writes them in place; :func:`generate` also serves the test that
what is committed is fresh.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent


def generate(out: Path) -> None:
    """Writes the generated modules to ``out/cri/proto/``.

    Raises:
        subprocess.CalledProcessError: protoc refused the file; it has said why on stderr.
    """
    root = PACKAGE.parent.parent
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={root}"]
    command += [f"--python_out={out}", f"--pyi_out={out}", "cri/proto/cri.proto"]
    subprocess.run(command, check=True, cwd=root)


if __name__ == "__main__":
    generate(PACKAGE.parent.parent)
