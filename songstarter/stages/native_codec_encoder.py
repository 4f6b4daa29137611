"""The doorway to ``native/codec_encoder.c``: the codec's encoder, computed without onnxruntime.

It has the graph's inputs and outputs and takes its weights from the graph's data file. The graph is its twin: it runs
where this cannot, and tests hold the two together.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from songstarter import event_log
from songstarter.array import Array
from songstarter.stages.graph_weights import Weights
from songstarter.stages.native.codec_encoder_layout import CodecEncoderLayout
from songstarter.stages.native.compile import CODEC_ENCODER, InstructionSet
from songstarter.stages.native.opened import Opened, require, within
from songstarter.stages.native.processor import instruction_set
from songstarter.stages.places import ONNXRUNTIME

MOST_ROWS = 8  # of a call, as in codec_encoder.c
MOST_FRAMES = 2**19  # of a row, hours: so that codec_encoder.c counts in 32 bits


class Call(ctypes.Structure):
    """``Call`` of ``codec_encoder.c``."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("width", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("waveform", "samples", "codes")),
    )


def open_twin(graph: Path) -> NativeCodecEncoder | None:
    """What computes a codec encoder's graph faster, or None where that cannot be: another processor or other layers.

    The log says which it is.

    Raises:
        CheckpointError: the graph's weights cannot be read.
    """
    instructions = instruction_set(CODEC_ENCODER)
    weights = Weights.of(graph) if instructions else None
    layout = CodecEncoderLayout.of(weights) if weights else None
    twin = NativeCodecEncoder(layout, instructions) if instructions and layout else None
    event_log.write(CODEC_ENCODER, computed_by=twin.computed_by if twin else ONNXRUNTIME)
    return twin


class NativeCodecEncoder:
    """Stands where the graph's session would; one call at a time, on one thread."""

    def __init__(self, layout: CodecEncoderLayout, instructions: InstructionSet) -> None:
        """Raises MemoryError where the weights find no room."""
        self.computed_by = f"codec_encoder.c for {instructions.name}"
        self._layout = layout
        self._opened = Opened(CODEC_ENCODER, layout, instructions)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """``codes`` of ``contract.CODEC_ENCODER_INPUTS``; behind a row's end they are zero.

        Raises:
            ValueError: an input's shape or values are not those of the graph.
            MemoryError: there is none for a call of this width.
        """
        waveform = np.ascontiguousarray(feeds["waveform"], np.float32)
        samples = np.ascontiguousarray(feeds["samples"].reshape(-1), np.int64)
        rows, width = waveform.shape
        most = MOST_FRAMES * self._layout.hop
        require(0 < width <= most, f"waveforms are of {width} samples, expected 1 to {most}")
        require(len(samples) == rows, f"samples are of {len(samples)} rows, waveforms of {rows}")
        require(within(samples, 1, width), f"samples leave 1 to {width}")
        codes = np.zeros((rows, self._layout.codebooks, -(-width // self._layout.hop)), np.int64)
        arrays: dict[str, Array] = {"waveform": waveform, "samples": samples, "codes": codes}
        for start in range(0, rows, MOST_ROWS):
            places = {name: array[start:].ctypes.data for name, array in arrays.items()}
            self._opened.run(Call(rows=min(MOST_ROWS, rows - start), width=width, **places))
        return {"codes": codes}
