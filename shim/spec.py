"""Facts of an OCI runtime spec (a bundle's ``config.json``): security profile, mounts, identity.

The security profile is what a snapshot must never change: a restored process keeps the
capabilities, the seccomp filter and the namespaces it was captured with, so the request that it
is restored for must ask for exactly the same. What legitimately differs from pod to pod is left
out: paths of namespaces, cgroup path, host name, environment, resources, the level part of an
SELinux label.
"""

from __future__ import annotations

import json
import os
import stat

from shim.digest import hexdigest
from shim.errors import Refused
from shim.snapshot import Mount

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    Spec = Mapping[str, Any]

CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def read(bundle: str | Path) -> dict[str, Any]:
    """The OCI runtime spec of a bundle; Refused when it is absent or not one."""
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            spec = json.load(file)
    except OSError as error:
        raise Refused(f"the OCI spec {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"the OCI spec {path} is not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise Refused(f"the OCI spec {path} is not a JSON object")
    return spec


def security_profile(spec: Spec, node: Collection[str] = ()) -> dict[str, Any]:
    """The part of a spec that must be equal at capture and at restore, in canonical form.

    Only JSON values, with every list sorted, so that two profiles are equal exactly when a
    container gets the same privileges. ``node`` are the kinds of namespaces that are the node's
    own (:func:`node_namespaces`).
    """
    process = _table(spec, "process")
    linux = _table(spec, "linux")
    capabilities = _table(process, "capabilities")
    seccomp = linux.get("seccomp")
    return {
        "capabilities": {
            name: sorted(set(_strings(capabilities, name))) for name in CAPABILITY_SETS
        },
        "user": _user(_table(process, "user")),
        "no_new_privileges": bool(process.get("noNewPrivileges", False)),
        "seccomp": _digest(seccomp) if seccomp else None,
        "apparmor": process.get("apparmorProfile") or None,
        "selinux": _without_level(process.get("selinuxLabel")),
        "rlimits": {
            str(limit.get("type")): [limit.get("soft"), limit.get("hard")]
            for limit in _tables(process, "rlimits")
        },
        "readonly_rootfs": bool(_table(spec, "root").get("readonly", False)),
        "rootfs_propagation": linux.get("rootfsPropagation") or None,
        "namespaces": {
            str(namespace.get("type")): _whose(namespace, node)
            for namespace in _tables(linux, "namespaces")
        },
        "id_mappings": [
            [kind, entry.get("containerID"), entry.get("hostID"), entry.get("size")]
            for kind in ("uidMappings", "gidMappings")
            for entry in _tables(linux, kind)
        ],
        "masked_paths": sorted(_strings(linux, "maskedPaths")),
        "readonly_paths": sorted(_strings(linux, "readonlyPaths")),
        "devices": sorted(_device(node) for node in _tables(linux, "devices")),
        "device_rules": sorted(
            _device_rule(rule, _gpu_numbers(linux))
            for rule in _tables(_table(linux, "resources"), "devices")
        ),
        "sysctl": {str(key): str(value) for key, value in _table(linux, "sysctl").items()},
    }


def difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """One sentence that names the first field in which two security profiles differ, or ``""``.

    ``wanted`` is the snapshot's profile, ``found`` the profile of the container to be started.
    """
    place = _first_difference(wanted, found, ())
    if place is None:
        return ""
    path, left, right = place
    name = ".".join(path).replace("_", " ")
    if isinstance(left, list) and isinstance(right, list):
        missing = [item for item in left if item not in right]
        added = [item for item in right if item not in left]
        if missing or added:
            parts = []
            if missing:
                parts.append(f"lacks {_show(missing)}")
            if added:
                parts.append(f"has {_show(added)} besides")
            return (
                f"the security profile differs in {name}: compared with the snapshot "
                f"this container {' and '.join(parts)}"
            )
    return (
        f"the security profile differs in {name}: the snapshot has {_show(left)}, "
        f"this container {_show(right)}"
    )


def node_namespaces(spec: Spec) -> frozenset[str]:
    """Kinds of namespaces that the spec joins by path and that are the node's own.

    containerd lets each container join those of the pod's sandbox, also where the sandbox has
    the node's (hostNetwork, hostIPC); only the namespace itself tells. CRIU sets the host name
    and the IPC limits of a snapshot in whatever is joined.
    """
    return frozenset(
        str(namespace["type"])
        for namespace in _tables(_table(spec, "linux"), "namespaces")
        if namespace.get("path") and _is_nodes(str(namespace.get("type")), namespace["path"])
    )


def _is_nodes(kind: str, path: object) -> bool:
    name = _PROC_NAMES.get(kind, kind)
    try:
        return os.path.samefile(str(path), f"/proc/self/ns/{name}")
    except (OSError, ValueError):
        return False


_PROC_NAMES = {"network": "net", "mount": "mnt"}
"""Where /proc/PID/ns has another name than the runtime spec."""


def is_bind(mount: Mapping[str, Any]) -> bool:
    """Whether a mount of the spec is a bind mount, by runc's rule (type or option)."""
    options = mount.get("options") or ()
    return mount.get("type") == "bind" or any(option in ("bind", "rbind") for option in options)


def mounts(spec: Spec, rootfs: str | Path) -> list[Mount]:
    """The spec's mounts as the manifest records them, in the spec's order.

    ``rootfs`` is where the destination is looked up when a bind mount's source tells nothing.
    """
    return [
        Mount(
            destination=str(mount.get("destination", "")),
            type="bind" if is_bind(mount) else str(mount.get("type", "")),
            kind=_kind(mount, rootfs),
            flags=_flags(_strings(mount, "options")),
        )
        for mount in _tables(spec, "mounts")
    ]


def _flags(options: Sequence[str]) -> list[str]:
    """What the options of a mount allow or forbid, sorted: a later one beats an earlier one.

    Options that only say how the file system is made (size, mode) do not matter: CRIU makes it
    as it was.
    """
    flags: dict[str, str] = {}
    for option in options:
        recursive = option.removeprefix("r")
        if option in _FLAGS:
            flags[_FLAGS[option]] = option
        elif recursive in _FLAGS:  # of mount_setattr(2): also for mounts below
            flags[f"r{_FLAGS[recursive]}"] = option
    weak = {"rw", "suid", "dev", "exec", "symfollow", "rrw", "rsuid", "rdev", "rexec", "rsymfollow"}
    return sorted(flag for flag in flags.values() if flag not in weak)


_FLAGS = {
    "ro": "writing", "rw": "writing",
    "nosuid": "suid", "suid": "suid",
    "nodev": "dev", "dev": "dev",
    "noexec": "exec", "exec": "exec",
    "nosymfollow": "symfollow", "symfollow": "symfollow",
    "private": "propagation", "rprivate": "propagation",
    "slave": "propagation", "rslave": "propagation",
    "shared": "propagation", "rshared": "propagation",
    "unbindable": "propagation", "runbindable": "propagation",
}  # fmt: skip
"""Option → what it is about (runtime-spec, config.md: Linux mount options)."""


def arguments(spec: Spec) -> list[str]:
    """The command line of the first process."""
    return _strings(_table(spec, "process"), "args")


def has_terminal(spec: Spec) -> bool:
    """Whether the first process has a terminal."""
    return bool(_table(spec, "process").get("terminal", False))


def namespace_path(spec: Spec, kind: str) -> str | None:
    """Path of the joined namespace, ``""`` for one of the container's own, None for the host's."""
    for namespace in _tables(_table(spec, "linux"), "namespaces"):
        if namespace.get("type") == kind:
            return str(namespace.get("path") or "")
    return None


def masked_paths(spec: Spec) -> list[str]:
    """Paths that the runtime hides."""
    return _strings(_table(spec, "linux"), "maskedPaths")


def device_paths(spec: Spec) -> list[str]:
    """Paths of the device nodes that the spec lists."""
    return [str(node.get("path", "")) for node in _tables(_table(spec, "linux"), "devices")]


def spec_mounts(spec: Spec) -> list[Mapping[str, Any]]:
    """The spec's mounts as they stand."""
    return _tables(spec, "mounts")


def with_real_sources(spec: Spec) -> Spec:
    """The spec with what symbolic links lead to as the sources of its bind mounts.

    A runtime follows such a link when it starts a container; CRIU, which gets the source as it is
    at a restore, would mount the link itself (criu/mount-v2.c: open_tree without following).
    containerd follows the links of kubelet's mounts, but nobody those of CDI.
    """
    changed = [
        {**mount, "source": os.path.realpath(mount["source"])}
        if is_bind(mount) and os.path.islink(str(mount.get("source", "")))
        else mount
        for mount in spec_mounts(spec)
    ]
    return {**spec, "mounts": changed}


def _kind(mount: Mapping[str, Any], rootfs: str | Path) -> str:
    if not is_bind(mount):
        return "dir"
    for path in (str(mount.get("source", "")), _inside(rootfs, mount)):
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            continue
        return "dir" if stat.S_ISDIR(mode) else "file"
    return ""


def _inside(rootfs: str | Path, mount: Mapping[str, Any]) -> str:
    place = os.path.normpath("/" + str(mount.get("destination", ""))).lstrip("/")
    return os.path.join(rootfs, place)


def _whose(namespace: Mapping[str, Any], node: Collection[str]) -> str:
    if not namespace.get("path"):
        return "own"
    return "the node's" if namespace.get("type") in node else "joined"


def _user(user: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "uid": int(user.get("uid", 0)),
        "gid": int(user.get("gid", 0)),
        "additional_gids": sorted({int(gid) for gid in user.get("additionalGids") or ()}),
        "umask": user.get("umask"),
    }


def _device(node: Mapping[str, Any]) -> str:
    path = str(node.get("path"))
    gpu = _gpu_name(path)
    numbers = "" if gpu else f" {node.get('major', 0)}:{node.get('minor', 0)}"
    return f"{gpu or path} {node.get('type')}{numbers}"


def _gpu_name(path: str) -> str:
    """A name for a device node of NVIDIA's driver that is the same for each GPU and host.

    Another GPU is no other privilege, and most of the driver's device numbers are drawn when its
    modules are loaded. The nodes and rules of the request are what counts (shim.cuda.devices).
    """
    if not path.startswith("/dev/nvidia"):
        return ""
    return "/dev/nvidiaN" if path.removeprefix("/dev/nvidia").isdecimal() else path


def _gpu_numbers(linux: Mapping[str, Any]) -> dict[tuple[object, object, object], str]:
    return {
        (node.get("type"), node.get("major", 0), node.get("minor", 0)): name
        for node in _tables(linux, "devices")
        if (name := _gpu_name(str(node.get("path"))))
    }


def _device_rule(rule: Mapping[str, Any], gpus: Mapping[tuple[object, object, object], str]) -> str:
    gpu = gpus.get((rule.get("type"), rule.get("major"), rule.get("minor")))
    numbers = gpu or ":".join(_number(rule.get(part)) for part in ("major", "minor"))
    word = "allow" if rule.get("allow") else "deny"
    return f"{word} {rule.get('type') or 'a'} {numbers} {rule.get('access') or 'rwm'}"


def _number(value: object) -> str:
    # runtime-spec: absent and -1 both mean every number.
    return "*" if value in (None, -1) else str(value)


def _without_level(label: object) -> str | None:
    """An SELinux label without its level: the MCS categories are drawn anew for each pod."""
    return ":".join(str(label).split(":")[:3]) if label else None


def _digest(value: object) -> str:
    """Digest of a JSON value's canonical form; lists whose order means nothing are sorted."""
    canonical = json.dumps(_sorted(value), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hexdigest(canonical.encode())


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        items = [_sorted(item) for item in value]
        # Names of system calls and architectures are sets; rules keep their order.
        return sorted(map(str, items)) if all(isinstance(item, str) for item in items) else items
    return value


def _first_difference(
    left: object, right: object, path: tuple[str, ...]
) -> tuple[tuple[str, ...], object, object] | None:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted({*left, *right}, key=str):
            found = _first_difference(left.get(key), right.get(key), (*path, str(key)))
            if found is not None:
                return found
        return None
    return None if left == right else (path, left, right)


def _show(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _tables(parent: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = parent.get(key)
    if not isinstance(value, (list, tuple)):
        return []
    return [item for item in value if isinstance(item, dict)]


def _strings(parent: Mapping[str, Any], key: str) -> list[str]:
    value = parent.get(key)
    if not isinstance(value, (list, tuple)):
        return []
    return [str(item) for item in value]
