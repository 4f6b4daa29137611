"""Checkpoints from disk are the models they were written from."""

from __future__ import annotations

import os
from collections import OrderedDict
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from audiocraft_folder import write_audiocraft
from transformers import T5EncoderModel

from export.checkpoints import Loaded, load, make_checkpoint, save
from export.checkpoints.compose import compose
from export.checkpoints.pickles import read_pickle
from songstarter.errors import UnknownCheckpoint, UnsafeCheckpoint

EVERY_CHECKPOINT = ["melody_checkpoint", "melody_mono_checkpoint", "text_checkpoint", "text_stereo_checkpoint"]


@pytest.fixture(params=EVERY_CHECKPOINT)
def checkpoint(request: pytest.FixtureRequest) -> Loaded:
    loaded: Loaded = request.getfixturevalue(request.param)
    return loaded


@pytest.fixture
def parts(checkpoint: Loaded, tmp_path: Path) -> dict[str, str]:
    """Folders that stand in for the hub's ``t5-base`` and ``facebook/encodec_32khz``."""
    checkpoint.text_encoder.save_pretrained(tmp_path / "t5")
    checkpoint.tokenizer.save_pretrained(tmp_path / "t5")
    checkpoint.codec.save_pretrained(tmp_path / "encodec")
    return {"text_encoder": str(tmp_path / "t5"), "codec": str(tmp_path / "encodec")}


def logits(loaded: Loaded) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    columns = torch.randint(2048, (2 * loaded.codebooks, 9), generator=generator)
    text = loaded.tokenizer(["dark synth", "a warm piano, 90 bpm"], return_tensors="pt", padding=True)
    with torch.no_grad():
        return loaded.model(**text, decoder_input_ids=columns).logits


def assert_same(found: Loaded, expected: Loaded) -> None:
    assert found.family == expected.family
    assert found.delays == expected.delays
    torch.testing.assert_close(logits(found), logits(expected), rtol=1e-6, atol=1e-6)
    codes = torch.arange(80).reshape(1, 1, 4, 20) * 25
    torch.testing.assert_close(found.codec.decode(codes, [None])[0], expected.codec.decode(codes, [None])[0])


def test_a_saved_folder_loads_to_the_same_model(checkpoint: Loaded, tmp_path: Path) -> None:
    save(checkpoint, tmp_path)
    assert_same(load(str(tmp_path)), checkpoint)


def test_an_audiocraft_folder_that_names_its_codec_loads_to_the_same_model(
    checkpoint: Loaded, parts: dict[str, str], tmp_path: Path
) -> None:
    write_audiocraft(checkpoint, tmp_path / "audiocraft", reference=True)
    assert_same(load(str(tmp_path / "audiocraft"), **parts), checkpoint)


def test_an_audiocraft_folder_that_holds_its_codec_loads_to_the_same_model(
    checkpoint: Loaded, parts: dict[str, str], tmp_path: Path
) -> None:
    write_audiocraft(checkpoint, tmp_path / "audiocraft", reference=False)
    assert_same(load(str(tmp_path / "audiocraft"), text_encoder=parts["text_encoder"]), checkpoint)


def test_half_precision_weights_are_widened(melody_checkpoint: Loaded, tmp_path: Path) -> None:
    halved = replace(melody_checkpoint, model=deepcopy(melody_checkpoint.model).half())
    save(halved, tmp_path)
    assert {weight.dtype for weight in load(str(tmp_path)).model.parameters()} == {torch.float32}


def test_the_same_seed_makes_the_same_checkpoint_and_leaves_the_caller_s_randomness_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, two = (make_checkpoint(family="melody", channels=2, seed=3) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    other = make_checkpoint(family="melody", channels=2, seed=4)
    assert torch.equal(logits(one), logits(two))
    assert not torch.equal(logits(one), logits(other))


def test_any_text_has_tokens_and_ends_with_the_end_token(melody_checkpoint: Loaded) -> None:
    tokenizer = melody_checkpoint.tokenizer
    for text in ("", "synth, dark", "🎹 ünïcode\n\t", "\u0000"):
        tokens = tokenizer(text).input_ids
        assert tokens[-1] == 1
        assert tokenizer.unk_token_id not in tokens


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_more_than_tensors_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, witness = tmp_path / "state_dict.bin", tmp_path / "witness"
    torch.save({"best_state": {"a": Evil(witness)}}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafeCheckpoint, match=r"^state_dict\.bin holds the name \S*mkdir; expected only tensors"):
        load(str(tmp_path))
    assert not witness.exists()


def test_something_that_is_no_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state_dict.bin").write_bytes(b"RIFF....WAVE")
    with pytest.raises(UnsafeCheckpoint):
        load(str(tmp_path))


def test_tensors_that_carry_attributes_are_accepted(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    tensor._is_flattened = True  # type: ignore[attr-defined]
    torch.save({"best_state": OrderedDict(a=tensor)}, tmp_path / "state.bin")
    assert b"_rebuild_from_type_v2" in (tmp_path / "state.bin").read_bytes()
    assert torch.equal(read_pickle(tmp_path / "state.bin")["best_state"]["a"], tensor)


def test_a_folder_without_a_checkpoint_is_named_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"found neither config\.json nor state_dict\.bin"):
        load(str(tmp_path))


def test_a_model_that_is_no_musicgen_is_refused(melody_checkpoint: Loaded, tmp_path: Path) -> None:
    melody_checkpoint.text_encoder.save_pretrained(tmp_path)
    with pytest.raises(UnknownCheckpoint, match="names a 't5' model; expected musicgen or musicgen_melody"):
        load(str(tmp_path))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"best_state": {"layer.weight": torch.zeros(2, 2)}}, tmp_path / "state_dict.bin")
    with pytest.raises(UnknownCheckpoint):
        load(str(tmp_path))


def test_an_unknown_tensor_is_named(melody_checkpoint: Loaded, tmp_path: Path) -> None:
    melody_checkpoint.text_encoder.save_pretrained(tmp_path / "t5")
    melody_checkpoint.tokenizer.save_pretrained(tmp_path / "t5")
    write_audiocraft(melody_checkpoint, tmp_path, reference=False)
    content = torch.load(tmp_path / "state_dict.bin", weights_only=True)
    content["best_state"]["transformer.layers.0.layer_scale_1.scale"] = torch.ones(128)
    torch.save(content, tmp_path / "state_dict.bin")
    with pytest.raises(UnknownCheckpoint, match=r"holds 'transformer\.layers\.0\.layer_scale_1\.scale'"):
        load(str(tmp_path), text_encoder=str(tmp_path / "t5"))


def test_an_id_is_one_sentence_when_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownCheckpoint, match="the hub cannot be reached"):
        load("nobody/no-such-checkpoint")


def configure(pickle: Path, settings: dict[str, object]) -> None:
    """Give stored weights another configuration."""
    torch.save(torch.load(pickle, weights_only=True) | {"xp.cfg": yaml.safe_dump(settings)}, pickle)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lm_model": "transformer_lm_magnet"}, "lm_model is 'transformer_lm_magnet'; expected 'transformer_lm'"),
        ({"codebooks_pattern": {"modeling": "parallel"}}, "codebooks_pattern.modeling is 'parallel'"),
        ({"codebooks_pattern": {"delay": {"delays": [0, 1, 2, 4]}}}, "delays is .* expected"),
        ({"transformer_lm": {"activation": "relu"}}, "transformer_lm.activation is 'relu'; expected 'gelu'"),
        ({"transformer_lm": {"norm_first": False}}, "transformer_lm.norm_first is False; expected True"),
        ({"transformer_lm": {"causal": "${my.causal}"}, "my": {"causal": False}}, "causal is False; expected True"),
        ({"transformer_lm": {"causal": "${transformer_lm.causal}"}}, "transformer_lm.causal refers to itself"),
    ],
)
def test_a_language_model_that_computes_otherwise_is_refused(
    melody_mono_checkpoint: Loaded, tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    """No tensor would show it."""
    write_audiocraft(melody_mono_checkpoint, tmp_path / "folder", reference=False)
    melody_mono_checkpoint.text_encoder.save_pretrained(tmp_path / "t5")
    melody_mono_checkpoint.tokenizer.save_pretrained(tmp_path / "t5")
    weights = tmp_path / "folder" / "state_dict.bin"
    configure(weights, settings)
    with pytest.raises(UnknownCheckpoint, match=sentence):
        load(str(tmp_path / "folder"), text_encoder=str(tmp_path / "t5"))


def test_a_stored_codec_whose_causality_nobody_says_is_refused(melody_checkpoint: Loaded, tmp_path: Path) -> None:
    write_audiocraft(melody_checkpoint, tmp_path / "folder", reference=False)
    codec = tmp_path / "folder" / "compression_state_dict.bin"
    configure(codec, {"seanet": {"causal": "${oc.env:CAUSAL}"}})
    with pytest.raises(UnknownCheckpoint, match=r"seanet.causal is '\$\{oc.env:CAUSAL\}'; expected true or false"):
        load(str(tmp_path / "folder"))


def test_a_text_as_wide_as_the_language_model_is_projected_all_the_same(
    text_checkpoint: Loaded, tmp_path: Path
) -> None:
    """audiocraft always does; transformers only where the widths differ."""
    made = deepcopy(text_checkpoint)
    width = made.model.decoder.config.hidden_size
    config = deepcopy(made.text_encoder.config)
    config.d_model = width
    model = compose(made.family, text_encoder=T5EncoderModel(config), codec=made.codec, decoder=made.model.decoder)
    model.enc_to_dec_proj = torch.nn.Linear(width, width)
    made = replace(made, model=model)
    write_audiocraft(made, tmp_path / "folder", reference=False)
    made.text_encoder.save_pretrained(tmp_path / "t5")
    made.tokenizer.save_pretrained(tmp_path / "t5")
    found = load(str(tmp_path / "folder"), text_encoder=str(tmp_path / "t5"))
    torch.testing.assert_close(found.model.enc_to_dec_proj.weight, model.enc_to_dec_proj.weight)


def test_a_codec_for_a_folder_that_holds_one_is_refused(melody_checkpoint: Loaded, tmp_path: Path) -> None:
    save(melody_checkpoint, tmp_path)
    with pytest.raises(UnknownCheckpoint, match="a transformers folder holds its codec: leave --codec out"):
        load(str(tmp_path), codec="anything")
