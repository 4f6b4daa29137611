"""A key: where it is found, what it may be, and that it is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from songstarter.errors import UnusableKey
from songstarter.key import Key
from songstarter.server.exposure import Exposure

TEXT = "a-key-of-20-letters."


@pytest.fixture(autouse=True)
def _no_key_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SONGSTARTER_KEY", "SONGSTARTER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_given_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Key.given() is None
    monkeypatch.setenv("SONGSTARTER_KEY", "")
    assert Key.given() is None


def test_a_named_file_goes_before_the_environment_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(f"{TEXT}{name}\n")
    monkeypatch.setenv("SONGSTARTER_KEY", TEXT)
    assert Key.given() == Key(TEXT)
    monkeypatch.setenv("SONGSTARTER_KEY_FILE", str(tmp_path / "second"))
    assert Key.given() == Key(f"{TEXT}second")
    assert Key.given(tmp_path / "first") == Key(f"{TEXT}first")


@pytest.mark.parametrize(
    "text", ["short", "with a space in it", "a,comma,separates,apis", "line\nbreaks-and-more", "é" * 16]
)
def test_what_triton_would_misread_is_no_key(text: str) -> None:
    with pytest.raises(UnusableKey, match="allowed are 16 to 512 letters") as refused:
        Key(text)
    assert text not in str(refused.value)


def test_a_file_without_a_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableKey, match=r"nowhere cannot be read \(FileNotFoundError\)"):
        Key.given(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UnusableKey, match="empty is empty"):
        Key.given(tmp_path / "empty")


def test_a_key_is_not_shown() -> None:
    assert TEXT not in f"{Key(TEXT)!r} {Exposure('127.0.0.1', Key(TEXT))}"


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3"])
def test_an_address_that_others_reach_needs_a_key_or_somebody_s_word(host: str) -> None:
    with pytest.raises(UnusableKey, match=f"--host {host} lets others reach .* --without-key"):
        Exposure.checked(host, None, without_key=False)
    assert Exposure.checked(host, Key(TEXT), without_key=False).key == Key(TEXT)
    assert Exposure.checked(host, None, without_key=True).key is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_loopback_needs_none(host: str) -> None:
    assert Exposure.checked(host, None, without_key=False).restrictions


def test_what_is_closed_has_another_secret_each_time() -> None:
    assert Exposure().restrictions != Exposure().restrictions
