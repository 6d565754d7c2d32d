"""Whether a snapshot can run here: facts compared, before anything is touched.

Pure. Each message says what the snapshot wants and what was found. What is not compared: memory
and CPU limits (the request's count), environment variables (the restored process keeps its own)
and the security profile and mounts, which the OCI runtime wrapper compares when it sees the
finished OCI spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from cri.cpu_flags import PRIVATE
from cri.gpus import Gpu
from cri.store.refs import shown
from shim.errors import Unfit
from shim.host import version_tuple
from shim.snapshot import HostNeeds, Source

_MAX_LISTED = 8


def check_host(wanted: HostNeeds, found: HostNeeds) -> None:
    """Unfit, with every fact that differs, unless the host has what the snapshot needs.

    A newer kernel or CRIU than at capture is good: both keep what programs and images rely on.
    An older one may lack what a process already uses, so it is not tried; only the first two
    numbers of a kernel's version count, as fixes do not take features away.
    """
    if wanted.arch != found.arch:
        raise Unfit(f"the snapshot is of a {wanted.arch} machine, this one is {found.arch}")
    differences = [
        *_features(wanted, found),
        *_older("kernel", wanted.kernel, found.kernel, parts=2),
        *_older("CRIU", wanted.criu, found.criu, parts=3),
    ]
    if wanted.page_size != found.page_size:
        differences.append(f"memory pages of {wanted.page_size} bytes, found {found.page_size}")
    if wanted.cgroup != found.cgroup:
        differences.append(f"cgroup v{wanted.cgroup}, found v{found.cgroup}")
    if differences:
        raise Unfit("the snapshot does not fit this host: wanted " + "; wanted ".join(differences))


def check_image(source: Source, image_id: str) -> None:
    """Unfit unless the container's image is the one that the snapshot was made from."""
    if source.image_digest != image_id:
        raise Unfit(
            f"the snapshot was made from another image: wanted {source.image_digest} "
            f"({shown(source.image)}), found {shown(image_id)}"
        )


def check_command(source: Source, command: Sequence[str]) -> None:
    """Unfit unless the container would start the program that the snapshot holds."""
    if list(command) != source.command:
        raise Unfit(
            f"the snapshot holds another program: wanted {shown(' '.join(command))} as the "
            f"container's command, found {shown(' '.join(source.command))} in the snapshot"
        )


def resolve_command(
    command: Sequence[str], args: Sequence[str], entrypoint: Sequence[str], cmd: Sequence[str]
) -> list[str]:
    """What a container runs: the pod's command and args over the image's, as Kubernetes has it."""
    if command:
        return [*command, *args]
    return [*entrypoint, *(args or cmd)]


def check_guard(missing: str) -> None:
    """Unfit when this host cannot guard mapped memory: ``missing`` says why, or is empty."""
    if missing:
        raise Unfit(f"the snapshot's memory is mapped, which cannot be here: {missing}")


def check_gpus(wanted: Sequence[Gpu], found: Sequence[Gpu]) -> None:
    """Unfit, with every fact that differs, unless each GPU can take the place of the old one.

    ``found`` are the container's GPUs, in the same order. The driver must be the very one: its
    library, of which each build differs, is in the memory of the processes.
    """
    if len(wanted) != len(found):
        raise Unfit(f"the snapshot wants {_gpus(len(wanted))}, found {_gpus(len(found))}")
    differences = [
        difference
        for old, new in zip(wanted, found, strict=True)
        for difference in _gpu_differences(old, new)
    ]
    if differences:
        raise Unfit("the snapshot does not fit the GPU: wanted " + "; wanted ".join(differences))


def best_gpus(wanted: Sequence[Gpu], here: Sequence[Gpu]) -> list[Gpu]:
    """GPUs of this host for those of a snapshot, each at most once, the best fitting first."""
    left, chosen = list(here), []
    for old in wanted:
        if left:
            best = min(left, key=partial(_distance, old))
            left.remove(best)
            chosen.append(best)
    return chosen


def _distance(old: Gpu, new: Gpu) -> tuple[bool, int]:
    return old.model != new.model, len(list(_gpu_differences(old, new)))


def _gpu_differences(wanted: Gpu, found: Gpu) -> Iterator[str]:
    where = f"found {{}} at {found.uuid}"
    for what, old, new in (
        ("", wanted.model, found.model),
        ("compute capability ", wanted.capability, found.capability),
        ("driver ", wanted.driver, found.driver),
        ("ECC ", wanted.ecc, found.ecc),
        ("MIG ", wanted.mig, found.mig),
    ):
        if old != new:
            yield f"{what}{shown(old)}, {where.format(shown(new))}"
    if found.memory < wanted.memory:
        yield f"{_size(wanted.memory)} of memory, {where.format(_size(found.memory))}"
    elif found.free < wanted.used:
        yield f"{_size(wanted.used)} of free memory, {where.format(_size(found.free))}"


def _gpus(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


def _features(wanted: HostNeeds, found: HostNeeds) -> list[str]:
    missing = sorted(set(wanted.cpu_features) - set(found.cpu_features) - PRIVATE)
    if not missing:
        return []
    more = f" and {len(missing) - _MAX_LISTED} more" if len(missing) > _MAX_LISTED else ""
    return [f"the CPU features {' '.join(missing[:_MAX_LISTED])}{more}, found a CPU without them"]


def _older(what: str, wanted: str, found: str, *, parts: int) -> list[str]:
    if version_tuple(found)[:parts] < version_tuple(wanted)[:parts]:
        return [f"{what} {wanted} or newer, found {found}"]
    return []
