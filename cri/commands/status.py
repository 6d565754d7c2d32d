"""``podthaw status``."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict

from cri import memory, output, processes
from cri.commands.common import (
    Subparsers,
    add_namespace,
    new_command,
    plan_ids,
    pod_of,
    settings,
)
from cri.config import Settings
from cri.memory import Usage
from cri.records import Record, Records
from cri.units import human_duration, human_size
from shim.errors import Unfit

HEADS = (
    *("namespace", "pod", "container", "try", "snapshot", "age", "outcome"),
    *("shared", "private", "phases", "reason"),
)


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "status",
        "Tell what became of the containers on this node whose pods opted in.\n\n"
        "TRY is the restart count. OUTCOME is restored, cold (started the ordinary way), failed,\n"
        "or pending while a restore is under way; PHASES are seconds; REASON says why a\n"
        "container was not restored. A pod is forgotten when its sandbox is removed.\n\n"
        "While a restored container runs, SHARED is its memory that is the snapshot's, of which\n"
        "all containers from that snapshot have one copy, and PRIVATE is what it has of its own.",
        "podthaw status\npodthaw status shop/web-0 -o yaml",
    )
    parser.add_argument(
        "pod", metavar="[NAMESPACE/]POD", nargs="?", help="only this pod (default: all pods)"
    )
    add_namespace(parser, "only pods in this namespace")
    output.add_output_options(parser, quiet="print only NAMESPACE/POD/CONTAINER and the outcome")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    namespace, pod = pod_of(args)
    ours = settings(args)
    place = ours.run
    plan_ids(place)  # tells when they cannot be read
    records = [
        record
        for record in Records(place).all()
        if namespace in (None, record.decision.namespace) and pod in (None, record.decision.pod)
    ]
    if pod is not None and not records:
        whole = f"{namespace}/{pod}" if namespace else pod
        raise Unfit(
            f"nothing is known of the pod {whole} on this node: "
            "it did not opt in, its containers were not created yet, or it is gone"
        )
    if args.output != "table":
        documents = [_record(one, _usage(one, ours)) for one in records]
        sys.stdout.write(output.document(documents, args.output))
    elif not records:
        where = f" in the namespace {namespace}" if namespace else ""
        output.note(f"no container opted in{where}")
    elif args.quiet:
        for one in records:
            who = one.decision
            output.say(f"{who.namespace}/{who.pod}/{who.container} {one.outcome}")
    else:
        now = time.time()
        rows = [_row(one, now, _usage(one, ours), full=args.no_trunc) for one in records]
        sys.stdout.write(output.table(HEADS, rows))
    return 0


def _usage(record: Record, ours: Settings) -> Usage | None:
    """The memory of a container that was restored and runs, when it can be looked at."""
    if record.outcome != "restored" or record.exit is not None or not record.container_id:
        return None
    try:
        return memory.usage(processes.of_container(record.container_id, ours.containerd_state))
    except OSError:
        return None


def _row(record: Record, now: float, usage: Usage | None, *, full: bool) -> list[str]:
    decision = record.decision
    phases = record.result.phases if record.result else {}
    return [
        decision.namespace,
        decision.pod,
        decision.container,
        str(decision.attempt),
        output.short_text(decision.snapshot, full=full),
        human_duration(now - decision.time),
        record.outcome,
        human_size(usage.shared) if usage else "",
        human_size(usage.private) if usage else "",
        " ".join(f"{name}={seconds:.2f}" for name, seconds in phases.items()),
        output.short_text(record.reason, full=full),
    ]


def _record(record: Record, usage: Usage | None) -> dict[str, object]:
    decision = record.decision
    return {
        "namespace": decision.namespace,
        "pod": decision.pod,
        "pod_uid": decision.pod_uid,
        "container": decision.container,
        "container_id": record.container_id or None,
        "attempt": decision.attempt,
        "snapshot": decision.snapshot,
        "digest": decision.digest or None,
        "time": output.rfc3339(decision.time),
        "outcome": record.outcome,
        "kind": (record.result.kind if record.result else decision.kind) or None,
        "reason": record.reason or None,
        "warnings": list(decision.warnings),
        "decided_in": decision.seconds,
        "memory": asdict(usage) if usage else None,
        "phases": dict(record.result.phases) if record.result else {},
        "log_tail": list(record.result.log_tail) if record.result else [],
        "exit": asdict(record.exit) if record.exit else None,
    }
