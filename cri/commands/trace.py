"""``podthaw trace``."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from cri import output, processes, waterfall
from cri.commands.common import (
    Subparsers,
    add_namespace,
    new_command,
    plan_ids,
    pod_of,
    settings,
)
from cri.records import Record, Records
from cri.trace import CriuLog, Trace, stages
from shim.criu import log as criu_log
from shim.errors import Refused, Unfit

_MOST_OF_A_LINE = 4096  # bytes
_MOST_OF_A_LOG = 64 << 20  # bytes


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "trace",
        "Show where the time went when a container of a pod on this node was started, from\n"
        "CreateContainer on: each stage, when it began and how long it took. The parts of a stage\n"
        "are below it and add up to it. Shown is the latest start of each container; of one that\n"
        "started cold, less is known. docs/start-path.svg is such a picture.",
        "podthaw trace shop/web-0\npodthaw trace shop/web-0 -c main --svg start.svg",
    )
    parser.add_argument("pod", metavar="[NAMESPACE/]POD", help="the pod")
    parser.add_argument(
        "-c", "--container", metavar="CONTAINER", help="only this container (default: all)"
    )
    add_namespace(parser, "the pod's namespace")
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "yaml"),
        default="table",
        help="how to print (default: table)",
    )
    parser.add_argument(
        "--svg", metavar="FILE", type=Path, help="draw it into this file; nothing is printed then"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print or draw it."""
    configured = settings(args)
    records = Records(configured.run)
    traces = [_trace(records, one, configured.containerd_state) for one in _found(args, records)]
    if args.svg is not None:
        if len(traces) > 1:
            names = ", ".join(one.record.decision.container for one in traces)
            raise Refused(f"the pod has several containers, name one with -c: {names}")
        args.svg.write_text(waterfall.svg(traces[0]), encoding="utf-8")
    elif args.output != "table":
        sys.stdout.write(output.document([_document(one) for one in traces], args.output))
    else:
        sys.stdout.write("\n".join(waterfall.text(one) for one in traces))
    return 0


def _found(args: argparse.Namespace, records: Records) -> list[Record]:
    """The latest start of each container that is meant."""
    namespace, pod = pod_of(args)
    plan_ids(records.run)  # tells when they cannot be read
    latest: dict[tuple[str, str], Record] = {}
    for record in records.all():
        who = record.decision
        meant = namespace in (None, who.namespace) and pod == who.pod
        if meant and args.container in (None, who.container):
            latest[who.pod_uid, who.container] = record
    whole = f"{namespace}/{pod}" if namespace else pod
    if not latest:
        which = f"the container {args.container} of " if args.container else ""
        raise Unfit(
            f"nothing is known of {which}the pod {whole} on this node: "
            "it did not opt in, its containers were not created yet, or it is gone"
        )
    timed = [record for record in latest.values() if record.decision.began]
    if not timed:
        raise Unfit(f"nobody noted the times of the pod {whole}: an older Podthaw started it")
    return timed


def _trace(records: Records, record: Record, containerd_state: Path) -> Trace:
    log = _criu_log(records.folder(record.decision.id) / "restore.log")
    return Trace(
        record=record,
        stages=stages(record, log),
        faults=processes.faults(processes.of_container(record.container_id, containerd_state))
        if record.container_id
        else {},
        first_line=_first_line(record),
    )


def _criu_log(path: Path) -> CriuLog:
    try:
        written = path.stat().st_mtime
    except OSError:
        return CriuLog()
    lines = criu_log.read_tail(path, _MOST_OF_A_LOG)
    return CriuLog(lines=lines, written=written - time.time() + time.monotonic())


def _first_line(record: Record) -> float | None:
    """When the container logged its first line, by the time stamp that containerd gave it."""
    if not record.decision.log:
        return None
    try:
        with Path(record.decision.log).open("rb") as file:
            stamp = file.readline(_MOST_OF_A_LINE).split(b" ", 1)[0].decode()
        return datetime.fromisoformat(stamp).timestamp() - record.decision.time
    except (OSError, ValueError):
        return None


def _document(trace: Trace) -> dict[str, object]:
    record = trace.record
    decision = record.decision
    return {
        "namespace": decision.namespace,
        "pod": decision.pod,
        "container": decision.container,
        "container_id": record.container_id or None,
        "attempt": decision.attempt,
        "snapshot": decision.snapshot,
        "outcome": record.outcome,
        "reason": record.reason or None,
        "time": output.rfc3339(decision.time),
        "seconds": round(trace.end, 6),
        "stages": [asdict(stage) for stage in trace.stages],
        "first_line": trace.first_line and round(trace.first_line, 6),
        "faults": dict(trace.faults),
    }
