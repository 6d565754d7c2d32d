from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri import annotations
from cri.annotations import Action
from cri.store.refs import Reference
from shim.errors import Refused, Unfit
from shim.hooks import Hook

DIGEST = "sha256:" + "ab" * 32


def test_a_pod_without_our_annotations_asks_for_nothing() -> None:
    reading = annotations.read({"example.com/x": "y"}, "web")
    assert reading == annotations.Reading()
    assert not annotations.opted_in({"example.com/x": "y", "podthaw.dev/tcp": "close"})


@pytest.mark.parametrize("key", ["podthaw.dev/snapshot", "podthaw.dev/snapshot.other"])
def test_a_pod_that_names_a_snapshot_for_any_container_opted_in(key: str) -> None:
    assert annotations.opted_in({key: "x"})


def test_a_name_with_the_defaults() -> None:
    reading = annotations.read({annotations.SNAPSHOT: "llama-8b"}, "web")
    assert reading.wish == annotations.Wish(reference=Reference("llama-8b"), named=False)
    assert (reading.on_failure, reading.problem, reading.warnings) == ("cold", None, ())
    assert (reading.meant, reading.text) == (True, "llama-8b")


def test_a_name_with_its_digest() -> None:
    reading = annotations.read({annotations.SNAPSHOT: f"x@{DIGEST}"}, "web")
    assert reading.wish is not None
    assert reading.wish.reference == Reference("x", DIGEST)


def test_the_containers_own_annotation_goes_before_the_general_one() -> None:
    both = {annotations.SNAPSHOT: "general", annotations.SNAPSHOT + ".web": "own"}
    own, other = annotations.read(both, "web").wish, annotations.read(both, "sidecar").wish
    assert own is not None
    assert other is not None
    assert (own.reference.name, own.named) == ("own", True)
    assert (other.reference.name, other.named) == ("general", False)


def test_an_annotation_for_another_container_does_not_mean_this_one() -> None:
    reading = annotations.read({annotations.SNAPSHOT + ".web": "x"}, "init")
    assert (reading.wish, reading.problem, reading.warnings) == (None, None, ())
    assert not reading.meant


@pytest.mark.parametrize("value", ["oci://registry/repo:tag", "s3://bucket/key", "auto"])
def test_what_a_later_version_serves_is_unfit_now(value: str) -> None:
    reading = annotations.read({annotations.SNAPSHOT: value}, "web")
    assert reading.wish is None
    assert isinstance(reading.problem, Unfit)
    assert "not yet supported by this version" in str(reading.problem)


@pytest.mark.parametrize(
    "value",
    [
        *["", "a/b", "../x", "a..b", "/etc/passwd", ".hidden", "UPPER", "a b", "a\n", "ä", "a\0b"],
        *["x" * 129, "x@", "x@sha256:12", f"x@md5:{'a' * 64}", f"x@{DIGEST.upper()}", f"@{DIGEST}"],
    ],
)
def test_a_malformed_name_is_a_problem_and_follows_on_failure(value: str) -> None:
    for policy in ("cold", "fail"):
        reading = annotations.read(
            {annotations.SNAPSHOT: value, annotations.ON_FAILURE: policy}, "web"
        )
        assert reading.wish is None
        assert isinstance(reading.problem, Refused)
        assert str(reading.problem).startswith("podthaw.dev/snapshot: ")
        assert reading.on_failure == policy
        assert reading.meant
        assert reading.text.isprintable()


def test_a_malformed_policy_is_taken_as_cold_and_warned_of() -> None:
    reading = annotations.read({annotations.SNAPSHOT: "x", annotations.ON_FAILURE: "Fail"}, "web")
    assert reading.on_failure == "cold"
    assert reading.wish is not None
    assert reading.warnings == (
        "podthaw.dev/on-failure is 'Fail', wanted cold or fail: taken as cold",
    )


@pytest.mark.parametrize(
    ("key", "value", "field", "wanted"),
    [
        (annotations.TCP, "established", "tcp", "established"),
        (annotations.CAPTURE_WHEN, "ready", "capture_when", Action("ready")),
        (
            annotations.CAPTURE_WHEN,
            "http:8080/health",
            "capture_when",
            Action("http", "8080/health"),
        ),
        (annotations.CAPTURE_WHEN, "http:8080", "capture_when", Action("http", "8080")),
        (annotations.CAPTURE_WHEN, "exec:test -f /x", "capture_when", Action("exec", "test -f /x")),
        (annotations.CAPTURE_WHEN, "file:/tmp/ready", "capture_when", Action("file", "/tmp/ready")),
        (annotations.CAPTURE_WHEN, "after:30s", "capture_when", Action("after", "30")),
        (annotations.CAPTURE_WHEN, "after:2m", "capture_when", Action("after", "120")),
        (annotations.BEFORE_CAPTURE, "signal:USR1", "before_capture", Hook("signal", "USR1")),
        (annotations.BEFORE_CAPTURE, "signal:SIGHUP", "before_capture", Hook("signal", "HUP")),
        (annotations.AFTER_RESTORE, "http:80/wake", "after_restore", Hook("http", "80/wake")),
        (
            annotations.AFTER_RESTORE,
            "exec:/wake --now",
            "after_restore",
            Hook("exec", "/wake --now"),
        ),
    ],
)
def test_each_value_is_read(key: str, value: str, field: str, wanted: object) -> None:
    wish = annotations.read({annotations.SNAPSHOT: "x", key: value}, "web").wish
    assert wish is not None
    assert getattr(wish, field) == wanted


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (annotations.TCP, "Close"),
        (annotations.TCP, ""),
        (annotations.CAPTURE_WHEN, "later"),
        (annotations.CAPTURE_WHEN, "http:0/x"),
        (annotations.CAPTURE_WHEN, "http:65536/x"),
        (annotations.CAPTURE_WHEN, "http:80/a b"),
        (annotations.CAPTURE_WHEN, "http:evil.example/x"),
        (annotations.CAPTURE_WHEN, "file:relative"),
        (annotations.CAPTURE_WHEN, "file:/a/../b"),
        (annotations.CAPTURE_WHEN, "after:30"),
        (annotations.CAPTURE_WHEN, "after:-1s"),
        (annotations.CAPTURE_WHEN, "after:25h"),
        (annotations.CAPTURE_WHEN, "signal:USR1"),
        (annotations.BEFORE_CAPTURE, "exec:"),
        (annotations.BEFORE_CAPTURE, "exec:  "),
        (annotations.BEFORE_CAPTURE, "exec:a\nb"),
        (annotations.BEFORE_CAPTURE, "file:/x"),
        (annotations.AFTER_RESTORE, "signal:KILL"),
        (annotations.AFTER_RESTORE, "signal:TERM"),
        (annotations.AFTER_RESTORE, "signal:STOP"),
        (annotations.AFTER_RESTORE, "signal:9"),
        (annotations.AFTER_RESTORE, "USR1"),
    ],
)
def test_a_malformed_value_is_a_problem_that_says_what_was_wanted(key: str, value: str) -> None:
    reading = annotations.read({annotations.SNAPSHOT: "x", key: value}, "web")
    assert reading.wish is None
    assert isinstance(reading.problem, Refused)
    assert str(reading.problem).startswith(f"{key} is {value!r}, wanted ")


def test_where_the_pod_is_silent_the_node_decides() -> None:
    defaults = annotations.Defaults(on_failure="fail", tcp="established")
    silent = annotations.read({annotations.SNAPSHOT: "x"}, "web", defaults)
    assert silent.wish is not None
    assert (silent.on_failure, silent.wish.tcp) == ("fail", "established")
    own = {annotations.ON_FAILURE: "cold", annotations.TCP: "close", annotations.SNAPSHOT: "x"}
    loud = annotations.read(own, "web", defaults)
    assert loud.wish is not None
    assert (loud.on_failure, loud.wish.tcp) == ("cold", "close")


def test_a_hook_that_names_the_container_comes_first() -> None:
    asked = {
        annotations.SNAPSHOT: "x",
        annotations.BEFORE_CAPTURE: "signal:USR1",
        annotations.BEFORE_CAPTURE + ".web": "exec:/rest",
        annotations.AFTER_RESTORE + ".other": "exec:/wake",
    }
    reading = annotations.read(asked, "web")
    assert reading.warnings == ()
    assert reading.wish is not None
    assert reading.wish.before_capture == Hook("exec", "/rest")
    assert reading.wish.after_restore is None
    other = annotations.read(asked, "other").wish
    assert other is not None
    assert other.before_capture == Hook("signal", "USR1")
    assert other.after_restore == Hook("exec", "/wake")


def test_a_malformed_hook_of_one_container_concerns_no_other() -> None:
    asked = {annotations.SNAPSHOT: "x", annotations.AFTER_RESTORE + ".web": "exec:"}
    problem = annotations.read(asked, "web").problem
    assert str(problem).startswith("podthaw.dev/after-restore.web is 'exec:', wanted http:PORT")
    assert annotations.read(asked, "other").wish is not None


def test_what_is_not_carried_out_is_said() -> None:
    asked = {annotations.SNAPSHOT: "x", annotations.CAPTURE_WHEN: "after:30s"}
    (warning,) = annotations.read(asked, "web").warnings
    assert warning.startswith("podthaw.dev/capture-when is understood but not yet carried out")


@pytest.mark.parametrize(
    ("key", "warning"),
    [
        ("podthaw.dev/snapshots", "did you mean podthaw.dev/snapshot?"),
        ("podthaw.dev/onfailure", "did you mean podthaw.dev/on-failure?"),
        ("podthaw.dev/tcp.web", "did you mean podthaw.dev/tcp?"),
        ("podthaw.dev/zzzzzzzz", "is no annotation of Podthaw and is ignored"),
        ("podthaw.dev/plan", "set by Podthaw itself"),
        ("podthaw.dev/snapshot.", "names no container"),
        ("podthaw.dev/snapshot.a/b", "names no container"),
        ("podthaw.dev/after-restore.a/b", "names no container"),
        ("podthaw.dev/before-capture.", "names no container"),
    ],
)
def test_an_unknown_key_is_a_warning_and_the_start_goes_on(key: str, warning: str) -> None:
    reading = annotations.read({annotations.SNAPSHOT: "x", key: "1"}, "web")
    assert reading.wish is not None
    assert len(reading.warnings) == 1
    assert warning in reading.warnings[0]


def test_the_snapshots_of_a_pod_are_those_that_can_be_read() -> None:
    asked = {
        annotations.SNAPSHOT: "a",
        annotations.SNAPSHOT + ".x": "a",
        annotations.SNAPSHOT + ".y": "b",
        "z": "c",
    }
    assert annotations.snapshots({**asked, annotations.SNAPSHOT + ".w": "../.."}) == [
        Reference("a"),
        Reference("b"),
    ]


keys = st.one_of(
    st.sampled_from(annotations._KEYS),
    st.text(max_size=20).map(lambda text: annotations.PREFIX + text),
    st.text(),
)


@given(st.dictionaries(keys, st.text(), max_size=8), st.text(max_size=10))
def test_whatever_is_typed_reading_never_raises_and_never_lets_a_path_through(
    asked: dict[str, str], container: str
) -> None:
    reading = annotations.read(asked, container)
    assert not (reading.wish and reading.problem)
    assert reading.meant == bool(reading.wish or reading.problem)
    assert reading.text.isprintable()
    assert len(reading.warnings) <= annotations._MAX_WARNINGS
    assert all("\n" not in warning for warning in reading.warnings)
    if reading.problem:
        assert "\n" not in str(reading.problem)
    if reading.wish:
        name = reading.wish.reference.name
        assert "/" not in name
        assert ".." not in name
        assert not name.startswith(".")
        assert len(name) <= 128
