"""What a dump has to know of a container, asked of this very process."""

from __future__ import annotations

from pathlib import Path

from shim import outside
from tests.unit.shim.test_capture import container


def test_only_joined_namespaces_are_external(tmp_path: Path) -> None:
    joined = {"linux": {"namespaces": [{"type": "network", "path": "/x"}, {"type": "pid"}]}}
    inode = Path("/proc/self/ns/net").stat().st_ino
    found = outside.external_namespaces(container(tmp_path, spec=joined))
    assert found == [f"net[{inode}]:extRootNetNS"]
    assert outside.external_namespaces(container(tmp_path)) == []


def test_standard_streams_are_those_that_are_still_held(tmp_path: Path) -> None:
    now = [str(Path(f"/proc/self/fd/{number}").readlink()) for number in range(3)]
    assert outside.standard_streams(container(tmp_path)) == now
    given = (now[0], "pipe:[1]", now[2])
    # A restored container was given other pipes than its snapshot's.
    assert outside.standard_streams(container(tmp_path, descriptors=given)) == now
