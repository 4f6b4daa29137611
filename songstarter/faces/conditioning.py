"""From a request to what the decoder starts from: prefix, its null twin, and the opening.

    melody family   prefix  [235 chroma | text]     null  [235 chroma of silence | zeros]     (spec 2.6, 3.3)
    text family     prefix  [text]                  null  [zeros]

With ``continuation`` the audio becomes the opening and the melody is null; otherwise it is the melody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from songstarter.array import Array
from songstarter.audio_file import file_bytes, read
from songstarter.checkpoint import TOKENIZER, Checkpoint, Melody
from songstarter.contract import CODEC_ENCODER, MELODY_ENCODER, TEXT_ENCODER
from songstarter.errors import CheckpointError, Description, InvalidRequest
from songstarter.faces.stages import Stages
from songstarter.faces.turns import Turns
from songstarter.faces.visits import Visit
from songstarter.request import Request
from songstarter.resample import resample
from songstarter.waveform import Samples, Waveform
from songstarter.windows import windows_of

FILES_AT_ONCE = 2  # that are decoded: each may take half a gigabyte for a moment
MAX_AUDIO_BYTES = 32 * 2**20


@dataclass(frozen=True, eq=False)
class Conditions:
    """``prefix`` is [window, position, hidden], one window standing for all where they are alike; ``null_prefix`` is
    [position, hidden]; ``opening`` is [codebook, frame] or None."""

    prefix: Array
    null_prefix: Array
    opening: Array | None


class Conditioner:
    """Turns requests into conditions by way of the encoders."""

    def __init__(
        self, checkpoint: Checkpoint, tokenizer: Tokenizer, stages: Stages, *, max_audio_seconds: float
    ) -> None:
        self._checkpoint = checkpoint
        self._tokenizer = tokenizer
        self._stages = stages
        self._max_audio_seconds = max_audio_seconds
        self._readers = Turns(FILES_AT_ONCE)

    def condition(self, request: Request, visit: Visit) -> Conditions:
        """Encode the prompt and the audio; for the audio, visits take turns.

        Raises:
            InvalidRequest: the prompt is too long, or the audio cannot be used as asked.
        """
        text = self._text(request.prompt)
        silence = np.zeros_like(text)
        heard = self._heard(request, visit)
        opening = self._opening(heard) if heard is not None and request.continuation else None
        if self._checkpoint.melody is None:
            return Conditions(text[None], silence, opening)
        if heard is None or request.continuation:
            melodies = [self._null_melody]
        else:
            melodies = self._melodies(heard, request, self._checkpoint.melody)
        prefix = np.stack([np.concatenate([melody, text]) for melody in melodies])
        return Conditions(prefix, np.concatenate([self._null_melody, silence]), opening)

    def _text(self, prompt: str) -> Array:
        """Text embeddings [token, hidden]; an empty prompt is one zero vector, as the original's mask makes it."""
        if not prompt:
            return np.zeros((1, self._checkpoint.decoder.hidden), np.float32)
        tokens = self._tokens(prompt)
        padded = -len(tokens) % self._checkpoint.text.pad_to
        ids = np.pad(tokens, (0, padded), constant_values=self._checkpoint.text.pad_token)
        mask = np.pad(np.ones_like(tokens), (0, padded))
        outputs = self._stages.run(TEXT_ENCODER, {"input_ids": ids[None], "attention_mask": mask[None]})
        return outputs["embeddings"][0, : len(tokens)]

    def _tokens(self, prompt: str) -> Array:
        facts = self._checkpoint.text
        ids = self._tokenizer.encode(prompt).ids
        if ids[-1:] != [facts.end_token]:
            ids.append(facts.end_token)
        if len(ids) > facts.max_tokens:
            raise InvalidRequest("prompt", Description(f"{len(ids)} tokens"), f"at most {facts.max_tokens} tokens")
        return np.array(ids, np.int64)

    def _heard(self, request: Request, visit: Visit) -> Samples | None:
        """What the encoders hear of input_audio [channel, sample], at the checkpoint's rate.

        A file may hold much more than that, so few are open at a time.
        """
        if request.audio is None:
            return None
        melody = self._checkpoint.melody
        if melody is None and not request.continuation:
            found = Description("audio to take a melody from")
            allowed = f"nothing, or continuation=true: {self._checkpoint.name} follows text alone"
            raise InvalidRequest("input_audio", found, allowed)
        with self._readers.turn(visit, due=visit.arrived):
            clip = self._clip(request, request.audio)
            if melody is None or request.continuation:
                return self._opening_samples(clip, request)
            return self._melody_samples(clip, request, melody)

    def _clip(self, request: Request, audio: bytes) -> Waveform:
        """The part of input_audio that the request names, at the file's own rate."""
        data = file_bytes(audio, max_bytes=MAX_AUDIO_BYTES)
        whole = read(data, max_seconds=self._max_audio_seconds)
        clip = whole.slice_seconds(request.slice.start, request.slice.end)
        if clip.length == 0:
            found = Description(f"{request.slice.start:g} in a clip of {whole.seconds:.3g} s, which leaves nothing")
            raise InvalidRequest("continuation_start", found, "a start before the clip's end")
        return clip

    def _melody_samples(self, clip: Waveform, request: Request, facts: Melody) -> Samples:
        """The clip in mono, or as much of it as the song's windows can see."""
        starts, span = self._windows(request)
        seen = facts.samples if len(starts) == 1 else starts[-1] + span
        rate = self._checkpoint.sample_rate
        start = clip.slice_seconds(0, seen / rate + 1)  # more than is seen, for the filter's sake
        mono = _resampled(start, rate).with_channels(min(clip.channels, self._checkpoint.channels)).mono()
        return mono.samples[:, :seen] if len(starts) == 1 else mono.samples

    def _melodies(self, samples: Samples, request: Request, facts: Melody) -> list[Array]:
        """Chroma embeddings [chroma frame, hidden] of a melody, for each window of the song.

        A song of one window repeats the clip's chroma where the clip ends, a longer one its samples (spec 2.8).
        """
        starts, span = self._windows(request)
        if len(starts) == 1:
            return [self._encode_melody(samples, facts)]
        places = [np.arange(start, start + span) % samples.shape[1] for start in starts]
        return [self._encode_melody(samples[:, place], facts) for place in places]

    def _windows(self, request: Request) -> tuple[list[int], int]:
        """Where the song's windows begin, and how long one is, in samples."""
        checkpoint = self._checkpoint
        windows = windows_of(checkpoint.frames_in(request.duration), window_frames=checkpoint.window_frames)
        starts = [window.start * checkpoint.samples_per_frame for window in windows]
        return starts, checkpoint.window_frames * checkpoint.samples_per_frame

    @cached_property
    def _null_melody(self) -> Array:
        """What a request without a melody gets: the embeddings of one zero sample, the same for all (spec 2.6)."""
        if self._checkpoint.melody is None:
            raise CheckpointError("a text checkpoint has no melody, not even a null one")
        return self._encode_melody(np.zeros((1, 1), np.float32), self._checkpoint.melody)

    def _encode_melody(self, samples: Array, facts: Melody) -> Array:
        missing = min(-samples.shape[1] % facts.block_samples, facts.samples - samples.shape[1])
        padded = np.pad(samples, ((0, 0), (0, missing)))
        count = np.array([[samples.shape[1]]], np.int64)
        embeddings: Array = self._stages.run(MELODY_ENCODER, {"waveform": padded, "samples": count})["embeddings"][0]
        return embeddings

    def _opening_samples(self, clip: Waveform, request: Request) -> Samples:
        """The whole clip, which must leave something to be made."""
        checkpoint = self._checkpoint
        waveform = _resampled(clip, checkpoint.sample_rate).with_channels(checkpoint.channels)
        frames = math.ceil(waveform.length / checkpoint.samples_per_frame)
        if not frames < checkpoint.frames_in(request.duration):
            found = Description(f"{request.duration:g} s, and an opening of {clip.seconds:.3g} s to continue")
            allowed = "more than the opening lasts: ask for a longer song, or cut the opening with continuation_end"
            raise InvalidRequest("duration", found, allowed)
        if frames >= checkpoint.window_frames:
            allowed = f"less than {checkpoint.window_seconds} s: cut it with continuation_end"
            raise InvalidRequest("input_audio", Description(f"an opening of {clip.seconds:.3g} s"), allowed)
        return waveform.samples.copy()  # a part of a file would keep all of it in memory

    def _opening(self, samples: Samples) -> Array:
        """The codes [codebook, frame] of an opening, channels interleaved: L0, R0, L1, R1 ... (spec 2.10)."""
        checkpoint = self._checkpoint
        length = samples.shape[1]
        frames = math.ceil(length / checkpoint.samples_per_frame)
        block = checkpoint.codec.block_frames * checkpoint.samples_per_frame
        padded = np.pad(samples, ((0, 0), (0, -length % block)))
        lengths = np.full((checkpoint.channels, 1), length, np.int64)
        codes = self._stages.run(CODEC_ENCODER, {"waveform": padded, "samples": lengths})["codes"]
        opening: Array = codes[:, :, :frames].transpose(1, 0, 2).reshape(checkpoint.codebooks, frames)
        return opening


def _resampled(clip: Waveform, rate: int) -> Waveform:
    waveform = resample(clip, rate)
    if waveform.length == 0:
        raise InvalidRequest("input_audio", Description(f"a clip of {clip.seconds:.2g} s"), "a longer one")
    return waveform


def load_tokenizer(repository: Path) -> Tokenizer:
    """The tokenizer that was exported beside the graphs."""
    try:
        return Tokenizer.from_file(str(repository / TOKENIZER))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{TOKENIZER} cannot be read ({error}): export again") from error
