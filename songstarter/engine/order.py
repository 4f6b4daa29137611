"""The decoder model's border: tensors to takes, and outcomes to responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from songstarter import event_log
from songstarter.array import Array
from songstarter.checkpoint import Checkpoint
from songstarter.contract import DECODER_INPUTS
from songstarter.delay_pattern import DelayPattern
from songstarter.engine.engine import Engine
from songstarter.engine.record import OrderRecord
from songstarter.engine.service import EngineService
from songstarter.engine.take import Beginning, Outcome, Take
from songstarter.errors import Description, InvalidRequest
from songstarter.metrics import INFO, KV_MEMORY, Readings, Series
from songstarter.request import MAX_OUTPUTS, MAX_SEED, PRIORITIES, Sampling
from songstarter.stages.decoder import Prefix
from songstarter.stages.opening import open_decoder
from songstarter.version import version


@dataclass(frozen=True)
class Response:
    """What one take's end means for its request: outputs or an error, and whether more will follow."""

    variation: int
    outcome: Outcome
    last: bool
    record: OrderRecord


Deliver = Callable[[Response], None]


class OrderDesk:
    """Opens a checkpoint's decoder and takes orders for it."""

    def __init__(self, repository: Path, *, slots: int, max_waiting: int, threads: int = 0) -> None:
        """Load the graph and allocate the memory of all slots.

        Raises:
            CheckpointError: the exported repository cannot be used.
        """
        self._checkpoint = Checkpoint.read(repository)
        self._pattern = DelayPattern(self._checkpoint.delays, self._checkpoint.special_token)
        self._stage = open_decoder(repository, self._checkpoint, slots=slots, threads=threads)
        self._engine = Engine(self._stage, self._pattern, max_waiting=max_waiting)
        self._service = EngineService(self._engine)
        facts = self._checkpoint.decoder
        event_log.write("decoder", computed_by=self._stage.computed_by, precision=facts.precision, slots=slots)

    def accept(self, inputs: Mapping[str, Array], deliver: Deliver, request_id: str = "") -> Sequence[Take]:
        """Let the takes of an order wait for slots; ``deliver`` hears of each take's end, in the order they end.

        ``inputs`` are those of ``contract.DECODER_INPUTS``; ``request_id`` names the order in the log.

        Raises:
            InvalidRequest: a tensor is not as the contract says.
            Unavailable: too many takes wait already.
        """
        record = OrderRecord(request_id)
        try:
            _require_all(inputs)
            takes = self._takes(inputs, _countdown(int(inputs["variations"].item()), deliver, record))
            record.takes = takes
            self._service.submit(takes)
        except Exception as error:
            record.note(error)
            record.write()
            raise
        return takes

    def delivered(self, response: Response) -> None:
        """Hear that a response is on its way, and note it in the log if it was an order's last."""
        if response.last:
            response.record.write()

    def readings(self) -> Readings:
        """The metrics of ``metrics.DECODER_FAMILIES``; any thread may ask, and one alone should."""
        statistics = self._engine.statistics
        decoder = self._checkpoint.decoder
        labels = (version(), self._checkpoint.name, decoder.precision, decoder.device)
        standing = {Series(KV_MEMORY): self._stage.memory_bytes, Series(INFO, labels): 1}
        values = self._engine.levels | statistics.totals() | standing
        return Readings(values, statistics.fetch_observations())

    def close(self) -> None:
        """End what plays with Unavailable and stop."""
        self._service.stop()

    def _takes(self, inputs: Mapping[str, Array], on_end: Callable[[Take, Outcome], None]) -> list[Take]:
        sampling = Sampling(
            temperature=float(inputs["temperature"].item()),
            top_k=int(inputs["top_k"].item()),
            top_p=float(inputs["top_p"].item()),
            guidance=float(inputs["guidance"].item()),
        )
        beginning = self._beginning(inputs, sampling)
        variations = _in_range("variations", inputs, 1, MAX_OUTPUTS)
        seed = _in_range("seed", inputs, 0, MAX_SEED)
        priority = _in_range("priority", inputs, PRIORITIES[0], PRIORITIES[-1])
        return [Take(beginning, sampling, seed, variation, priority, on_end) for variation in range(variations)]

    def _beginning(self, inputs: Mapping[str, Array], sampling: Sampling) -> Beginning:
        checkpoint = self._checkpoint
        frames = _in_range("frames", inputs, 1, checkpoint.window_frames)
        guided, null = inputs["prefix"], inputs["null_prefix"]
        if guided.shape != null.shape or guided.shape[1] != checkpoint.decoder.hidden or not len(guided):
            found = Description(f"shapes {guided.shape} and {null.shape}")
            raise InvalidRequest("prefix", found, f"two equal shapes [position, {checkpoint.decoder.hidden}]")
        if not (np.isfinite(guided).all() and np.isfinite(null).all()):
            raise InvalidRequest("prefix", Description("values that are no numbers"), "finite embeddings")
        room = self._room_for_prefix()
        if len(guided) > room:
            raise InvalidRequest("prefix", Description(f"{len(guided)} positions"), f"at most {room}")
        prefix = Prefix(guided, None if sampling.guidance == 1 else null)
        return Beginning(prefix, self._opening(inputs.get("opening"), frames), frames)

    def _room_for_prefix(self) -> int:
        checkpoint = self._checkpoint
        if checkpoint.family == "text":
            return checkpoint.text.max_tokens
        return checkpoint.decoder.positions - self._pattern.columns_of(checkpoint.window_frames)

    def _opening(self, opening: Array | None, frames: int) -> Array | None:
        if opening is None:
            return None
        checkpoint = self._checkpoint
        fits = opening.shape[0] == checkpoint.codebooks and 0 < opening.shape[1] < frames
        if not fits or opening.min() < 0 or opening.max() >= checkpoint.vocabulary:
            found = Description(f"shape {opening.shape}")
            allowed = (
                f"codes below {checkpoint.vocabulary} of {checkpoint.codebooks} codebooks, fewer than {frames} frames"
            )
            raise InvalidRequest("opening", found, allowed)
        return opening


def _countdown(count: int, deliver: Deliver, record: OrderRecord) -> Callable[[Take, Outcome], None]:
    """What a take calls at its end; the engine's thread alone does, so the count needs no lock."""
    left = count

    def on_end(take: Take, outcome: Outcome) -> None:
        nonlocal left
        left -= 1
        if isinstance(outcome, Exception):
            record.note(outcome)
        deliver(Response(take.variation, outcome, left == 0, record))

    return on_end


def _require_all(inputs: Mapping[str, Array]) -> None:
    """Triton counts inputs, it does not name them: with an optional one given, a required one may be missing."""
    for tensor in DECODER_INPUTS:
        if not tensor.optional and tensor.name not in inputs:
            raise InvalidRequest(tensor.name, Description("nothing"), "a tensor, always")


def _in_range(name: str, inputs: Mapping[str, Array], least: int, most: int) -> int:
    value = int(inputs[name].item())
    if not least <= value <= most:
        raise InvalidRequest(name, value, f"{least} to {most}")
    return value


def outputs(response: Response) -> dict[str, Array]:
    """The tensors of ``contract.DECODER_OUTPUTS`` for a take that was finished."""
    frames = np.asarray(response.outcome, np.int32)
    return {"variation": np.array([response.variation], np.int32), "codes": np.ascontiguousarray(frames)}
