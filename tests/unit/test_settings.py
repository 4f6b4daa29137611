"""What an operator sets stands in front of a model's config.pbtxt, and what no model reads is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import CHECKPOINT

from songstarter.checkpoint import Checkpoint, Device
from songstarter.cli import main
from songstarter.errors import CheckpointError, ServerError
from songstarter.faces.triton import settings_of
from songstarter.settings import MODELS, PARAMETERS, VARIABLE, environment, parameters, require_known

REPOSITORY = Path(__file__).parents[2] / "model_repository"
WHOLE, WHOLE_OR_NONE = "a whole number, 1 to 999999999", "a whole number, 0 to 999999999"
SECONDS = "seconds, more than 0 and at most 86400"
NOT_ALLOWED = [
    ("decoder.slots", "many", WHOLE),
    ("decoder.slots", "nan", WHOLE),
    ("decoder.slots", "8.7", WHOLE),
    ("decoder.slots", "1e1", WHOLE),
    ("decoder.slots", "1_0", WHOLE),
    ("decoder.slots", "0", WHOLE),
    ("decoder.slots", "9999999999", WHOLE),
    ("decoder.max_waiting", "-1", WHOLE_OR_NONE),
    ("decoder.threads", "0.5", WHOLE_OR_NONE),
    ("decoder.fewest_slots", "16", "1, since the decoder was exported for cpu and this is for cuda"),
    ("songstarter.max_requests", "0", WHOLE),
    ("songstarter_stream.codec_calls", "0.5", WHOLE),
    ("songstarter.max_duration", "inf", SECONDS),
    ("songstarter.max_duration", "0", SECONDS),
    ("songstarter.max_audio_seconds", "-1.5", SECONDS),
    ("songstarter_stream.max_duration", "86401", SECONDS),
]
State = Callable[..., Mapping[str, str]]


def exported_for(device: Device) -> Checkpoint:
    return replace(CHECKPOINT, models=MODELS, decoder=replace(CHECKPOINT.decoder, device=device))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """Makes what Triton tells a model's process, here the decoder's, of a configuration with these parameters."""
    monkeypatch.delenv(VARIABLE, raising=False)

    def told(model: str = "decoder", device: Device = "cpu", **values: str) -> Mapping[str, str]:
        exported_for(device).write(tmp_path)
        given = {"FORCE_CPU_ONLY_INPUT_TENSORS": "no"} | values
        config = {"parameters": {name: {"string_value": value} for name, value in given.items()}}
        return {
            "model_name": model,
            "model_config": json.dumps(config),
            "model_repository": str(tmp_path / model),
        }

    return told


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one of a server with these settings."""
    return lambda **values: monkeypatch.setenv(VARIABLE, environment(values)[VARIABLE])


def test_without_settings_the_configuration_counts(state: State) -> None:
    assert settings_of(state(slots="16", max_waiting="512")) == {"slots": 16, "max_waiting": 512}


def test_what_is_set_takes_the_configurations_place(state: State, told: Any) -> None:
    args = state(slots="16", max_waiting="512")
    told(**{"decoder.slots": "2", "songstarter.max_requests": "4"})
    assert settings_of(args) == {"slots": 2, "max_waiting": 512}


def test_a_whole_number_is_one_for_a_model_too(state: State) -> None:
    found = settings_of(state("songstarter", max_requests="64", max_duration="90", codec_calls="2"))
    assert [(name, type(value)) for name, value in found.items()] == [
        ("max_requests", int),
        ("max_duration", float),
        ("codec_calls", int),
    ]


@pytest.mark.parametrize(("name", "value", "allowed"), NOT_ALLOWED)
def test_what_is_not_allowed_is_refused_before_triton_starts_and_by_the_model(
    name: str, value: str, allowed: str, state: State, told: Any
) -> None:
    with pytest.raises(ServerError) as early:
        require_known({name: value}, exported_for("cpu"))
    assert str(early.value) == f"--set {name}={value}: expected is {allowed}"
    model, _, parameter = name.partition(".")
    with pytest.raises(CheckpointError) as stated:
        settings_of(state(model, **{parameter: value}))
    assert str(stated.value) == f"found {parameter} = {value!r} in config.pbtxt of {model}; expected is {allowed}"
    args = state(model)
    told(**{name: value})
    with pytest.raises(CheckpointError) as late:
        settings_of(args)
    assert str(late.value) == f"found {parameter} = {value!r} in --set of {model}; expected is {allowed}"


def test_what_matters_to_the_other_device_alone_stays_as_it_is() -> None:
    require_known({"decoder.fewest_slots": "1", "decoder.threads": "2"}, exported_for("cpu"))
    require_known({"decoder.fewest_slots": "16", "decoder.threads": "0"}, exported_for("cuda"))
    with pytest.raises(ServerError, match=r"threads=2: expected is 0, since the decoder was exported for cuda"):
        require_known({"decoder.threads": "2"}, exported_for("cuda"))


def test_a_parameter_that_a_model_does_not_know_is_refused_with_a_list_of_those_that_it_knows(state: State) -> None:
    with pytest.raises(CheckpointError) as refused:
        settings_of(state(slotz="16"))
    expected = "one of slots, max_waiting, fewest_slots, threads"
    assert str(refused.value) == f"found slotz = '16' in config.pbtxt of decoder; expected is {expected}"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("model", MODELS)
def test_the_configurations_state_every_parameter_and_an_allowed_value(
    model: str, device: Device, state: State
) -> None:
    stated = parameters(REPOSITORY, model)
    assert list(stated) == list(PARAMETERS[model])
    assert settings_of(state(model, device, **stated)) == {name: float(text) for name, text in stated.items()}


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
    require_known({"decoder.slots": "8", "songstarter.max_requests": "8"}, exported_for("cpu"))
    with pytest.raises(ServerError) as refused:
        require_known({name: "8"}, exported_for("cpu"))
    assert str(refused.value).startswith(f"--set {name}: expected is one of decoder.slots, decoder.max_waiting,")
    assert "songstarter_stream.max_duration" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "decoder.slotz=8",
            "decoder.slotz: expected is one of decoder.slots, decoder.max_waiting, decoder.fewest_slots, "
            "decoder.threads",
        ),
        ("decoder.slots=8.7", f"decoder.slots=8.7: expected is {WHOLE}"),
    ],
)
def test_serve_refuses_it_before_anything_is_started(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CHECKPOINT.write(tmp_path)
    assert main(["serve", f"--repository={tmp_path}", "--set", text]) == 1
    assert capsys.readouterr().err == f"songstarter: --set {sentence}\n"


@pytest.mark.parametrize("text", ["decoder.slots", "slots=8", ".slots=8", "decoder.=8", "decoder.slots="])
def test_what_is_no_setting_is_an_error_of_usage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", "--set", text])
    assert end.value.code == 2
    assert f"found {text!r}, expected is MODEL.PARAMETER=VALUE" in capsys.readouterr().err
