"""What is planned with: published models by their dimensions (spec 4.1), number formats, GPUs.

Bandwidths and memories are the makers' figures, prices are examples to be replaced by one's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.roofline import Traffic
from benchmarks.shapes import FRAMES_PER_SECOND, LATEST_COLUMNS, MELODY_FRAMES, PREFIX
from export.linear import FORMS
from export.positions import MAX_TOKENS, positions_of
from songstarter.stages.decoder import KEPT_ROWS
from songstarter.stages.kv_memory import ROWS_PER_SLOT

VOCABULARY = 2048
TEXT_WIDTH = 768  # of T5-base
PITCHES = 12
TEXT_POSITIONS = 12  # a short prompt
TEXT_BYTES = 4  # of a key or value of a text that is attended to: fp32 in every precision
GIB = 2**30
# Text encoder, melody and audio codec, and what a runtime needs to compute with.
BESIDE_DECODER_BYTES = 3 * 10**9
USABLE_MEMORY = 0.95  # the driver and fragmentation keep the rest


@dataclass(frozen=True)
class Model:
    """A published language model. The melody family sets its prefix before the song; the others attend to text."""

    name: str
    layers: int
    hidden: int
    codebooks: int
    attends_to_text: bool

    @property
    def prefix(self) -> int:
        """Positions a step reads beside the song's own columns."""
        return TEXT_POSITIONS if self.attends_to_text else PREFIX

    @property
    def positions(self) -> int:
        """The longest context that a slot has memory for."""
        melody = None if self.attends_to_text else MELODY_FRAMES
        longest: int = positions_of(
            melody_frames=melody, frames_per_second=FRAMES_PER_SECOND, latest_column=LATEST_COLUMNS
        )
        return longest

    @property
    def read_parameters(self) -> int:
        """The parameters that every decode step reads: no looked-up tables, nothing that only fills a prefix."""
        d = self.hidden
        layer = 12 * d * d + 4 * d  # four products of attention, two four times as wide, two norms
        text = 2 * d * d + 2 * d if self.attends_to_text else 0  # keys and values of the text are kept
        return self.layers * (layer + text) + self.codebooks * VOCABULARY * d + 2 * d

    @property
    def parameters(self) -> int:
        d = self.hidden
        once = self.layers * 2 * d * d if self.attends_to_text else (PITCHES + 1) * d
        return self.read_parameters + self.codebooks * (VOCABULARY + 1) * d + (TEXT_WIDTH + 1) * d + once


def _models() -> dict[str, Model]:
    shapes = {"small": (24, 1024), "medium": (48, 1536), "large": (48, 2048)}
    families = [(size, size, True) for size in shapes] + [
        ("melody", "medium", False),
        ("melody-large", "large", False),
    ]
    return {
        name: Model(name, *shapes[size], codebooks, text)
        for family, size, text in families
        for name, codebooks in ((family, 4), (f"stereo-{family}", 8))
    }


MODELS = _models()


@dataclass(frozen=True)
class Precision:
    """How many bytes a weight takes, and a value in KV memory."""

    weight_bytes: int
    memory_bytes: int

    def traffic(self, model: Model) -> Traffic:
        per_position = 2 * model.layers * model.hidden * self.memory_bytes
        return Traffic(model.read_parameters * self.weight_bytes, per_position)


# Named as `songstarter export` names them.
PRECISIONS = {
    "fp16": Precision(weight_bytes=2, memory_bytes=2),
    "fp16_kv8": Precision(weight_bytes=2, memory_bytes=1),
    "int8_kv8": Precision(weight_bytes=1, memory_bytes=1),
}
GPU_PRECISIONS = tuple(precision for precision, device in FORMS if device == "cuda")


@dataclass(frozen=True)
class Gpu:
    name: str
    bandwidth: float  # bytes per second
    memory: int  # bytes
    price: float  # US dollars per hour: an example
    driver_names: tuple[str, ...] = ()  # where the driver calls it otherwise

    def is_called(self, found: str) -> bool:
        """Whether a driver's name for a GPU is this one's."""
        return found.removeprefix("NVIDIA ") in (self.name, *self.driver_names)

    def memory_for_songs(self, model: Model, precision: Precision) -> int:
        """Bytes left for keys and values; the decoder's weights are there twice, for its graph and for its kernels."""
        weights = model.parameters * precision.weight_bytes + precision.traffic(model).weights
        return int(self.memory * USABLE_MEMORY) - weights - BESIDE_DECODER_BYTES


def memory_of_slots(model: Model, precision: Precision, slots: int) -> int:
    """Bytes of keys and values that a decoder of so many slots takes at its start, those of kept rows too."""
    rows = slots * ROWS_PER_SLOT
    text = rows * MAX_TOKENS * 2 * model.layers * model.hidden * TEXT_BYTES if model.attends_to_text else 0
    kept = 0 if model.attends_to_text else KEPT_ROWS
    return (rows + kept) * model.positions * precision.traffic(model).per_position + text


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H200", 4.80e12, 139 * GIB, 4.00),
        Gpu("H100 SXM", 3.35e12, 79 * GIB, 3.00, ("H100 80GB HBM3",)),
        Gpu("A100-80", 2.04e12, 79 * GIB, 1.80, ("A100-SXM4-80GB", "A100-SXM-80GB", "A100 80GB PCIe")),
        Gpu("L40S", 0.86e12, 44 * GIB, 1.00),
        Gpu("A10G", 0.60e12, 22 * GIB, 1.00),
        Gpu("L4", 0.30e12, 22 * GIB, 0.70),
    )
}
# For machines that a measurement names: a core's hour, an example too.
CORE_PRICE = 0.04
