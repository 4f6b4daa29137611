"""How songs become files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from songstarter import contract
from songstarter_client import Song
from songstarter_client.fields import AudioFormat, Fields, Normalization
from songstarter_client.outgoing import HANDLING
from songstarter_client.song import slug

SONG = Song("synth, dark, A minor, 140 bpm", (b"first", b"second"), "wav", 42, 32000)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_named_after_prompt_seed_and_variation(tmp_path: Path) -> None:
    paths = SONG.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [
        "synth-dark-a-minor-140-bpm-42-1.wav",
        "synth-dark-a-minor-140-bpm-42-2.wav",
    ]
    assert [path.read_bytes() for path in paths] == [b"first", b"second"]
    assert names(tmp_path / "new" / "folder") == [path.name for path in paths]


def test_no_file_takes_the_place_of_another(tmp_path: Path) -> None:
    for _ in range(3):
        SONG.save(tmp_path, stem="a")
    expected = ["a-42-1-2.wav", "a-42-1-3.wav", "a-42-1.wav", "a-42-2-2.wav", "a-42-2-3.wav", "a-42-2.wav"]
    assert names(tmp_path) == expected
    assert (tmp_path / "a-42-1-3.wav").read_bytes() == b"first"


def test_a_dangling_link_is_a_taken_name(tmp_path: Path) -> None:
    (tmp_path / "a-42-1.wav").symlink_to(tmp_path / "elsewhere")
    assert SONG.save(tmp_path, stem="a")[0].name == "a-42-1-2.wav"


def test_a_file_system_without_hard_links_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    SONG.save(tmp_path, stem="a")
    SONG.save(tmp_path, stem="a")
    assert names(tmp_path) == ["a-42-1-2.wav", "a-42-1.wav", "a-42-2-2.wav", "a-42-2.wav"]
    assert (tmp_path / "a-42-2-2.wav").read_bytes() == b"second"


def test_files_are_as_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    saved = SONG.save(tmp_path)[0]
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", "song"),
        ("../../etc/passwd", "etc-passwd"),
        ("  Über_Klänge!  ", "über-klänge"),
        ("x" * 300, "x" * 48),
    ],
)
def test_a_prompt_becomes_a_safe_name(prompt: str, expected: str) -> None:
    assert slug(prompt) == expected


def test_a_song_shows_itself_without_its_bytes() -> None:
    assert repr(SONG) == "Song('synth, dark, A minor, 140 bpm', wav: [5 bytes, 6 bytes], seed 42, 32000 Hz)"


def test_the_typed_fields_are_the_contracts() -> None:
    public = {field.name for field in contract.FIELDS} - {"prompt", "output_encoding"}
    assert get_type_hints(Fields).keys() == public | {field.name for field in HANDLING}
    assert get_args(Normalization) == contract.NORMALIZATIONS
    assert get_args(AudioFormat) == contract.FORMATS
