"""The decoder model's border: tensors to takes, and what takes deliver to responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from songstarter import event_log
from songstarter.array import Array
from songstarter.checkpoint import Checkpoint
from songstarter.contract import ORDER
from songstarter.delay_pattern import DelayPattern
from songstarter.engine.engine import Engine
from songstarter.engine.record import OrderRecord
from songstarter.engine.service import EngineService
from songstarter.engine.take import Beginning, Chunk, ChunkSizes, Outcome, Take
from songstarter.errors import Description, InvalidRequest, SongstarterError, Unavailable
from songstarter.freed_memory import FreedMemory
from songstarter.metrics import INFO, KV_MEMORY, Readings, Series
from songstarter.request import MAX_OUTPUTS, MAX_SEED, PRIORITIES, Sampling
from songstarter.stages.filling import Prefix
from songstarter.stages.opening import open_decoder
from songstarter.version import version
from songstarter.windows import windows_of

MAX_FRAMES = 10**6  # of a take: more than five hours; what a caller may ask for is the public models' affair


@dataclass(frozen=True)
class Response:
    """A chunk of a take, or the error that ended its order; ``last`` when no take has more to say."""

    variation: int
    outcome: Chunk | Exception
    last: bool
    record: OrderRecord


Deliver = Callable[[Response], None]


class OrderDesk:
    """Opens a checkpoint's decoder and takes orders for it."""

    def __init__(
        self, repository: Path, *, slots: int, max_waiting: int, threads: int = 0, fewest_slots: int = 1
    ) -> None:
        """Load the graph and allocate the memory of all slots.

        Raises:
            CheckpointError: the exported repository cannot be used.
        """
        self._checkpoint = Checkpoint.read(repository)
        self._pattern = DelayPattern(self._checkpoint.delays, self._checkpoint.special_token)
        self._stage = open_decoder(
            repository, self._checkpoint, slots=slots, threads=threads, fewest_slots=fewest_slots
        )
        self._engine = Engine(self._stage, self._pattern, max_waiting=max_waiting)
        self._service = EngineService(self._engine)
        self._freed_memory = FreedMemory()
        self._freed_memory.start()
        self._under_way: dict[str, Sequence[Take]] = {}  # by the order's name
        facts = self._checkpoint.decoder
        event_log.write("decoder", computed_by=self._stage.computed_by, precision=facts.precision, slots=slots)

    def accept(self, inputs: Mapping[str, Array], deliver: Deliver, request_id: str = "") -> Sequence[Take]:
        """Let the takes of an order wait for slots; ``deliver`` hears what they have to say, as it comes.

        ``inputs`` are those of ``contract.ORDER``; ``request_id`` names the order in the log.

        Raises:
            InvalidRequest: a tensor is not as the contract says.
            Unavailable: too many takes wait already.
        """
        record = OrderRecord(request_id)
        try:
            _require_all(inputs)
            name = self._name(inputs)
            takes = self._takes(inputs, self._countdown(name, int(inputs["variations"].item()), deliver, record))
            record.takes = takes
            self._submit(name, takes)
        except Exception as error:
            record.note(error)
            record.write()
            raise
        return takes

    def cancel(self, name: Array) -> None:
        """Let the takes of an order end at the next step; of one that is not under way, nothing is left to end."""
        _cancel(self._under_way.get(_text(name), ()))

    def pulse(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` from the engine's thread when no step is under way: a sign that it lives.

        Raises:
            Unavailable: the service is stopping.
            TakeFailed: no step works any more.
        """
        self._service.pulse(answer)

    def delivered(self, response: Response) -> None:
        """Hear that a response is on its way, and note it in the log if it was an order's last."""
        if response.last:
            response.record.write()

    def lost(self, response: Response, error: Exception) -> None:
        """Hear that a response which is not the last could not be sent; the order ends with that error."""
        response.record.note(error)
        _cancel(response.record.takes)

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
        self._freed_memory.stop()

    def _name(self, inputs: Mapping[str, Array]) -> str:
        name = _text(inputs["order"])
        if name in self._under_way:
            raise InvalidRequest("order", name, "a name that no order under way has")
        return name

    def _submit(self, name: str, takes: Sequence[Take]) -> None:
        self._under_way[name] = takes
        try:
            self._service.submit(takes)
        except Unavailable:
            del self._under_way[name]
            raise

    def _countdown(
        self, name: str, count: int, deliver: Deliver, record: OrderRecord
    ) -> Callable[[Take, Outcome], None]:
        """What the takes of an order deliver to; the engine's thread alone does, so the count needs no lock.

        An error ends the whole order, and is its last response: Triton hands on nothing that follows an error.
        """
        left = count

        def hear(take: Take, outcome: Outcome) -> None:
            nonlocal left
            if isinstance(outcome, SongstarterError):
                record.note(outcome)
                _cancel(self._under_way[name])
            left -= isinstance(outcome, SongstarterError) or outcome.last
            if not left:
                del self._under_way[name]
            if not (left and record.error):
                deliver(Response(take.variation, record.error or outcome, not left, record))

        return hear

    def _takes(self, inputs: Mapping[str, Array], deliver: Callable[[Take, Outcome], None]) -> list[Take]:
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
        chunks = ChunkSizes(
            *(_in_range(name, inputs, 0, MAX_FRAMES) or MAX_FRAMES for name in ("first_chunk", "chunk"))
        )
        return [
            Take(beginning, sampling, seed, variation, priority, chunks, deliver) for variation in range(variations)
        ]

    def _beginning(self, inputs: Mapping[str, Array], sampling: Sampling) -> Beginning:
        checkpoint = self._checkpoint
        frames = _in_range("frames", inputs, 1, MAX_FRAMES)
        opening = self._opening(inputs.get("opening"), frames)
        known = 0 if opening is None else opening.shape[1]
        windows = windows_of(frames, known, window_frames=checkpoint.window_frames)
        return Beginning(self._prefixes(inputs, sampling, len(windows)), opening, windows)

    def _prefixes(self, inputs: Mapping[str, Array], sampling: Sampling, windows: int) -> Sequence[Prefix]:
        """One prefix for all windows, or one for each."""
        guided, null = inputs["prefix"], inputs["null_prefix"]
        hidden = self._checkpoint.decoder.hidden
        if guided.shape[1:] != null.shape or null.shape[1] != hidden or not len(null):
            found = Description(f"shapes {guided.shape} and {null.shape}")
            raise InvalidRequest("prefix", found, f"[window, position, {hidden}], and the null twin of one window")
        if len(guided) not in (1, windows):
            raise InvalidRequest("prefix", Description(f"{len(guided)} windows"), f"1 or {windows}")
        if not (np.isfinite(guided).all() and np.isfinite(null).all()):
            raise InvalidRequest("prefix", Description("values that are no numbers"), "finite embeddings")
        room = self._room_for_prefix()
        if len(null) > room:
            raise InvalidRequest("prefix", Description(f"{len(null)} positions"), f"at most {room}")
        return [Prefix(window, None if sampling.guidance == 1 else null) for window in guided]

    def _room_for_prefix(self) -> int:
        checkpoint = self._checkpoint
        if checkpoint.family == "text":
            return checkpoint.text.max_tokens
        return checkpoint.decoder.positions - self._pattern.columns_of(checkpoint.window_frames)

    def _opening(self, opening: Array | None, frames: int) -> Array | None:
        if opening is None:
            return None
        checkpoint = self._checkpoint
        most = min(frames, checkpoint.window_frames)
        fits = opening.shape[0] == checkpoint.codebooks and 0 < opening.shape[1] < most
        if not fits or opening.min() < 0 or opening.max() >= checkpoint.vocabulary:
            found = Description(f"shape {opening.shape}")
            allowed = (
                f"codes below {checkpoint.vocabulary} of {checkpoint.codebooks} codebooks, fewer than {most} frames"
            )
            raise InvalidRequest("opening", found, allowed)
        return opening


def _cancel(takes: Sequence[Take]) -> None:
    for take in takes:
        take.cancel()


def _require_all(inputs: Mapping[str, Array]) -> None:
    """Triton takes any of the inputs alone for enough."""
    for tensor in ORDER:
        if not tensor.optional and tensor.name not in inputs:
            raise InvalidRequest(tensor.name, Description("nothing"), "a tensor, always")


def _in_range(name: str, inputs: Mapping[str, Array], least: int, most: int) -> int:
    value = int(inputs[name].item())
    if not least <= value <= most:
        raise InvalidRequest(name, value, f"{least} to {most}")
    return value


def _text(tensor: Array) -> str:
    return bytes(tensor.item()).decode(errors="replace")


def outputs(variation: int, chunk: Chunk) -> dict[str, Array]:
    """The tensors of ``contract.DECODER_OUTPUTS`` for a chunk."""
    return {
        "variation": np.array([variation], np.int32),
        "first": np.array([chunk.first], np.int32),
        "codes": np.ascontiguousarray(chunk.codes, np.int32),
    }
