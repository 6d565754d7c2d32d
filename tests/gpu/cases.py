"""What is captured and restored: the programs, and what each is to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.gpu import image
from tests.gpu.pods import IMAGE, Program

GPU = ("nvidia.com/gpu=0",)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One program, with what it is about."""

    name: str
    about: str
    script: Sequence[str]
    """The program in tests/gpu/programs and its arguments."""
    handler: str = ""
    own: bool = False
    """Whether the image has a C library and a Python of its own."""
    restores: int = 1
    again: bool = False
    """Whether a restored container is captured, and restored from that."""

    def program(self, python: str, folders: Sequence[str], devices: Sequence[str]) -> Program:
        """The container."""
        if self.own:
            python, folders = image.INTERPRETER, ()
        command = [python, "-B", "-u", f"/programs/{self.script[0]}", *self.script[1:]]
        env = {"PYTHONDONTWRITEBYTECODE": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        through = self.handler == "nvidia"
        if through:  # by nvidia-container-runtime: it reads this variable
            # A CDI name is looked up in the specifications; from a number it makes its own.
            names = [name.partition("=")[2] for name in devices] if self.own else devices
            env["NVIDIA_VISIBLE_DEVICES"] = ",".join(names)
        return Program(
            command=command,
            devices=() if through else devices,
            handler=self.handler,
            env=env,
            image=image.OWN if self.own else IMAGE,
            folders=folders,
        )


CASES = (
    Case(
        name="driver",
        about="driver API, a stream, a captured graph, 1 GiB; a second capture of the restored one",
        script=("driver.py", "1024"),
        again=True,
    ),
    Case(
        name="nvidia-handler",
        about="the same by nvidia-container-runtime, mode cdi",
        script=("driver.py", "256"),
        handler="nvidia",
    ),
    Case(
        name="own-image",
        about="… mode jit-cdi: libraries, links and cache into an image with its own C library",
        script=("driver.py", "256"),
        handler="nvidia",
        own=True,
        again=True,
    ),
    Case(name="two", about="two CUDA processes in one container", script=("tree.py", "2", "512")),
    Case(name="child", about="only a child uses CUDA", script=("tree.py", "1", "512")),
    Case(
        name="pinned",
        about="256 MiB of pinned host memory, which the host changes at each step",
        script=("driver.py", "1024", "256"),
    ),
    Case(
        name="handles",
        about="PyTorch, live handles of cuBLAS and cuDNN, no graph",
        script=("handles.py",),
    ),
    Case(
        name="graph-1",
        about="PyTorch, a captured CUDA graph, 1 GiB of weights",
        script=("graph.py", "1024"),
    ),
    Case(
        name="graph-4",
        about="PyTorch, a captured CUDA graph, 4 GiB of weights",
        script=("graph.py", "4096"),
    ),
    Case(
        name="graph-16",
        about="PyTorch, a captured CUDA graph, 16 GiB of weights",
        script=("graph.py", "16384"),
    ),
    Case(
        name="twenty",
        about="20 restores in a row: nothing grows",
        script=("driver.py", "256"),
        restores=20,
    ),
)

PLAIN = (
    Case(
        name="plain",
        about="no GPU: a dry run of all the rest",
        script=("plain.py", "256"),
        again=True,
    ),
    Case(
        name="plain-own",
        about="… in an image with its own C library",
        script=("plain.py", "8"),
        own=True,
    ),
    Case(name="plain-twenty", about="… restored three times", script=("plain.py", "8"), restores=3),
)
