"""Handles of cuBLAS and cuDNN that live through it: eager products and convolutions in PyTorch.

``handles.py``: no graph; every step calls both libraries through the handles made at the first.
"""

from __future__ import annotations

import hashlib

import telling


def main() -> None:
    """Run for ever."""
    telling.start()
    import torch

    torch.manual_seed(20261124)
    torch.set_grad_enabled(False)
    torch.backends.cudnn.deterministic = True
    kernel = torch.randn(64, 64, 3, 3, device="cuda") / 24
    matrix = torch.randn(1024, 1024, device="cuda") / 32
    picture = torch.randn(8, 64, 128, 128, device="cuda")
    telling.ready(cudnn=torch.backends.cudnn.version(), torch=torch.__version__)
    number = 0
    while True:
        number += 1
        turned = torch.tanh(torch.nn.functional.conv2d(picture, kernel, padding=1))
        mixed = turned.reshape(-1, 1024) @ matrix
        picture = torch.tanh(mixed).reshape(picture.shape)
        data = picture.cpu().numpy().tobytes()
        telling.step(number, hashlib.sha256(data).hexdigest()[:32])


main()
