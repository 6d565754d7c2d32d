#!/usr/bin/env python3
"""Give containerd Podthaw's runtimes: ``dropin.py PODTHAW-CONFIG``, as root on the node.

The file goes to /etc/containerd/conf.d/50-podthaw.toml, and what that does differs (measured):

    containerd 2.x   merges a drop-in into the tables that it has: it is copied as it is, but for
                     SystemdCgroup, which Podthaw's runtimes must have as the default one has it.
    containerd 1.7   knows no version 3, refuses plugin tables that are not containerd's, and lets
                     a drop-in's table replace the whole table of that plugin, so that a drop-in
                     with one runtime takes runc and the sandbox image away. There the drop-in is
                     made of the whole effective CRI table with Podthaw's runtimes added; Podthaw's
                     own settings go to /etc/podthaw/containerd.toml, which imports containerd's
                     configuration and which `podthaw` reads if it is there.

Either way ``containerd config dump`` must show afterwards every runtime that it showed before and
the new ones, or the former state comes back and the command fails. containerd itself is not
restarted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DROP_IN = "/etc/containerd/conf.d/50-podthaw.toml"
MAIN = "/etc/containerd/config.toml"
SETTINGS = "/etc/podthaw/containerd.toml"
NVIDIA = Path("/etc/nvidia-container-runtime/config.toml")
SETTINGS_TABLE = "dev.podthaw.v1"
CRI = "io.containerd.cri.v1.runtime"
CRI_OF_1_7 = "io.containerd.grpc.v1.cri"

OPTIONS = re.compile(
    rf'\[plugins\."{re.escape(CRI)}"\.containerd\.runtimes\."?([\w.-]+?)"?\.options\](?:\s*#.*)?'
)
"""The header of a runtime's table of options, in the drop-in that is shipped."""

Table = Mapping[str, Any]


class Failure(Exception):
    """containerd's configuration cannot take the drop-in; the text says why."""


def install(config: Path, target: Path, settings: Path, containerd: str) -> None:
    """Write the files, see what containerd makes of them, and take them back if that is wrong."""
    wanted = tomllib.loads(config.read_text())
    if not runtimes(wanted):
        raise Failure(f"{config} declares no runtime of containerd's CRI plugin")
    previous = {path: path.read_text() if path.exists() else None for path in (target, settings)}
    target.unlink(missing_ok=True)  # the configuration that counts is the one without it
    try:
        before = dump(containerd)
        write(target, drop_in(config.read_text(), wanted, before))
        check(before, dump(containerd), runtimes(wanted), target)
        if is_1_7(before):
            write(settings, settings_file(wanted))
        else:
            settings.unlink(missing_ok=True)  # of a containerd that was 1.7
    except BaseException:
        for path, text in previous.items():
            if text is None:
                path.unlink(missing_ok=True)
            else:
                write(path, text)
        raise
    link_nvidia(before)


def link_nvidia(effective: Table, prefix: Path | None = None) -> None:
    """Tell podthaw-nvidia-runtime which program containerd's runtime ``nvidia`` is.

    Prints what keeps it from calling podthaw-runc.
    """
    link = (prefix or Path(__file__).resolve().parent.parent) / "nvidia/nvidia-container-runtime"
    link.unlink(missing_ok=True)
    program = runtimes(effective).get("nvidia", {}).get("options", {}).get("BinaryName")
    if not program or not link.parent.is_dir() or not Path(program).is_absolute():
        return
    link.symlink_to(program)
    own = Path(program).parent / ".config/nvidia-container-runtime/config.toml"  # the operator's
    configuration = own if own.exists() else NVIDIA
    if configuration.exists():
        table = tomllib.loads(configuration.read_text()).get("nvidia-container-runtime", {})
        named = [name for name in table.get("runtimes", []) if "/" in name]
        if named:
            print(
                f"{configuration} names {named[0]} by its path, so containers with a GPU will "
                'start cold: set runtimes = ["runc"] there',
                file=sys.stderr,
            )


def is_1_7(effective: Table) -> bool:
    """Whether a containerd with this effective configuration is older than 2.0."""
    return bool(effective.get("version", 1) <= 2)


def settings_file(wanted: Table) -> str:
    """Podthaw's own settings, in a file beside containerd's configuration."""
    note = (
        f"# Written by {Path(__file__).name}: containerd 1.7 bears no table of Podthaw's in its\n"
    )
    note += "# own configuration. Times, limits and paths may be changed here.\n"
    table = wanted.get("plugins", {}).get(SETTINGS_TABLE, {})
    body = toml({"version": 2, "imports": [MAIN], "plugins": {SETTINGS_TABLE: table}})
    return note + "\n".join(body) + "\n"


def drop_in(text: str, wanted: Table, effective: Table) -> str:
    """What the drop-in must contain for the containerd with this effective configuration."""
    systemd = {"SystemdCgroup": True} if uses_systemd(effective) else {}
    if not is_1_7(effective):
        return with_systemd(text) if systemd else text
    cri = effective["plugins"][CRI_OF_1_7]
    containerd = dict(cri["containerd"])
    # The same fields, but for those that 1.7 does not know.
    added = {
        name: {key: value for key, value in runtime.items() if key != "sandboxer"}
        | {"options": {**systemd, **runtime.get("options", {})}}
        for name, runtime in runtimes(wanted).items()
    }
    containerd["runtimes"] = {**containerd.get("runtimes", {}), **added}
    table = {**cri, "containerd": containerd}
    note = f"# Written by {Path(__file__).name} from `containerd config dump`: run it again after\n"
    note += "# a change of containerd's configuration, whose CRI table this one replaces.\n"
    body = toml({"version": 2, "plugins": {CRI_OF_1_7: table}})
    return note + "\n".join(body) + "\n"


def uses_systemd(effective: Table) -> bool:
    """Whether systemd manages the cgroups of the default runtime (kubelet's cgroupDriver)."""
    plugins = effective.get("plugins", {})
    default = "runc"
    for plugin in (CRI_OF_1_7, CRI):
        table = plugins.get(plugin, {}).get("containerd", {})
        default = table.get("default_runtime_name") or default
    options = runtimes(effective).get(default, {}).get("options", {})
    return bool(options.get("SystemdCgroup", False))


def with_systemd(text: str) -> str:
    """The version 3 drop-in whose runtimes leave their cgroups to systemd, as the default does.

    Both must do the same: kubelet names a pod's cgroup in the way of the one or the other.
    """
    before = runtimes(tomllib.loads(text))
    named = [name for name, one in before.items() if "SystemdCgroup" in one.get("options", {})]
    lines = []
    for line in text.splitlines():
        lines.append(line)
        header = OPTIONS.fullmatch(line.strip())
        if header and header[1] not in named:
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}  SystemdCgroup = true  # as the default runtime has it")
    changed = "\n".join(lines) + "\n"
    for name, runtime in runtimes(tomllib.loads(changed)).items():
        if "SystemdCgroup" not in runtime.get("options", {}):
            raise Failure(
                f"containerd leaves cgroups to systemd: add SystemdCgroup = true to the options "
                f"of the runtime {name}"
            )
    return changed


def check(before: Table, after: Table, added: Table, target: Path) -> None:
    """Fail unless containerd has the new runtimes and still all that it had."""
    lost = sorted(runtimes(before).keys() - runtimes(after).keys())
    missing = sorted(added.keys() - runtimes(after).keys())
    if not lost and missing == sorted(added):
        raise Failure(
            f"containerd does not read {target}: add "
            f'imports = ["{target.parent}/*.toml"] to the top of {MAIN}'
        )
    if lost or missing:
        names = ", ".join(lost + missing)
        raise Failure(f"with {target}, containerd would have no runtime {names}")


def runtimes(config: Table) -> Table:
    """The CRI's runtimes of a configuration of either format."""
    plugins = config.get("plugins", {})
    found: dict[str, Any] = {}
    for plugin in (CRI_OF_1_7, CRI):
        found |= plugins.get(plugin, {}).get("containerd", {}).get("runtimes", {})
    return found


def dump(containerd: str) -> Table:
    """The effective configuration of containerd."""
    command = [containerd, "config", "dump"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Failure(f"{' '.join(command)}: {result.stderr.strip()}")
    return tomllib.loads(result.stdout)


def toml(table: Table, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The lines of a TOML document: values first, then the tables below."""
    if path:
        yield f"[{'.'.join(map(quoted, path))}]"
    for key, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{quoted(key)} = {literal(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from toml(value, (*path, key))


def literal(value: object) -> str:
    """A TOML value, of the kinds that containerd's configuration has."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value)
        case int() | float():
            return repr(value)
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{quoted(k)} = {literal(v)}' for k, v in value.items())}}}"
        case _:
            raise Failure(f"containerd's configuration has a value of type {type(value).__name__}")


def quoted(text: str) -> str:
    """A TOML basic string: JSON's, but for the one control character that JSON lets through."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def write(path: Path, text: str) -> None:
    """Replace a file as a whole; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(text)
    os.replace(partial, path)  # noqa: PTH105 - the name of what happens


def main() -> int:
    """Read the command line and install."""
    parser = argparse.ArgumentParser(description="give containerd Podthaw's runtimes")
    parser.add_argument("config", type=Path, metavar="PODTHAW-CONFIG")
    parser.add_argument(
        "--target", type=Path, default=Path(DROP_IN), help="the drop-in (%(default)s)"
    )
    parser.add_argument(
        "--settings", type=Path, default=Path(SETTINGS), help="for containerd 1.7 (%(default)s)"
    )
    parser.add_argument("--containerd", default="containerd", help="the program to ask")
    options = parser.parse_args()
    try:
        install(options.config, options.target, options.settings, options.containerd)
    except (OSError, tomllib.TOMLDecodeError, Failure) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    if options.settings.exists():
        print(f"Podthaw's settings are in {options.settings}")
    print(f"{options.target} is in place; restart containerd to use it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
