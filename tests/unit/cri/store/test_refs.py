from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.store.refs import (
    Reference,
    check_name,
    check_namespace,
    hex_of,
    is_digest,
    is_hex,
    is_name,
    is_namespace,
    short_hex,
    shown,
)
from shim.errors import Refused

HEX = "0123456789abcdef" * 4
NAMES = st.text(string.ascii_lowercase + string.digits + "._-", min_size=1, max_size=140)


@pytest.mark.parametrize(
    "name", ["a", "7", "embeddings", "llama-3.1-8b", "a_b", "a--b", "x" * 128, "0a.b"]
)
def test_a_good_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "../a",
        "a..b",
        "a/",
        "/a",
        "-a",
        "a-",
        "a.",
        "_a",
        "A",
        "ä",
        "a b",
        "a\n",
        "\na",
        "a\0",
        "a@b",
        "a:b",
        "a\\b",
        "x" * 129,
        "٣",
    ],
)
def test_a_bad_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(Refused, match="is not a snapshot's name: wanted 1 to 128 lower-case"):
        check_name(name)


def test_a_word_of_the_annotation_is_no_name() -> None:
    assert not is_name("auto")
    with pytest.raises(Refused, match=r"^auto cannot be a snapshot's name: in a pod's annotation"):
        check_name("auto")
    assert check_name("auto-1") == "auto-1"


@pytest.mark.parametrize("namespace", ["a", "kube-system", "0", "x" * 63])
def test_a_good_namespace(namespace: str) -> None:
    assert check_namespace(namespace) == namespace


@pytest.mark.parametrize(
    "namespace", ["", ".", "..", "a.b", "a/b", "A", "-a", "a-", "a\n", "x" * 64, "a_b", "ä"]
)
def test_a_bad_namespace_is_refused_with_the_rule(namespace: str) -> None:
    with pytest.raises(Refused, match="is not a namespace: wanted 1 to 63 lower-case"):
        check_namespace(namespace)


@given(NAMES | st.text(max_size=140))
def test_what_passes_is_one_plain_path_component(text: str) -> None:
    for check in (is_name, is_namespace, is_hex):
        if check(text):
            assert "/" not in text
            assert "\0" not in text
            assert not text.startswith(".")
            assert ".." not in text
            assert len(text.encode()) <= 128
            assert text.isascii()
            assert text == text.lower()


def test_a_digest() -> None:
    assert hex_of(f"sha256:{HEX}") == HEX
    assert is_digest(f"sha256:{HEX}")
    assert is_hex(HEX)


@pytest.mark.parametrize(
    "digest",
    [
        "",
        HEX,
        "sha256:",
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"sha512:{HEX}",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:../{HEX[3:]}",
    ],
)
def test_a_bad_digest_is_refused(digest: str) -> None:
    assert not is_digest(digest)
    with pytest.raises(Refused, match="is not a digest: wanted sha256: and 64"):
        hex_of(digest)


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("abcdef", "abcdef"),
        ("sha256:abcdef", "abcdef"),
        (HEX, HEX),
        (f"sha256:{HEX}", HEX),
        ("abcde", None),
        ("", None),
        ("ABCDEF", None),
        ("embeddings", None),
        (HEX + "0", None),
        ("abcdef\n", None),
    ],
)
def test_short_digest(text: str, digits: str | None) -> None:
    assert short_hex(text) == digits


def test_a_digest_with_too_few_digits_is_refused() -> None:
    with pytest.raises(
        Refused, match=r"^the digest 'sha256:abc' is too short: wanted 6 digits or more, found 3$"
    ):
        short_hex("sha256:abc")


def test_reference_with_and_without_digest() -> None:
    assert Reference.parse("web") == Reference("web")
    assert Reference.parse(f"web@sha256:{HEX}") == Reference("web", f"sha256:{HEX}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "web@",
        f"@sha256:{HEX}",
        "web@abcdef",
        "a/web",
        "sha256:abcdef",
        HEX + "@",
        f"web@sha256:{HEX}@sha256:{HEX}",
    ],
)
def test_a_bad_reference_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        Reference.parse(text)


@given(NAMES.filter(is_name), st.none() | st.just(f"sha256:{HEX}"))
def test_reference_survives_writing(name: str, digest: str | None) -> None:
    reference = Reference(name, digest)
    assert Reference.parse(str(reference)) == reference


@given(st.text())
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        said = str(Reference.parse(text))
    except Refused as error:
        said = str(error)
        assert_is_a_sentence(said)
    else:
        assert said == text


def assert_is_a_sentence(said: str) -> None:
    assert said.isprintable()
    assert len(said) < 600


@given(st.text(max_size=300))
def test_shown_is_one_printable_line(text: str) -> None:
    assert shown(text).isprintable()
