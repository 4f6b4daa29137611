"""Names, types and defaults of every tensor that crosses a model's border.

The one place that knows them: the server's faces, the client and the tests of ``config.pbtxt`` read
these tables. The public names and defaults are those of the Replicate schema (spec 1.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from songstarter.array import Array
from songstarter.errors import Description, InvalidRequest

# A request by which somebody sees that a public model lives: nobody's own, and refused before anything is done for it.
CANARY_ID = "songstarter-canary"
CANARY_INPUTS: Mapping[str, float] = {"duration": -1.0}

Datatype = Literal["STRING", "FP32", "INT32", "INT64", "BOOL"]
Plain = str | bytes | float | int | bool


@dataclass(frozen=True)
class Tensor:
    """One input or output: its name, Triton datatype and shape (-1: any length)."""

    name: str
    datatype: Datatype
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Field:
    """One public input of shape [1]: its default (None: absent) and a sentence for people."""

    name: str
    datatype: Datatype
    default: Plain | None
    meaning: str
    choices: tuple[str, ...] = ()  # all that a text may be; empty: anything

    @property
    def tensor(self) -> Tensor:
        return Tensor(self.name, self.datatype, (1,), optional=True)


NORMALIZATIONS = ("loudness", "clip", "peak", "rms")
FORMATS = ("wav", "mp3")
ENCODINGS = ("data_uri", "raw")
MIME_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}

FIELDS: tuple[Field, ...] = (
    Field("prompt", "STRING", "", "tags, then key, then tempo: 'synth, dark, hip hop, a minor, 140 bpm'"),
    Field("input_audio", "STRING", None, "a melody to follow or an opening to continue: a file or a data URI"),
    Field("duration", "FP32", 8.0, "seconds of music, the opening included"),
    Field("continuation", "BOOL", False, "continue input_audio instead of following its melody"),
    Field("continuation_start", "FP32", 0.0, "second of input_audio to start from"),
    Field("continuation_end", "FP32", -1.0, "second of input_audio to stop at; -1: its end"),
    Field("normalization_strategy", "STRING", "loudness", "loudness, clip, peak or rms", NORMALIZATIONS),
    Field("top_k", "INT32", 250, "sample among the k likeliest tokens; 0: among all"),
    Field("top_p", "FP32", 0.0, "sample within this probability mass; above 0 it replaces top_k"),
    Field("temperature", "FP32", 1.0, "flatness of the distribution; 0: always the likeliest token"),
    Field("classifier_free_guidance", "FP32", 3.0, "pull towards prompt and melody; 1: none"),
    Field("output_format", "STRING", "wav", "wav or mp3", FORMATS),
    Field("seed", "INT64", -1, "0 to 2^32-1 repeats a song; -1: a fresh one"),
    Field("num_outputs", "INT32", 4, "variations to make, 1 to 8"),
    Field("output_encoding", "STRING", "data_uri", "data_uri, or raw for the files' bytes", ENCODINGS),
)  # fmt: skip

OUTPUTS: tuple[Tensor, ...] = (
    Tensor("output", "STRING", (-1,)),
    Tensor("seed", "INT64", (1,)),
    Tensor("sample_rate", "INT32", (1,)),
)

PUBLIC_MODEL = "songstarter"

# The same as a stream: what differs in its inputs, and what every message of it says of one variation.
STREAM_MODEL = "songstarter_stream"
STREAM_FORMATS = ("wav", "mp3", "pcm")
STREAM_ENCODINGS = ("base64", "raw")
_STREAMED: tuple[Field, ...] = (
    Field("output_format", "STRING", "wav", "wav, mp3, or pcm: 16 bits, little-endian, no header", STREAM_FORMATS),
    Field("num_outputs", "INT32", 1, "variations to make, 1 to 8; their messages come in turns"),
    Field("output_encoding", "STRING", "base64", "of audio: base64, or raw for its bytes", STREAM_ENCODINGS),
)
_STREAMED_BY_NAME = {field.name: field for field in _STREAMED}
STREAM_FIELDS: tuple[Field, ...] = (
    *(_STREAMED_BY_NAME.get(field.name, field) for field in FIELDS),
    Field("chunk_seconds", "FP32", 1.0, "seconds of audio in a message, 0.1 to 30; the first ones are shorter"),
)
STREAM_OUTPUTS: tuple[Tensor, ...] = (
    Tensor("audio", "STRING", (1,)),  # the next bytes of the variation's file; empty where only time has passed
    Tensor("variation", "INT32", (1,)),
    Tensor("seconds", "FP32", (1,)),  # of it that were sent, these included
    Tensor("total_seconds", "FP32", (1,)),
    Tensor("gain", "FP32", (1,)),  # for what was heard so far; in the last message that of the whole file
    Tensor("last", "BOOL", (1,)),  # whether the variation is complete
    Tensor("seed", "INT64", (1,)),
    Tensor("sample_rate", "INT32", (1,)),
    Tensor("channels", "INT32", (1,)),
)

# Request parameters of the public model, by the names under which they may come. Triton keeps ``priority`` to itself
# everywhere but in ``/generate``, so it has a second name.
PARAMETERS = {"priority": "priority", "songstarter_priority": "priority", "deadline": "deadline"}


def plain_values(tensors: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What ``Request.parse`` reads, out of a request's tensors of shape [1] and its parameters.

    Raises:
        InvalidRequest: a tensor holds none or several values.
    """
    known = {PARAMETERS[name]: value for name, value in parameters.items() if name in PARAMETERS}
    return known | {name: _single(name, tensor) for name, tensor in tensors.items()}


def _single(name: str, tensor: Array) -> Any:
    if tensor.size != 1:
        raise InvalidRequest(name, Description(f"a tensor of shape {list(tensor.shape)}"), "one of shape [1]")
    return tensor.item()


# The stage models. A batch dimension stands in front of every shape below.
TEXT_ENCODER = "text_encoder"
TEXT_ENCODER_INPUTS = (
    Tensor("input_ids", "INT64", (-1,)),  # [token], padded to a multiple of Checkpoint.text.pad_to
    Tensor("attention_mask", "INT64", (-1,)),  # [token]
)
TEXT_ENCODER_OUTPUTS = (Tensor("embeddings", "FP32", (-1, -1)),)  # [token, hidden], zero where padded

MELODY_ENCODER = "melody_encoder"
MELODY_ENCODER_INPUTS = (
    Tensor("waveform", "FP32", (-1,)),  # [sample], mono, zero-padded to blocks (Checkpoint.melody)
    Tensor("samples", "INT64", (1,)),  # how many of them are real
)
MELODY_ENCODER_OUTPUTS = (Tensor("embeddings", "FP32", (-1, -1)),)  # [chroma frame, hidden]

CODEC_ENCODER = "codec_encoder"
CODEC_ENCODER_INPUTS = (
    Tensor("waveform", "FP32", (-1,)),  # [sample], one channel, zero-padded to whole blocks of frames
    Tensor("samples", "INT64", (1,)),
)
CODEC_ENCODER_OUTPUTS = (Tensor("codes", "INT64", (-1, -1)),)  # [codebook, frame]; cut to ceil(samples / hop)

CODEC_DECODER = "codec_decoder"
CODEC_DECODER_INPUTS = (
    Tensor("codes", "INT64", (-1, -1)),  # [codebook, frame], with neighbours on either side: songstarter/chunks.py
    Tensor("frames", "INT64", (1,)),  # how many of them are real, neighbours not counted
    Tensor("kept", "INT64", (1,)),  # how many frames before them the memory holds
    Tensor("memory", "FP32", (-1, -1)),  # [row, channel], zeros at a song's start
)
CODEC_DECODER_OUTPUTS = (
    Tensor("waveform", "FP32", (-1,)),  # [sample] of kept + frames, silence behind them
    Tensor("next_memory", "FP32", (-1, -1)),  # [row, channel]
)

# The decoder: no batch dimension, several responses to one request. Triton knows all inputs as optional, since a
# cancellation has but one; the decoder itself insists on an order's.
DECODER = "decoder"
ORDER = (
    Tensor("prefix", "FP32", (-1, -1, -1)),  # [window, position, hidden]; one window: the same for all of a take
    Tensor("null_prefix", "FP32", (-1, -1)),  # [position, hidden], the twin for guidance
    Tensor("opening", "INT32", (-1, -1), optional=True),  # [codebook, frame]
    Tensor("frames", "INT32", (1,)),  # of the whole take, opening included
    Tensor("variations", "INT32", (1,)),
    Tensor("seed", "INT64", (1,)),
    Tensor("temperature", "FP32", (1,)),
    Tensor("top_k", "INT32", (1,)),
    Tensor("top_p", "FP32", (1,)),
    Tensor("guidance", "FP32", (1,)),
    Tensor("priority", "INT32", (1,)),
    Tensor("first_chunk", "INT32", (1,)),  # frames of a take's first response, the opening's counted; 0: all
    Tensor("chunk", "INT32", (1,)),  # frames of each later one; the last has what is left
    Tensor("order", "STRING", (1,)),  # a name that no other order under way has
)
CANCEL = Tensor("cancel", "STRING", (1,))  # comes alone: the name of an order that shall end
PULSE = Tensor("pulse", "BOOL", (1,))  # comes alone: answered with nothing, by way of the engine, if that still steps
DECODER_INPUTS = tuple(replace(tensor, optional=True) for tensor in (*ORDER, CANCEL, PULSE))
# A response has a chunk of one take, or else what ended the order: an error's code and message. It comes as a tensor
# because Triton 24.10 loses an error that follows other responses of a call between models, and the call never ends.
DECODER_OUTPUTS = (
    Tensor("variation", "INT32", (1,)),
    Tensor("first", "INT32", (1,)),  # the take's frame that stands first in `codes`
    Tensor("codes", "INT32", (-1, -1)),  # [codebook, frame]
    Tensor("error", "STRING", (1,)),
)

INNER_OUTPUTS: dict[str, tuple[Tensor, ...]] = {
    TEXT_ENCODER: TEXT_ENCODER_OUTPUTS,
    MELODY_ENCODER: MELODY_ENCODER_OUTPUTS,
    CODEC_ENCODER: CODEC_ENCODER_OUTPUTS,
    CODEC_DECODER: CODEC_DECODER_OUTPUTS,
    DECODER: DECODER_OUTPUTS,
}
