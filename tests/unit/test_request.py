"""What a request may say, field by field."""

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from songstarter.contract import FIELDS, PARAMETERS, plain_values
from songstarter.errors import InvalidRequest
from songstarter.request import MAX_SEED, Request, Sampling, Slice


def parse(**values: Any) -> Request:
    return Request.parse(values, shortest=0.02, longest=30)


def test_nothing_given_means_the_published_defaults() -> None:
    request = parse()
    assert request.prompt == ""
    assert request.audio is None
    assert request.duration == 8
    assert request.sampling == Sampling(temperature=1, top_k=250, top_p=0, guidance=3)
    assert (request.variations, request.normalization, request.audio_format) == (4, "loudness", "wav")
    assert request.slice == Slice(0, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", b"\xff\xfe"),
        ("prompt", "a\x00b"),
        ("prompt", "x" * 10_000),
        ("duration", 0.0),
        ("duration", -1.0),
        ("duration", 30.5),
        ("duration", math.nan),
        ("duration", math.inf),
        ("continuation_start", -0.5),
        ("continuation_start", math.nan),
        ("continuation_end", -2.0),
        ("continuation_end", 0.0),
        ("continuation_end", math.inf),
        ("normalization_strategy", "loud"),
        ("output_format", "flac"),
        ("output_encoding", "hex"),
        ("top_k", -1),
        ("top_k", 2049),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("temperature", -0.1),
        ("temperature", 5.1),
        ("temperature", math.nan),
        ("classifier_free_guidance", -1.0),
        ("classifier_free_guidance", 21.0),
        ("seed", -2),
        ("seed", MAX_SEED + 1),
        ("num_outputs", 0),
        ("num_outputs", 9),
    ],
)
def test_a_value_out_of_bounds_is_refused_in_one_sentence_that_names_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{field}: found ")
    assert ", allowed is " in message
    assert "\n" not in message
    assert len(message) < 250


def test_the_ends_of_every_range_are_allowed() -> None:
    most = parse(temperature=5.0, top_k=2048, top_p=1.0, classifier_free_guidance=20.0, num_outputs=8, priority=5)
    assert most.sampling == Sampling(5.0, 2048, 1.0, 20.0)
    assert (most.variations, most.priority) == (8, 5)
    least = parse(temperature=0.0, top_k=0, top_p=0.0, classifier_free_guidance=0.0, num_outputs=1, priority=1)
    assert least.sampling == Sampling(0.0, 0, 0.0, 0.0)
    assert (least.variations, least.priority) == (1, 1)


@pytest.mark.parametrize("field", ["duration", "top_k", "seed", "num_outputs", "temperature"])
def test_a_truth_is_no_number(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{field}: found a value of type bool, allowed is a"):
        parse(**{field: True})


@pytest.mark.parametrize("number", [*range(9), 11, 12, *range(14, 32), 127])
def test_a_control_character_is_no_text(number: int) -> None:
    with pytest.raises(InvalidRequest, match="prompt: found a control character"):
        parse(prompt=f"a{chr(number)}b")


def test_a_prompt_may_have_lines_and_tabs() -> None:
    assert parse(prompt="synth,\r\n\tdark").prompt == "synth,\r\n\tdark"


def test_a_prompt_is_measured_in_bytes() -> None:
    assert parse(prompt="ü" * 4096).prompt
    with pytest.raises(InvalidRequest, match="prompt: found 8194 bytes of text, allowed is at most 8192 bytes"):
        parse(prompt="ü" * 4097)


def test_continuation_without_audio_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="input_audio: found nothing"):
        parse(continuation=True)


def test_an_empty_file_counts_as_no_audio() -> None:
    assert parse(input_audio=b"").audio is None


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"continuation_end: found 2, allowed is -1 .* more than .* \(3\)"):
        parse(continuation_start=3.0, continuation_end=2.0)


def test_minus_one_means_the_end_of_the_clip() -> None:
    assert parse(continuation_end=-1.0).slice.end is None


def test_zero_is_a_seed_like_any_other() -> None:
    assert parse(seed=0).seed == 0
    assert parse(seed=MAX_SEED).seed == MAX_SEED


def test_minus_one_draws_a_fresh_seed() -> None:
    seeds = {parse(seed=-1).seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


def test_a_fresh_seed_may_be_any() -> None:
    seeds = [parse(seed=-1).seed for _ in range(64)]
    assert max(seeds) > MAX_SEED / 2 > min(seeds)  # or one of 2^63 runs fails


def test_who_says_nothing_has_the_middle_priority() -> None:
    assert parse().priority == 3


@pytest.mark.parametrize("priority", [0, 6, True, 3.0, "3"])
def test_what_is_no_priority_is_refused(priority: object) -> None:
    with pytest.raises(InvalidRequest, match=r"priority: found .*, allowed is a whole number, 1 \(first\) to 5"):
        parse(priority=priority)


def test_a_deadline_is_any_number_of_seconds_up_to_a_day() -> None:
    assert parse().deadline is None
    assert [parse(deadline=seconds).deadline for seconds in (0.5, 3, 86_400)] == [0.5, 3.0, 86_400.0]


@pytest.mark.parametrize("deadline", [0, -1, math.nan, math.inf, 86_401, "3", True, [3]])
def test_what_is_no_deadline_is_refused(deadline: object) -> None:
    with pytest.raises(InvalidRequest, match=r"deadline: found .*, allowed is seconds, more than 0 and at most 86400"):
        parse(deadline=deadline)


KINDS = {
    "STRING": st.binary(max_size=40) | st.text(max_size=40),
    "FP32": st.floats(width=32),
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=40) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = [field.name for field in FIELDS]
TENSORS = st.one_of(
    arrays(dtype, array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=2))
    for dtype in (np.float32, np.int32, np.int64, np.bool_, np.uint8)
) | arrays(object, array_shapes(max_dims=1, max_side=2), elements=st.binary(max_size=20))


@given(
    st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4),
    st.dictionaries(st.sampled_from(NAMES), TENSORS, max_size=4),
    st.dictionaries(st.sampled_from([*PARAMETERS, "unknown"]), ANYTHING, max_size=3),
)
def test_whatever_arrives_makes_a_request_or_a_refusal(
    values: dict[str, Any], tensors: dict[str, Any], parameters: dict[str, Any]
) -> None:
    with contextlib.suppress(InvalidRequest):
        parse(**(values | plain_values(tensors, parameters)))


@given(st.sampled_from(NAMES), TENSORS.filter(lambda tensor: tensor.size != 1))
def test_a_tensor_of_none_or_several_values_is_refused_by_name(name: str, tensor: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{name}: found a tensor of shape .*, allowed is one of shape"):
        plain_values({name: tensor}, {})


@given(st.fixed_dictionaries({}, optional={field.name: KINDS[field.datatype] for field in FIELDS}))
def test_any_values_of_the_right_types_make_a_request_or_a_refusal(values: dict[str, Any]) -> None:
    try:
        request = parse(**values)
    except InvalidRequest as refusal:
        refused = refusal.field
    else:
        refused = None
        assert 0.02 <= round(request.duration, 6) <= 30
        assert 1 <= request.variations <= 8
        assert 0 <= request.seed <= MAX_SEED
    assert refused in {None, *(field.name for field in FIELDS)}


@pytest.mark.parametrize("tenths", [7, 9, 13, 97, 2999])
def test_a_slice_starts_where_the_caller_wrote(tenths: int) -> None:
    """Triton's inputs are fp32, which holds 0.7 as a little less: a sample less, and a frame more of an opening."""
    seconds = tenths / 10
    parsed = parse(continuation_start=float(np.float32(seconds)), continuation_end=float(np.float32(seconds + 1)))
    assert (parsed.slice.start, parsed.slice.end) == (seconds, round(seconds + 1, 1))
