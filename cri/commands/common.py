"""What the commands that deal with the store share."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cri import output
from cri.cli import COMMANDS, config_path
from cri.config import Settings, load_settings
from cri.quarantine import Quarantine
from cri.store import Found, Snapshot, Store
from cri.store.refs import check_namespace, shown
from shim.errors import Refused, Unfit
from shim.plan import plans_dir

Subparsers = Any  # argparse keeps the type of what add_subparsers returns private

REFERENCE_HELP = (
    "NAMESPACE/NAME, a digest or its first digits (6 or more), or NAME together with -n"
)


def new_command(
    subparsers: Subparsers, name: str, description: str, example: str
) -> argparse.ArgumentParser:
    """A command's parser with its help; ``example`` is a line or more to type."""
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        aliases=list(COMMANDS[name].aliases),
        help=COMMANDS[name].help,
        description=description,
        epilog=f"example:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def add_namespace(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Give a command ``-n NAMESPACE``."""
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help=help_text)


def add_reference(parser: argparse.ArgumentParser, *, many: bool = False) -> None:
    """Give a command REF (or one and more) and ``-n``."""
    if many:
        parser.add_argument("references", metavar="REF", nargs="+", help=REFERENCE_HELP)
    else:
        parser.add_argument("reference", metavar="REF", help=REFERENCE_HELP)
    add_namespace(parser, "the namespace of a REF that is only a NAME")


def settings(args: argparse.Namespace) -> Settings:
    """Podthaw's settings from the configuration file that the arguments name."""
    return load_settings(config_path(args))


def open_store(args: argparse.Namespace) -> Store:
    """The node's snapshot store."""
    return Store(settings(args).store)


def find(store: Store, reference: str, args: argparse.Namespace) -> Found:
    """The snapshot that REF and ``-n`` mean."""
    if args.namespace is not None:
        check_namespace(args.namespace)
    return store.find(reference, args.namespace)


def open_quarantine(args: argparse.Namespace) -> Quarantine:
    """The node's quarantine."""
    return Quarantine(settings(args).state)


def state_of(one: Snapshot, quarantine: Quarantine) -> str:
    """The STATE cell of a snapshot: ``ready``, or what holds or hinders it."""
    words = []
    if one.pinned:
        words.append("pinned")
    if one.in_use:
        words.append(f"in use ({one.in_use})")
    if quarantine.get(one.digest) is not None:
        words.append("quarantined")
    if one.problem:
        words.append("damaged")
    return ", ".join(words) or "ready"


def summary(one: Snapshot, quarantine: Quarantine) -> dict[str, object]:
    """What ``list`` and ``inspect`` print of a snapshot for programs."""
    held = quarantine.get(one.digest)
    return {
        "digest": one.digest,
        "image": one.manifest.source.image if one.manifest else None,
        "size": one.manifest.size if one.manifest else None,
        "disk": one.disk,
        "created": one.manifest.created if one.manifest else None,
        "published": output.rfc3339(one.published),
        "used": output.rfc3339(one.used) if one.used > one.published else None,
        "pinned": one.pinned,
        "in_use": one.in_use,
        "quarantined": held and {**asdict(held), "time": output.rfc3339(held.time)},
        "problem": one.problem or None,
    }


def pod_of(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """Namespace and name of the pod that [NAMESPACE/]POD and ``-n`` mean, where they say it."""
    namespace: str | None = args.namespace
    pod: str | None = args.pod
    if pod is not None and "/" in pod:
        before, _, pod = pod.partition("/")
        if namespace not in (None, before):
            raise Refused(f"{shown(args.pod)} is not in the namespace {namespace}")
        namespace = before
    if namespace is not None:
        check_namespace(namespace)
    return namespace, pod


def plan_ids(run: Path) -> list[str]:
    """Names of the directories of all plans on this node.

    Unfit when they cannot be read, say by somebody who is not root: that is not the same as none.
    """
    place = Path(plans_dir(run))
    try:
        return sorted(one.name for one in place.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unfit(f"{place} cannot be read by user {os.geteuid()}: {error.strerror}") from error
