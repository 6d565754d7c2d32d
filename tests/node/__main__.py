"""``python -m tests.node``: build whatever the tests on the node need, before they start.

``--control-plane`` also builds the rest of Kubernetes, for clusters that are started by hand.
"""

from __future__ import annotations

import sys

from tests.node import engine, gobuild, images, kubernetes
from tests.node.debian import Unavailable
from tests.node.node import FLAVOURS


def main(*, control_plane: bool) -> None:
    client = engine.connect()
    for suite in images.SUITES:
        images.node_image(client, suite)
    images.workload_images()
    kubernetes.kubelet()
    for program in (*gobuild.CONTAINERD, gobuild.CHECKPOINTCTL):
        gobuild.binary(program)
    if control_plane:
        for program in gobuild.CONTROL_PLANE:
            kubernetes.program(program)
    print(f"== the test node is ready (flavours: {', '.join(FLAVOURS)})")


if __name__ == "__main__":
    try:
        main(control_plane="--control-plane" in sys.argv[1:])
    except Unavailable as error:
        sys.exit(f"the test node cannot be built: {error}")
