"""The hook of a restored container, at the end of its restore, while that can still be undone."""

from __future__ import annotations

import time

from shim import cgroups, hooks, plan, supervise
from shim.errors import Refused, Unfit
from shim.journal import Journal


def wake(record: Journal, order: plan.Plan, first: int, log: str, deadline: float) -> None:
    """Tell the workload that it was restored; it has until ``deadline``, and at most 30 seconds.

    ``first`` is the container's first process, ``log`` is where the runtime below logs. Raises
    Unfit when the workload does not answer well, which says nothing about the snapshot.
    """
    hook = hooks.parse(order.after_restore)
    if hook is None:  # the daemon writes none that cannot be read
        raise Refused(
            f"the plan {order.id} has a hook {order.after_restore[:80]!r}, wanted {hooks.WANTED}"
        )

    def execute(command: list[str], until: float) -> tuple[int, str]:
        arguments = [*record.global_options, "--log", log, "exec", record.container, *command]
        try:
            status, output = supervise.output_of(record.runtime, arguments, until)
        except supervise.DeadlineError:
            raise TimeoutError from None
        return status, output.decode(errors="replace")

    place = hooks.Place(
        address=order.address,
        pid=first,
        is_first=lambda: first in cgroups.processes(record.cgroups),
        execute=execute,
    )
    try:
        hooks.run(hook, place, min(deadline, time.monotonic() + hooks.SECONDS))
    except Unfit as error:
        raise Unfit(
            f"the hook after-restore failed, the program was not woken: {error}",
            detail=error.detail,
        ) from error
