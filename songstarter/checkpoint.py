"""What the runtime must know of an exported checkpoint, read from its ``manifest.json``.

Units derive from each other by exact division, so that a frame is a whole number of samples and a
second a whole number of frames.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from songstarter.errors import CheckpointError

MANIFEST = "manifest.json"
TOKENIZER = Path("songstarter/1/tokenizer.json")  # in a repository
FORMAT = 2  # of the manifest, and of the Python files beside the graphs
FORGIVEN_FRAMES = 1e-3

Family = Literal["melody", "text"]
# Of weights; kv8: of keys and values too.
Precision = Literal["fp32", "fp16", "fp16_kv8", "int8", "int8_kv8", "int4_kv8"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Text:
    """The text encoder's border."""

    end_token: int
    pad_token: int
    max_tokens: int  # end token included; a longer prompt is refused
    pad_to: int  # prompts are padded to a multiple of this, so that different ones share a batch


@dataclass(frozen=True)
class Melody:
    """The melody encoder's border."""

    frames: int  # chroma frames of a prefix (235)
    samples: int  # the longest waveform that it hears
    block_samples: int  # waveforms are padded to a multiple of this, so that those of different songs share a batch


@dataclass(frozen=True)
class Codec:
    """The codec's border; it knows one channel."""

    codebooks: int
    codebook_size: int
    block_frames: int  # waveforms are padded to whole blocks, so that different ones share a batch
    memory: tuple[int, int]  # rows and channels of what its decoder hands from chunk to chunk


@dataclass(frozen=True)
class Decoder:
    """The language model's shape and the form it was exported in."""

    layers: int
    hidden: int
    heads: int
    head_size: int
    positions: int  # the longest context a slot can hold: prefix and columns together
    precision: Precision
    device: Device


@dataclass(frozen=True)
class Checkpoint:
    """Facts of one exported checkpoint.

    ``family`` is "melody" where [chroma | text] stands as a prefix in front of the columns, and "text" where
    the text is attended to in every layer (spec 3.3).
    """

    name: str
    family: Family
    sample_rate: int
    samples_per_frame: int
    channels: int
    delays: tuple[int, ...]  # one per codebook, channels interleaved (spec 2.2)
    special_token: int
    window_seconds: int
    text: Text
    melody: Melody | None
    codec: Codec
    decoder: Decoder
    models: tuple[str, ...]  # what Triton must load
    digests: dict[str, str]  # file under the repository -> sha256

    @property
    def codebooks(self) -> int:
        return len(self.delays)

    @property
    def vocabulary(self) -> int:
        return self.codec.codebook_size

    @property
    def frames_per_second(self) -> int:
        return exact_division(self.sample_rate, self.samples_per_frame)

    @property
    def window_frames(self) -> int:
        return self.window_seconds * self.frames_per_second

    def frames_in(self, seconds: float) -> int:
        """Whole frames in so many seconds; what fp32 lost on the way (4.1 s came as 4.0999999) is forgiven."""
        return int(seconds * self.frames_per_second + FORGIVEN_FRAMES)

    def write(self, repository: Path) -> Path:
        """Write ``manifest.json`` into the repository and return its path."""
        path = repository / MANIFEST
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")
        return path

    @classmethod
    def read(cls, repository: Path) -> Checkpoint:
        """Read the repository's ``manifest.json``.

        Raises:
            CheckpointError: it is missing, of another format, or lacks a fact.
        """
        try:
            facts = json.loads((repository / MANIFEST).read_text())
        except FileNotFoundError:
            raise CheckpointError(
                f"no {MANIFEST} in {repository}: run `songstarter export CHECKPOINT --into {repository}` first"
            ) from None
        except ValueError as error:
            raise CheckpointError(f"{MANIFEST} in {repository} is not JSON ({error}): export again") from error
        if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
            raise CheckpointError(f"{MANIFEST} in {repository} is not of format {FORMAT}: export again")
        try:
            return cls._parse(facts)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{MANIFEST} in {repository} is incomplete ({error}): export again") from error

    @classmethod
    def _parse(cls, facts: dict[str, Any]) -> Checkpoint:
        melody, codec = facts.pop("melody"), facts.pop("codec")
        return cls(
            text=Text(**facts.pop("text")),
            melody=Melody(**melody) if melody else None,
            codec=Codec(**codec | {"memory": tuple(codec["memory"])}),
            decoder=Decoder(**facts.pop("decoder")),
            delays=tuple(facts.pop("delays")),
            models=tuple(facts.pop("models")),
            **facts,
        )


def exact_division(whole: int, part: int) -> int:
    """``whole / part``, which must leave no remainder."""
    quotient, remainder = divmod(whole, part)
    if remainder:
        raise CheckpointError(f"{whole} is not a whole multiple of {part}")
    return quotient
