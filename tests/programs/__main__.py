"""``python -m tests.programs [NAME…]``: each program cold, captured, restored as two new pods.

Prints a line a program and what went wrong; exit status 1 when anything did. ``--keep`` leaves
the node running at the end and says its name.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from dataclasses import dataclass, field

from tests.e2e.pods import Container, Pod, Running
from tests.e2e.rpc import RpcError, reason
from tests.e2e.stack import Stack
from tests.node.debian import Unavailable
from tests.node.execute import Result
from tests.node.node import Node
from tests.programs import image
from tests.programs.case import Case, equal, shown
from tests.programs.cases import by_name
from tests.programs.live import Live, Wrong

COPIES = 2


@dataclass
class Row:
    """What came of a program."""

    name: str
    result: str = "works"
    findings: list[str] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)


def run(stack: Stack, case: Case) -> Row:
    """The whole life of a case; never raises."""
    row = Row(case.name)
    started: list[Running] = []
    try:
        _run(stack, case, row, started)
    except Wrong as error:
        row.result = f"FAILED: {error}"
    except RpcError as error:
        row.result = f"FAILED: {reason(error)}"
    except Exception as error:  # noqa: BLE001 - one program's trouble shall not hide the others'
        row.result = f"FAILED: {type(error).__name__}: {error}"
        traceback.print_exc()
    for running in started:
        stack.pods.remove(running)
    return row


def _run(stack: Stack, case: Case, row: Row, started: list[Running]) -> None:
    container = Container(
        command=case.command, args=(), image=image.PROGRAMS, env=case.env, security=case.security
    )
    pod = Pod(name=case.name.replace("_", "-"), containers=[container])
    name = case.name.replace("_", "-").lower()
    for old in (name, f"{name}-again"):  # of an earlier run on a node that was kept
        stack.podthaw("remove", f"{pod.namespace}/{old}", check=False)
    begin = time.monotonic()
    # There is no snapshot yet, so it starts cold.
    original = pod.restoring(name) if case.annotated else pod
    first = Live(stack.pods.start(original, ready=False))
    started.append(first.running)
    first.wait("readiness", lambda: (case.ready or case.ask)(first))
    row.times["cold"] = time.monotonic() - begin
    case.warm(first)
    say(f"  asked: {shown(case.ask(first))}")
    if not _capture(stack, case, row, first, name):
        equal("exit code", _stop(stack, first), case.end)
        return
    after = _stable(case.ask(first))
    say(f"  the original goes on: {shown(after)}")
    if case.cold:
        _start_cold(stack, case, pod.restoring(name), row, started)
        equal("exit code", _stop(stack, first), case.end)
        return
    copies = []
    for _ in range(COPIES):
        copies.append(_restore(stack, pod, name, row, started))
        _judge(case, copies[-1], first, after)
        case.after(copies[-1])
    # A restored container is one like any other: it can be captured again.
    again = f"{name}-again"
    _check_capture(stack.capture(copies[0].running, again, check=False))
    following = _stable(case.ask(copies[0]))
    _judge(case, _restore(stack, pod, again, row, started), first, following)
    end = _stop(stack, first)
    for running in started[1:]:
        equal("exit code of the copy", _stop(stack, Live(running)), end)
    if case.end is not None:
        equal("exit code", end, case.end)


def _capture(stack: Stack, case: Case, row: Row, first: Live, name: str) -> bool:
    """Capture it; False when that is refused, as it should be."""
    target = f"{first.running.pod.namespace}/{first.running.name}"
    checked = stack.podthaw("capture", target, "--check", "-o", "json", check=False)
    findings = json.loads(checked.stdout)["findings"]
    row.findings += ["{severity}: {what}: {why}; {remedy}".format(**one) for one in findings]
    begin = time.monotonic()
    with first.traffic(case.busy) as counts:
        captured = stack.capture(first.running, name, check=False)
    if counts:
        say(f"  requests meanwhile: {counts}")
    row.times["capture"] = time.monotonic() - begin
    if case.refused:
        equal("refusal", {one["check"] for one in findings}, {case.refused})
        equal("exit status of capture", captured.status, 1)
        row.result = "refused, as it should be"
        case.ask(first)
        return False
    if captured.status:
        say(f"  after a failed capture: {shown(_alive(case, first))}")
    _check_capture(captured)
    return True


def _check_capture(captured: Result) -> None:
    if captured.status:
        raise Wrong(f"capture: {captured.stderr.strip()}")
    say(f"  {captured.stdout.strip()} {captured.stderr.strip()}")


def _start_cold(stack: Stack, case: Case, pod: Pod, row: Row, started: list[Running]) -> None:
    """A copy that cannot be restored starts the ordinary way, and it is said why."""
    copy = Live(stack.pods.start(pod, ready=False))
    started.append(copy.running)
    copy.wait("readiness of the cold copy", lambda: (case.ready or case.ask)(copy))
    if case.cold not in stack.node.logs("proxy"):
        raise Wrong(f"the proxy's log does not say {case.cold!r}")
    row.result = "starts cold, as it should"


def _alive(case: Case, first: Live) -> object:
    try:
        return case.ask(first)
    except Exception as error:  # noqa: BLE001 - the capture's failure is what is told
        return f"the original is broken: {error}"


def _restore(stack: Stack, pod: Pod, name: str, row: Row, started: list[Running]) -> Live:
    copy = Live(stack.pods.start(pod.restoring(name, on_failure="fail"), ready=False))
    started.append(copy.running)
    row.times["restore"] = copy.running.start_seconds["main"]
    return copy


def _judge(case: Case, copy: Live, first: Live, wanted: object) -> None:
    found = _stable(case.ask(copy))
    say(f"  {copy.running.name}: {shown(found)}")
    equal("answer of a copy", found, wanted)
    if copy.running.ip in ("", first.running.ip):
        raise Wrong(f"the copy has the address {copy.running.ip!r}")
    addresses = copy.sh("ip -o -4 addr show dev eth0")
    if f" {copy.running.ip}/" not in addresses:
        raise Wrong(f"{copy.running.ip} is not among {addresses}")
    equal("hostname", copy.sh("hostname"), copy.running.hostname)
    equal("state", copy.running.status()["state"], "CONTAINER_RUNNING")


def _stable(answer: object) -> object:
    """An answer that can be compared: what JSON makes of it."""
    return json.loads(json.dumps(answer))


def _stop(stack: Stack, live: Live) -> int:
    begin = time.monotonic()
    stack.cri.ask("StopContainer", container_id=live.running.id(), timeout=30)
    code = int(live.running.wait_exit(timeout=40)["exit_code"])
    if time.monotonic() - begin > 25:
        raise Wrong(f"it ended only when it was killed: {live.running.log()[-300:]}")
    return code


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.programs", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="a program; default: all")
    parser.add_argument("--keep", action="store_true", help="leave the node at the end")
    options = parser.parse_args(arguments)
    try:
        cases = by_name(options.names)
    except ValueError as error:
        parser.error(str(error))
    archive = image.image()
    rows: list[Row] = []
    node = Node("sid").start()
    try:
        node.install_podthaw()
        node.start_containerd()
        node.import_image(archive)
        if not node.dumps_users:
            say("no C compiler: programs with users other than root are left out")
            cases = [case for case in cases if not case.users]
        stack = Stack(node)
        for case in cases:
            say(f"{case.name}:")
            rows.append(run(stack, case))
            say(f"  {rows[-1].result}")
        stack.close()
    finally:
        if not options.keep:
            node.stop()
    _print(rows)
    return int(any(row.result.startswith("FAILED") for row in rows))


def _print(rows: list[Row]) -> None:
    for row in rows:
        times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row.times.items())
        print(f"{row.name:18} {row.result}  ({times})")
        for finding in row.findings:
            print(f"{'':20}{finding}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Unavailable as error:
        sys.exit(f"the programs cannot be tried: {error}")
