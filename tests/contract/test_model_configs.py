"""Every config.pbtxt of the repository, read with Triton's own protobuf and compared with contract.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from songstarter import contract
from songstarter.contract import Tensor

REPOSITORY = Path(__file__).parents[2] / "model_repository"

STAGES: dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {
    contract.TEXT_ENCODER: (contract.TEXT_ENCODER_INPUTS, contract.TEXT_ENCODER_OUTPUTS),
    contract.MELODY_ENCODER: (contract.MELODY_ENCODER_INPUTS, contract.MELODY_ENCODER_OUTPUTS),
    contract.CODEC_ENCODER: (contract.CODEC_ENCODER_INPUTS, contract.CODEC_ENCODER_OUTPUTS),
    contract.CODEC_DECODER: (contract.CODEC_DECODER_INPUTS, contract.CODEC_DECODER_OUTPUTS),
}
PYTHON_MODELS: dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {
    contract.DECODER: (contract.DECODER_INPUTS, contract.DECODER_OUTPUTS),
    contract.PUBLIC_MODEL: (tuple(field.tensor for field in contract.FIELDS), contract.OUTPUTS),
    contract.STREAM_MODEL: (tuple(field.tensor for field in contract.STREAM_FIELDS), contract.STREAM_OUTPUTS),
}
MODELS = STAGES | PYTHON_MODELS


def config(model: str) -> Any:
    text = (REPOSITORY / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def declared(side: Any) -> tuple[Tensor, ...]:
    """A config's inputs or outputs in the contract's words."""
    names = model_config_pb2.DataType
    return tuple(
        Tensor(io.name, names.Name(io.data_type).removeprefix("TYPE_"), tuple(io.dims), getattr(io, "optional", False))
        for io in side
    )


def test_the_repository_holds_exactly_the_models_of_the_contract() -> None:
    assert {path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")} == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_a_config_declares_the_tensors_of_the_contract(model: str) -> None:
    inputs, outputs = MODELS[model]
    assert declared(config(model).input) == inputs
    assert declared(config(model).output) == outputs


@pytest.mark.parametrize("model", STAGES)
def test_a_stage_names_the_onnxruntime_backend_and_batches_dynamically(model: str) -> None:
    stage = config(model)
    assert stage.backend == "onnxruntime"
    assert stage.platform == ""
    assert stage.max_batch_size == {contract.CODEC_ENCODER: 8, contract.CODEC_DECODER: 8}.get(model, 16)
    assert stage.HasField("dynamic_batching")
    assert int(stage.parameters["intra_op_thread_count"].string_value) > 0


@pytest.mark.parametrize("model", PYTHON_MODELS)
def test_a_python_model_takes_one_request_a_call(model: str) -> None:
    assert config(model).backend == "python"
    assert config(model).max_batch_size == 0
    assert not config(model).HasField("dynamic_batching")


@pytest.mark.parametrize("model", MODELS)
def test_only_the_decoder_and_the_stream_answer_a_request_more_than_once(model: str) -> None:
    assert config(model).model_transaction_policy.decoupled == (model in (contract.DECODER, contract.STREAM_MODEL))


@pytest.mark.parametrize("model", MODELS)
def test_no_queue_policy_stalls_the_batcher(model: str) -> None:
    batching = config(model).dynamic_batching
    assert not batching.HasField("default_queue_policy")
    assert not batching.priority_levels
    assert not batching.priority_queue_policy


@pytest.mark.parametrize("model", MODELS)
def test_how_many_instances_there_are_is_written_out(model: str) -> None:
    # left out, Triton would start two processes of every model on a CPU
    (group,) = config(model).instance_group
    assert group.count == 1
    assert group.kind != 0 or model in STAGES  # 0: KIND_AUTO
