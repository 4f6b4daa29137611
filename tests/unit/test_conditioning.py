"""From a request to a prefix and an opening, over stages that answer with what they were asked."""

from __future__ import annotations

import io
import queue
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_checkpoint import CHECKPOINT
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from songstarter.array import Array
from songstarter.checkpoint import Checkpoint, Codec, Melody
from songstarter.contract import CODEC_ENCODER, MELODY_ENCODER, TEXT_ENCODER
from songstarter.errors import Cancelled, InvalidRequest
from songstarter.faces.conditioning import FILES_AT_ONCE, Conditioner, Conditions
from songstarter.faces.stages import Tensors
from songstarter.faces.visits import Visit
from songstarter.request import Request
from songstarter.waveform import Waveform

HIDDEN, RATE = 8, 100
STEREO = replace(
    CHECKPOINT,
    channels=2,
    delays=(0, 0, 1, 1),
    melody=Melody(frames=3, samples=200, block_samples=40),
    codec=Codec(codebooks=2, codebook_size=8, block_frames=5, memory=(6, 8)),
)


class Stages:
    """Text is its ids, a melody the sum of its samples, a code names its channel and codebook."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Tensors]] = []

    def run(self, model: str, inputs: Tensors) -> Tensors:
        self.asked.append((model, inputs))
        return {TEXT_ENCODER: _text, MELODY_ENCODER: _melody, CODEC_ENCODER: _codes}[model](inputs)

    def decode(self, inputs: Tensors) -> Any:
        raise NotImplementedError("conditioning decodes nothing")


def condition(one: Conditioner, asked: Request) -> Conditions:
    return one.condition(asked, Visit("test"))


def _text(inputs: Tensors) -> Tensors:
    return {"embeddings": np.repeat(inputs["input_ids"][:, :, None], HIDDEN, axis=2).astype(np.float32)}


def _melody(inputs: Tensors) -> Tensors:
    return {"embeddings": np.full((1, 3, HIDDEN), inputs["waveform"].sum(), np.float32)}


def _codes(inputs: Tensors) -> Tensors:
    frames = inputs["waveform"].shape[1] // STEREO.samples_per_frame
    codes = np.arange(4).reshape(2, 2)[:, :, None]  # [channel, codebook]
    return {"codes": np.repeat(codes, frames, axis=2)}


def tokenizer(ends: bool) -> Tokenizer:
    """Knows one word, "la", as 2; adds the end token 1 where it ``ends``."""
    made = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "la": 2}, unk_token="<pad>"))
    made.pre_tokenizer = Whitespace()
    if ends:
        made.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


def conditioner(stages: Stages, checkpoint: Checkpoint = STEREO, *, ends: bool = True) -> Conditioner:
    return Conditioner(checkpoint, tokenizer(ends), stages, max_audio_seconds=60)


def request(**fields: Any) -> Request:
    return Request.parse(fields, shortest=0.1, longest=10)


def wav(samples: Array, rate: int = 1_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.mark.parametrize("ends", [True, False])
def test_a_prompt_ends_with_one_end_token_and_is_padded_behind_a_mask(ends: bool) -> None:
    stages = Stages()
    text = conditioner(stages, ends=ends)._text("la la")
    ((_, asked),) = stages.asked
    assert asked["input_ids"].tolist() == [[2, 2, 1, 0]]
    assert asked["attention_mask"].tolist() == [[1, 1, 1, 0]]
    assert text[:, 0].tolist() == [2, 2, 1]


def test_a_prompt_may_have_as_many_tokens_as_the_checkpoint_allows_and_no_more() -> None:
    most = STEREO.text.max_tokens - 1
    assert len(conditioner(Stages())._text("la " * most)) == STEREO.text.max_tokens
    with pytest.raises(InvalidRequest, match="prompt: found 9 tokens, allowed is at most 8 tokens"):
        conditioner(Stages())._text("la " * (most + 1))


def test_without_a_prompt_the_text_is_one_zero_vector_and_no_encoder_is_asked() -> None:
    stages = Stages()
    assert conditioner(stages)._text("").tolist() == [[0.0] * HIDDEN]
    assert not stages.asked


def test_the_melody_stands_in_front_of_the_text_and_the_null_twin_is_silence() -> None:
    found = condition(conditioner(Stages()), request(prompt="la", input_audio=wav(np.ones(1_000) / 2), duration=1))
    assert found.prefix.shape == (1, *found.null_prefix.shape) == (1, 3 + 2, HIDDEN)
    assert found.prefix[0, 0, 0] == pytest.approx(50, rel=0.01)  # 100 samples of a half
    assert found.prefix[0, 3:, 0].tolist() == [2, 1]
    assert not found.null_prefix.any()
    assert found.opening is None


def test_a_song_of_several_windows_repeats_the_samples_of_its_melody() -> None:
    fine = replace(
        STEREO, sample_rate=1_000, samples_per_frame=100, melody=Melody(frames=3, samples=2_000, block_samples=400)
    )
    samples = np.arange(1_500) / 10_000  # one and a half windows
    asked = request(prompt="la", input_audio=wav(samples), duration=2.2)
    found = condition(conditioner(Stages(), fine), asked)
    expected = [samples[np.arange(start, start + 1_000) % 1_500].sum() for start in (0, 600, 1_200)]
    assert found.prefix.shape == (3, 3 + 2, HIDDEN)
    assert found.prefix[:, 0, 0].tolist() == pytest.approx(expected, rel=1e-3)
    assert found.prefix[:, 3:, 0].tolist() == [[2, 1]] * 3


def test_without_a_melody_one_prefix_does_for_all_windows() -> None:
    assert condition(conditioner(Stages()), request(prompt="la", duration=9)).prefix.shape == (1, 5, HIDDEN)


def test_an_opening_must_leave_room_in_its_window() -> None:
    asked = request(input_audio=wav(np.ones(1_200)), continuation=True, duration=5)
    with pytest.raises(InvalidRequest, match=r"an opening of 1.2 s, allowed is less than 1 s: cut it"):
        condition(conditioner(Stages()), asked)


def test_of_many_channels_the_first_two_make_the_melody() -> None:
    channels = np.stack([np.full(1_000, level) for level in (0.2, 0.4, 0.9, 0.9)], axis=1)
    found = condition(conditioner(Stages()), request(input_audio=wav(channels), duration=1))
    assert found.prefix[0, 0, 0] == pytest.approx(30, rel=0.01)


def test_an_opening_interleaves_the_codebooks_of_its_channels_and_leaves_the_melody_null() -> None:
    found = condition(conditioner(Stages()), request(input_audio=wav(np.ones(500)), continuation=True, duration=1))
    assert found.opening is not None
    assert found.opening.shape == (4, 5)
    assert found.opening[:, 0].tolist() == [0, 2, 1, 3]  # L0, R0, L1, R1
    assert not found.prefix.any()


@pytest.mark.parametrize(("seconds", "fits"), [(0.9, True), (0.95, False), (1.0, False), (2.0, False)])
def test_an_opening_must_be_shorter_than_the_song_in_whole_frames(seconds: float, fits: bool) -> None:
    asked = request(input_audio=wav(np.ones(int(seconds * 1_000))), continuation=True, duration=1)
    if fits:
        assert condition(conditioner(Stages()), asked).opening is not None
        return
    with pytest.raises(InvalidRequest, match="duration: found 1 s, and an opening of"):
        condition(conditioner(Stages()), asked)


@pytest.mark.parametrize("continuation", [True, False])
def test_a_clip_that_is_nothing_at_the_checkpoint_s_rate_is_refused(continuation: bool) -> None:
    asked = request(input_audio=wav(np.ones(1)), continuation=continuation)
    with pytest.raises(InvalidRequest, match=r"input_audio: found a clip of 0.001 s, allowed is a longer one"):
        condition(conditioner(Stages()), asked)


def test_a_text_checkpoint_continues_audio_and_refuses_a_melody() -> None:
    text = replace(STEREO, melody=None)
    audio = wav(np.ones(500))
    found = condition(conditioner(Stages(), text), request(prompt="la", input_audio=audio, continuation=True))
    assert found.opening is not None
    assert found.prefix.shape == (1, 2, HIDDEN)
    with pytest.raises(InvalidRequest, match="input_audio: found audio to take a melody from"):
        condition(conditioner(Stages(), text), request(prompt="la", input_audio=audio))


def test_the_null_melody_is_encoded_once() -> None:
    stages = Stages()
    one = conditioner(stages)
    condition(one, request())
    condition(one, request())
    assert [model for model, _ in stages.asked] == [MELODY_ENCODER]


@pytest.mark.parametrize("continuation", [False, True])
def test_many_long_files_at_once_cost_the_memory_of_two(continuation: bool) -> None:
    class Slow(Stages):
        def run(self, model: str, inputs: Tensors) -> Tensors:
            time.sleep(0.5)
            return super().run(model, inputs)

    made = conditioner(Slow())
    file = io.BytesIO()
    soundfile.write(file, np.zeros((60 * 48_000, 2), np.float32), 48_000, format="FLAC")
    fields = {"input_audio": file.getvalue(), "continuation": continuation, "continuation_end": 0.5, "duration": 8.0}
    one_more = partial(condition, made, request(**fields))
    one_more()
    tracemalloc.start()
    try:
        one_more()
        _, one = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: one_more(), range(8)))
        _, eight = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert one > 20 * 2**20  # the file's samples are counted
    assert eight < 3 * one


def test_the_urgent_are_heard_first_and_those_who_left_not_at_all() -> None:
    """Where files wait to be opened: they take their time, and a caller who is gone must take nobody's."""
    begun: queue.SimpleQueue[int] = queue.SimpleQueue()
    may_go_on = threading.Semaphore(0)
    made = conditioner(Stages())
    opened = made._clip

    def slow_clip(asked: Request, audio: bytes) -> Waveform:
        begun.put(asked.priority)
        assert may_go_on.acquire(timeout=10)
        return opened(asked, audio)

    made._clip = slow_clip  # type: ignore[method-assign]

    def asked_by(priority: int, *, gone: bool = False) -> tuple[Request, Visit]:
        asked = request(input_audio=wav(np.ones(1_000) / 2), duration=1, priority=priority)
        visit = Visit("test")
        visit.understood(asked)
        if gone:
            visit.stop(Cancelled("the caller left"))
        return asked, visit

    with ThreadPoolExecutor(8) as threads:
        first = [threads.submit(made.condition, *asked_by(3)) for _ in range(FILES_AT_ONCE)]
        assert [begun.get(timeout=10) for _ in first] == [3] * FILES_AT_ONCE
        left = threads.submit(made.condition, *asked_by(2, gone=True))
        with pytest.raises(Cancelled):
            left.result(10)
        patient = threads.submit(made.condition, *asked_by(5))
        time.sleep(0.2)  # it waits
        urgent = threads.submit(made.condition, *asked_by(1))
        time.sleep(0.2)
        may_go_on.release()
        assert begun.get(timeout=10) == 1
        for _ in range(FILES_AT_ONCE + 1):
            may_go_on.release()
        for one in (*first, patient, urgent):
            one.result(10)
    assert begun.get_nowait() == 5


def test_a_mono_checkpoint_hears_all_channels_of_a_melody() -> None:
    """As of an opening (spec 5.3)."""
    mono = replace(STEREO, channels=1, delays=(0, 1))
    channels = np.stack([np.full(1_000, level) for level in (0.0, 0.0, 0.9)], axis=1)
    found = condition(conditioner(Stages(), mono), request(input_audio=wav(channels), duration=1))
    assert found.prefix[0, 0, 0] == pytest.approx(30, rel=0.01)
