"""The doorway to ``native/codec_decoder.c``: the codec's decoder, computed without onnxruntime.

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
from songstarter.chunks import KEPT, REACH
from songstarter.stages.graph_weights import Weights
from songstarter.stages.native.codec_decoder_layout import CodecDecoderLayout
from songstarter.stages.native.compile import CODEC_DECODER, InstructionSet
from songstarter.stages.native.opened import Opened, require, within
from songstarter.stages.native.processor import instruction_set
from songstarter.stages.places import ONNXRUNTIME

MOST_ROWS = 8  # of a call, as in codec_decoder.c
MOST_FRAMES = 2**19  # of a row, hours: so that codec_decoder.c counts in 32 bits


class Call(ctypes.Structure):
    """``Call`` of ``codec_decoder.c``."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("width", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("codes", "frames", "kept", "memory", "waveform", "next_memory")),
    )


def open_twin(graph: Path) -> NativeCodecDecoder | None:
    """What computes a codec decoder's graph faster, or None where that cannot be: another processor or other layers.

    The log says which it is.

    Raises:
        CheckpointError: the graph's weights cannot be read.
    """
    instructions = instruction_set(CODEC_DECODER)
    weights = Weights.of(graph) if instructions else None
    layout = CodecDecoderLayout.of(weights) if weights else None
    twin = NativeCodecDecoder(layout, instructions) if instructions and layout else None
    event_log.write(CODEC_DECODER, computed_by=twin.computed_by if twin else ONNXRUNTIME)
    return twin


class NativeCodecDecoder:
    """Stands where the graph's session would; one call at a time, on one thread."""

    def __init__(self, layout: CodecDecoderLayout, instructions: InstructionSet) -> None:
        """Raises MemoryError where the weights find no room."""
        self.computed_by = f"codec_decoder.c for {instructions.name}"
        self._layout = layout
        self._opened = Opened(CODEC_DECODER, layout, instructions)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """``waveform`` and ``next_memory`` of ``contract.CODEC_DECODER_INPUTS``.

        Raises:
            ValueError: an input's shape or values are not those of the graph.
            MemoryError: there is none for a call of this width.
        """
        codes, memory, frames, kept = self._checked(feeds)
        rows, width = len(codes), codes.shape[2] - 2 * REACH
        waveform = np.empty((rows, (KEPT + width) * self._layout.hop), np.float32)
        next_memory = np.empty_like(memory)
        for start in range(0, rows, MOST_ROWS):
            arrays = {
                "codes": codes,
                "frames": frames,
                "kept": kept,
                "memory": memory,
                "waveform": waveform,
                "next_memory": next_memory,
            }
            call = Call(
                rows=min(MOST_ROWS, rows - start),
                width=width,
                **{name: array[start:].ctypes.data for name, array in arrays.items()},
            )
            self._opened.run(call)
        return {"waveform": waveform, "next_memory": next_memory}

    def _checked(self, feeds: Mapping[str, Array]) -> tuple[Array, Array, Array, Array]:
        """Contiguous arrays that ``codec_decoder.c`` can trust."""
        layout = self._layout
        codes, memory = (
            np.ascontiguousarray(feeds["codes"], np.int64),
            np.ascontiguousarray(feeds["memory"], np.float32),
        )
        frames, kept = (np.ascontiguousarray(feeds[name].reshape(-1), np.int64) for name in ("frames", "kept"))
        rows, width = len(codes), codes.shape[2] - 2 * REACH
        require(
            codes.shape[1] == layout.codebooks and 0 < width <= MOST_FRAMES,
            f"codes are {list(codes.shape)}, expected [batch, {layout.codebooks}, {2 * REACH} + 1 to {MOST_FRAMES}]",
        )
        require(
            memory.shape == (rows, *layout.memory),
            f"memory is {list(memory.shape)}, expected {[rows, *layout.memory]}",
        )
        require(len(frames) == len(kept) == rows, f"frames and kept are of {len(frames)} and {len(kept)} rows")
        require(within(codes, 0, layout.entries - 1), f"codes leave 0 to {layout.entries - 1}")
        require(within(frames, 1, width), f"frames leave 1 to {width}")
        require(within(kept, 0, KEPT), f"kept leaves 0 to {KEPT}")
        return codes, memory, frames, kept
