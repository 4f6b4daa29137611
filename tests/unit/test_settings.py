"""What an operator sets stands in front of a model's config.pbtxt, and what no model reads is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import CHECKPOINT

from songstarter.cli import main
from songstarter.errors import CheckpointError, ServerError
from songstarter.faces.triton import settings_of
from songstarter.settings import MODELS, VARIABLE, environment, parameters, require_known

REPOSITORY = Path(__file__).parents[2] / "model_repository"
KNOWN = ("slots", "max_waiting")


def stated(**values: str) -> dict[str, str]:
    """What Triton tells the decoder's process."""
    given = {"FORCE_CPU_ONLY_INPUT_TENSORS": "no"} | values
    config = {"parameters": {name: {"string_value": value} for name, value in given.items()}}
    return {"model_name": "decoder", "model_config": json.dumps(config)}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one of a server with these settings."""
    return lambda **values: monkeypatch.setenv(VARIABLE, environment(values)[VARIABLE])


def test_without_settings_the_configuration_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert settings_of(stated(slots="16", max_waiting="512"), KNOWN) == {"slots": 16, "max_waiting": 512}


def test_what_is_set_takes_the_configurations_place(told: Any) -> None:
    told(**{"decoder.slots": "2", "songstarter.max_requests": "4"})
    assert settings_of(stated(slots="16", max_waiting="512"), KNOWN) == {"slots": 2, "max_waiting": 512}


@pytest.mark.parametrize("value", ["many", "nan", "inf"])
def test_what_is_set_and_no_number_is_refused_as_in_the_configuration(told: Any, value: str) -> None:
    with pytest.raises(CheckpointError, match=f"slots = '{value}' in config.pbtxt of decoder; expected numbers"):
        settings_of(stated(slots=value), KNOWN)
    told(**{"decoder.slots": value})
    with pytest.raises(CheckpointError, match=f"slots = '{value}' in --set of decoder; expected numbers"):
        settings_of(stated(slots="16"), KNOWN)


def test_every_parameter_of_the_configurations_can_be_read() -> None:
    assert parameters(REPOSITORY, "decoder") == {
        "slots": "16",
        "max_waiting": "512",
        "fewest_slots": "1",
        "threads": "0",
    }
    assert parameters(REPOSITORY, "codec_encoder")["session.intra_op.allow_spinning"] == "0"


def test_a_comment_is_no_parameter_and_a_parameter_may_have_lines_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "decoder").mkdir()
    text = '# parameters { key: "slots" value { string_value: "1" } }\n'
    text += 'parameters {\n  key: "threads"\n  value: { string_value: "4" }\n}\n'
    (tmp_path / "decoder" / "config.pbtxt").write_text(text)
    assert parameters(tmp_path, "decoder") == {"threads": "4"}


@pytest.mark.parametrize("name", ["decoder.slotz", "encoder.slots", "text_encoder.intra_op_thread_count"])
def test_what_no_model_reads_is_refused_with_a_list_of_what_there_is(name: str) -> None:
    require_known({"decoder.slots": "8", "songstarter.max_requests": "8"}, REPOSITORY, MODELS)
    with pytest.raises(ServerError) as refused:
        require_known({name: "8"}, REPOSITORY, MODELS)
    assert str(refused.value).startswith(f"--set {name}: expected is one of decoder.slots, decoder.max_waiting,")
    assert "songstarter_stream.max_duration" in str(refused.value)


def test_serve_refuses_it_before_anything_is_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(REPOSITORY / "decoder", tmp_path / "decoder")
    CHECKPOINT.write(tmp_path)
    assert main(["serve", f"--repository={tmp_path}", "--set", "decoder.slotz=8"]) == 1
    known = "decoder.slots, decoder.max_waiting, decoder.fewest_slots, decoder.threads"
    assert capsys.readouterr().err == (
        f"songstarter: --set decoder.slotz: expected is one of {known}, as in {tmp_path}\n"
    )


@pytest.mark.parametrize("text", ["decoder.slots", "slots=8", ".slots=8", "decoder.=8", "decoder.slots="])
def test_what_is_no_setting_is_an_error_of_usage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", "--set", text])
    assert end.value.code == 2
    assert f"found {text!r}, expected is MODEL.PARAMETER=VALUE" in capsys.readouterr().err
