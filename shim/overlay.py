"""The overlay mount of a container's root filesystem: found, wiped and mounted again.

The snapshotter's mount is the only place that knows how the layer was mounted, so its options
are read back from mountinfo and given to mount(2) as they were. Lower directories may be
relative: containerd changes into the snapshotter's folder when the option gets too long.
"""

from __future__ import annotations

import os
import re
import stat

from shim import mounts
from shim.errors import Unfit
from shim.record import record

_SHOWN_ONLY = frozenset({"rw", "ro", "nouserxattr", "seclabel"})
"""Options that the kernel shows but that are not options of the overlay filesystem."""


@record(frozen=True, kw_only=True)
class Layer:
    """A writable layer and how to mount it again."""

    target: str
    """Where the root filesystem is mounted; absolute, no symbolic links."""
    upper: str
    """Absolute path of the writable layer."""
    work: str
    source: str
    flags: int
    """For mount(2)."""
    data: str
    """For mount(2): the overlay's options."""
    folder: str
    """Working directory in which the options' relative paths are meant."""
    mode: int
    """Permission bits, owner and group of the writable layer's top before any change."""
    owner: int
    group: int


def find(target: str) -> Layer:
    """The overlay mounted at ``target``.

    Raises Unfit when there is none, or when its writable layer is not empty: a layer that already
    has something in it could not be given back as it was.
    """
    target = os.path.realpath(target)
    mount = mounts.at(target)
    if mount is None or mount.type != "overlay":
        kind = mount.type if mount else "no mount"
        raise Unfit(
            f"the root filesystem is {kind}, and a snapshot with changed files needs an overlay"
        )
    return layer_of(mount, target)


def layer_of(mount: mounts.Mounted, target: str) -> Layer:
    """The layer of an overlay mount; Unfit as for :func:`find`."""
    upper, work = mount.option("upperdir"), mount.option("workdir")
    if not upper or not work:
        raise Unfit("the root filesystem's overlay has no writable layer")
    folder = _folder(mount, _name(upper))
    upper, work = os.path.join(folder, _name(upper)), os.path.join(folder, _name(work))
    try:
        status = os.stat(upper)
        content = os.listdir(upper)
    except OSError as error:
        raise Unfit(
            f"the container's writable layer {upper} cannot be read: {error.strerror}"
        ) from error
    if content:
        raise Unfit(
            "the container's writable layer is not empty before the start, e.g. it has "
            f"{min(content)!r}"
        )
    return Layer(
        target=target,
        upper=upper,
        work=work,
        source=mount.source,
        flags=mounts.flags_of(mount),
        data=_data(mount),
        folder=folder,
        mode=stat.S_IMODE(status.st_mode),
        owner=status.st_uid,
        group=status.st_gid,
    )


def reset(layer: Layer, *, mount: bool = True) -> None:
    """Give the root filesystem back as it was before any change. Safe to call again.

    ``mount`` is false when nobody will start the container any more: the layer is emptied and
    stays unmounted then, since whoever removes the container may already have unmounted it.
    Raises OSError; the root filesystem must not be used then.
    """
    mounts.unmount_all_below(layer.target)
    while mounts.at(layer.target) is not None:
        mounts.unmount(layer.target, detach=True)
    if not mount and not os.path.isdir(layer.upper):
        return  # the container was removed, and its layer with it
    _empty(layer.upper)
    _empty(layer.work)
    os.chown(layer.upper, layer.owner, layer.group)
    os.chmod(layer.upper, layer.mode)
    for name in os.listxattr(layer.upper):
        if name.startswith(("user.", "security.capability", "trusted.overlay.")):
            os.removexattr(layer.upper, name)
    if not mount:
        return
    before = os.getcwd()
    os.chdir(layer.folder)
    try:
        mounts.mount(layer.source, layer.target, "overlay", layer.flags, layer.data)
    finally:
        os.chdir(before)


def _folder(mount: mounts.Mounted, upper: str) -> str:
    """The folder in which relative lower directories were meant.

    containerd's overlay snapshotter keeps ``snapshots/<id>/fs`` and gives lower directories as
    ``<id>/fs`` relative to ``snapshots`` when the option gets long.
    """
    lower = mount.option("lowerdir") or mount.option("lowerdir+") or "/"
    first = _name(re.split(r"(?<!\\):", lower)[0])
    if first.startswith("/"):
        return "/"
    if not upper.startswith("/"):
        raise Unfit(f"the writable layer of the root filesystem is the relative path {upper!r}")
    parent = upper
    while parent != "/":
        parent = os.path.dirname(parent)
        if os.path.isdir(os.path.join(parent, first)):
            return parent
    raise Unfit(f"the root filesystem's layer {first!r} is nowhere above {upper}")


def _name(option: str) -> str:
    """The path that an option means: a backslash hides a comma, a colon or a backslash."""
    return re.sub(r"\\(.)", r"\1", option)


def _data(mount: mounts.Mounted) -> str:
    kept = [option for option in mount.options if option.split("=")[0] not in _SHOWN_ONLY]
    return ",".join(kept)  # commas in names still have the backslash they were given with


def _empty(folder: str) -> None:
    import shutil  # noqa: PLC0415 - only a restore that failed needs it

    with os.scandir(folder) as listed:
        entries = list(listed)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
