"""One structured log line for each decision and each outcome."""

from __future__ import annotations

import logging

from cri.records import Decision
from shim.plan import Result

log = logging.getLogger("podthaw.restore")


def tell(decision: Decision, what: str, reason: str = "", **more: object) -> None:
    """Log a line such as ``default/web-1 container web was restored from small``.

    A structured log finds all facts in the record's ``fields``. With a ``reason`` it is a warning.
    """
    fields = {
        "namespace": decision.namespace,
        "pod": decision.pod,
        "container": decision.container,
        "attempt": decision.attempt,
        "sandbox": decision.sandbox_id,
        "snapshot": decision.snapshot,
        "digest": decision.digest,
        "plan": decision.id,
        "reason": reason,
        **more,
    }
    log.log(
        logging.WARNING if reason else logging.INFO,
        "%s/%s container %s %s from %s%s",
        decision.namespace,
        decision.pod,
        decision.container,
        what,
        decision.snapshot,
        f": {reason}" if reason else "",
        extra={"fields": fields},
        stacklevel=3,  # whoever decided
    )


def tell_decision(decision: Decision, what: str, **more: object) -> None:
    """The line for a decision, and one for each warning."""
    tell(
        decision,
        what,
        decision.reason,
        choice=decision.choice,
        kind=decision.kind,
        seconds=decision.seconds,
        **more,
    )
    for warning in decision.warnings:
        log.warning("%s/%s: %s", decision.namespace, decision.pod, warning)


def tell_outcome(decision: Decision, result: Result) -> None:
    """The line for what the OCI runtime wrapper did."""
    what = {"restored": "was restored", "cold": "started cold", "failed": "did not start"}
    tell(
        decision,
        what[result.outcome],
        result.reason,
        outcome=result.outcome,
        kind=result.kind,
        log_tail=result.log_tail,
        phases=result.phases,
    )
