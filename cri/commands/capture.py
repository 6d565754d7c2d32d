"""``podthaw capture``."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cri import capture, output, target
from cri.capture import Captured, Options
from cri.commands.common import Subparsers, new_command, settings
from cri.config import Settings
from cri.runtime_client import SyncRuntimeClient
from cri.store import Store
from cri.store.refs import check_name
from cri.target import Target
from cri.units import human_size, parse_duration
from cri.verify import Verifier
from shim.errors import PodthawError
from shim.finding import Finding
from shim.snapshot import MEMORY_MODES

HEADS = ("severity", "check", "what", "why", "remedy")


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "capture",
        "Take a snapshot of a running container on this node. It stands still while its memory\n"
        "is written, then runs on; --stop ends it instead. A capture that fails leaves the\n"
        "container running and nothing behind. --check only tells what stands in the way.\n"
        "The hooks that the pod's annotations name are carried out, but not by --check.",
        "podthaw capture shop/web-0 --name web\n"
        "podthaw capture shop/web-0 -c server --name web --timeout 2m -o json\n"
        "podthaw capture shop/web-0 --check",
    )
    parser.add_argument("pod", metavar="NAMESPACE/POD", nargs="?", help="the pod")
    parser.add_argument(
        "-c", "--container", metavar="NAME", help="which container, if the pod has several"
    )
    parser.add_argument(
        "--name", metavar="NAME", help="name of the snapshot, in the pod's namespace"
    )
    parser.add_argument(
        "--check", action="store_true", help="only tell what would make the capture fail"
    )
    parser.add_argument(
        "--stop", action="store_true", help="kill the container once its snapshot is stored"
    )
    parser.add_argument(
        "--timeout",
        metavar="DURATION",
        type=_duration,
        help="give up after this time, such as 30s, 2m (default: capture_timeout)",
    )
    parser.add_argument(
        "--memory",
        choices=MEMORY_MODES,
        help="how the memory comes back at a restore: mapped from the snapshot and read when it\n"
        "is touched, or all copied before the container runs (default: memory)",
    )
    # For the daemon, which has a container's id and a place for the standard checkpoint tar.
    parser.add_argument("--container-id", metavar="ID", help=argparse.SUPPRESS)
    parser.add_argument("--export", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    output.add_output_options(parser, quiet="print only the digest")
    parser.set_defaults(func=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Capture, or check; exit status 1 when something stands in the way."""
    _check_usage(args)
    signal.signal(signal.SIGTERM, _interrupt)
    configured = settings(args)
    with SyncRuntimeClient(configured.containerd) as cri:
        if args.container_id is not None:
            found = target.by_id(cri, args.container_id)
        else:
            namespace, pod = target.parse_pod(args.pod)
            found = target.by_name(cri, namespace, pod, args.container)
    options = Options(
        run=configured.run,
        criu=configured.criu,
        cuda=configured.cuda,
        stop=args.stop,
        timeout=args.timeout or configured.capture_timeout,
        memory=args.memory or configured.memory,
        containerd=configured.containerd,
    )
    if args.check:
        return _check(found, configured, options, args)
    if args.export is not None:
        return _export(found, options, args.export)
    return _take(found, configured, options, args)


def _take(found: Target, configured: Settings, options: Options, args: argparse.Namespace) -> int:
    store = Store(configured.store)
    captured = capture.take(found, args.name, store, options)
    _remember(store, captured.digest, configured.state)
    for warning in captured.warnings:
        output.note(f"podthaw: warning: {warning}")
    if args.output != "table":
        sys.stdout.write(output.document(_record(found, captured), args.output))
    elif args.quiet:
        output.say(captured.digest)
    else:
        ended = ", then it was stopped" if args.stop else ""
        output.say(
            f"{captured.namespace}/{captured.name} is {captured.digest}: "
            f"{human_size(captured.size)} in {captured.seconds:.1f} s, "
            f"the container stood still for {captured.frozen_seconds:.2f} s{ended}"
        )
    return 0


def _remember(store: Store, digest: str, state: Path) -> None:
    """Its files were hashed just now: the first restore on this node need not read them again."""
    with suppress(PodthawError, OSError):  # such as that it was removed at once
        Verifier(state).remember(store.folder(digest), digest, store.manifest(digest))


def _export(found: Target, options: Options, location: Path) -> int:
    try:
        warnings = capture.export(found, location, options)
    except PodthawError as error:
        # The daemon passes one line on to kubelet, so the last words of CRIU go into it.
        last = error.detail.strip().splitlines()[-1:]
        raise type(error)(" | ".join([str(error), *last])) from error
    for warning in warnings:
        output.note(f"podthaw: warning: {warning}")
    return 0


def _check(found: Target, configured: Settings, options: Options, args: argparse.Namespace) -> int:
    findings = capture.check(found, options, configured.store)
    failures = sum(finding.severity == "fail" for finding in findings)
    if args.output != "table":
        value = {"ready": not failures, "findings": [asdict(finding) for finding in findings]}
        sys.stdout.write(output.document(value, args.output))
    elif not args.quiet:
        if findings:
            sys.stdout.write(output.table(HEADS, [_row(finding) for finding in findings]))
        else:
            output.say(f"{found} can be captured")
    return 1 if failures else 0


def _row(finding: Finding) -> list[str]:
    return [finding.severity, finding.check, finding.what, finding.why, finding.remedy]


def _record(found: Target, captured: Captured) -> dict[str, object]:
    return {
        "digest": captured.digest,
        "namespace": captured.namespace,
        "name": captured.name,
        "pod": found.pod,
        "container": found.name,
        "size": captured.size,
        "memory": captured.memory,
        "frozen_seconds": captured.frozen_seconds,
        "seconds": round(captured.seconds, 3),
        "phases": {name: round(value, 6) for name, value in captured.phases.items()},
        "warnings": [asdict(finding) for finding in captured.warnings],
    }


def _check_usage(args: argparse.Namespace) -> None:
    if (args.container_id is None) == (args.pod is None):
        args.usage_error("the following arguments are required: NAMESPACE/POD")
    if args.export is not None and (args.stop or args.name is not None):
        args.usage_error("--export goes with neither --name nor --stop")
    if not args.check and args.export is None:
        if args.name is None:
            args.usage_error("the following arguments are required: --name (or --check)")
        check_name(args.name)


def _duration(text: str) -> float:
    try:
        value = parse_duration(text)
    except PodthawError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all")
    return value


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Told to stop: let the container go in good order, as for Ctrl-C."""
    raise KeyboardInterrupt
