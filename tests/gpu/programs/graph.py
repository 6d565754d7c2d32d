"""PyTorch: a network with a captured CUDA graph, replayed at each step: ``graph.py MIB``.

The weights are bfloat16 matrices of 128 MiB. The result of a step is the input of the next, and
its digest is over all its bytes.
"""

from __future__ import annotations

import hashlib
import sys
import time

import telling

WIDTH = 8192
ROWS = 8


def main() -> None:
    """Run for ever."""
    began = time.monotonic()
    telling.start()
    import torch

    torch.manual_seed(20261124)
    torch.set_grad_enabled(False)
    size = WIDTH * WIDTH * 2 >> 20
    layers = [
        torch.randn(WIDTH, WIDTH, device="cuda", dtype=torch.bfloat16) / WIDTH**0.5
        for _ in range(max(1, int(sys.argv[1]) // size))
    ]
    held = torch.randn(ROWS, WIDTH, device="cuda", dtype=torch.bfloat16)

    def forward() -> None:
        value = held
        for layer in layers:
            value = torch.tanh(value @ layer * 1.5)
        held.copy_(value)

    forward()  # cuBLAS takes its workspace now
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    telling.ready(seconds=time.monotonic() - began, torch=torch.__version__)
    number = 0
    while True:
        number += 1
        graph.replay()
        data = held.view(torch.int16).cpu().numpy().tobytes()
        telling.step(number, hashlib.sha256(data).hexdigest()[:32])


main()
