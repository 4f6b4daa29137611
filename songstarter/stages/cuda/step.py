"""A decoder's steps by kernels of its own, from the graph's weights, on the graph's memory.

The graph of the same weights goes on to fill rows; only steps of one column come here, which is nearly all there is.
All memory is taken at the start: one step runs at a time, so steps of every size share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from songstarter.array import Array
from songstarter.errors import DeviceError
from songstarter.stages.cuda.blas import Blas
from songstarter.stages.cuda.chain import Chain, Scratch, Work, kernels_of, scratch_bytes
from songstarter.stages.cuda.compiler import compile_kernels
from songstarter.stages.cuda.driver import Driver, Launch
from songstarter.stages.cuda.layout import Layout
from songstarter.stages.cuda.libraries import Opener, open_library
from songstarter.stages.graph_weights import Weights

SPARE_BYTES = 1 << 30  # that the graph keeps, to fill rows


@dataclass(frozen=True)
class Exchange:
    """Memory of the host that a step reads from first and writes to at its end, and where that is on the device."""

    given: Array
    given_at: int
    found: Array
    found_at: int

    def part(self, given: int, found: int) -> Exchange:
        """The first so many bytes of both."""
        return Exchange(self.given[:given], self.given_at, self.found[:found], self.found_at)


class Kernels:
    """One decoder's weights on the device, and the kernels that compute with them."""

    computed_by = "decoder.cu"

    def __init__(self, layout: Layout, rows: int, given: int, opener: Opener = open_library) -> None:
        """Compile, bring the weights to the device, and take the memory for steps of up to so many rows.

        ``given`` is how many bytes such a step reads from the host.

        Raises:
            DeviceError: the device, its driver, the compiler or cuBLAS is not to be had, or memory for all this.
        """
        self._layout = layout
        self._driver = driver = Driver(opener)
        found = rows * layout.codebooks * np.dtype(np.int64).itemsize
        try:
            driver.load(compile_kernels(opener, driver.capability), kernels_of(layout))
            self._blas = Blas(opener, driver)
            self._weights = {name: driver.upload(layout.weights[name]) for name in layout.names()}
            sizes = scratch_bytes(layout, rows)
            self._scratch = Scratch(**{name: driver.allocate(size) for name, size in sizes.items()})
            self._arrived_bytes = sizes["arrived"]
            self._logits_at = driver.allocate(rows * layout.logits * np.dtype(np.float32).itemsize)
            given_at, found_at = driver.allocate(given), driver.allocate(found)
            self.exchange = Exchange(driver.pinned(given), given_at, driver.pinned(found), found_at)
            driver.settle()
            if (free := driver.free_bytes()) < SPARE_BYTES:
                raise DeviceError(f"beside a second copy of the weights only {free >> 20} MiB are left for the graph")
        except DeviceError:
            driver.give_back()  # the graph goes on without us
            raise

    @classmethod
    def of(cls, graph: Path, rows: int, given: int, opener: Opener = open_library) -> Kernels | None:
        """The kernels for a decoder graph; None where they are not made for it."""
        weights = Weights.of(graph)
        layout = Layout.of(weights) if weights else None
        return cls(layout, rows, given, opener) if layout else None

    def bind(self, exchange: Exchange, places: Mapping[str, int], rows: int) -> Step:
        """A step of so many rows, from ``exchange.given`` to ``exchange.found``.

        ``places`` are addresses by the names of the graph's inputs and of ``kernel_inputs``; it takes no memory.
        """
        known = {**places, "logits": self._logits_at, "columns": exchange.found_at}
        chain = Chain(self._layout, self._weights, known, self._scratch, rows)
        return Step(self._driver, self._blas, exchange, tuple(chain), (self._scratch.arrived, self._arrived_bytes))

    def logits(self, rows: int) -> Array:
        """The logits [row, codebook, token] of the last step, of its first rows."""
        logits = np.zeros((rows, self._layout.codebooks, self._layout.vocabulary), np.float32)
        self._driver.make_current()
        self._driver.download(self._logits_at, logits)
        return logits


class Step:
    """What carries out one step, again and again."""

    def __init__(
        self, driver: Driver, blas: Blas, exchange: Exchange, chain: Sequence[Work], arrived: tuple[int, int]
    ) -> None:
        """``arrived`` is where blocks that share something count themselves, and how many bytes that is."""
        self._driver, self._blas, self._exchange, self._chain, self._arrived = driver, blas, exchange, chain, arrived
        self._captured: Callable[[], None] | None = None

    def run(self) -> None:
        """Carry it out and wait.

        The first time launch by launch, for libraries then do what cannot be captured; and where it cannot be
        captured at all, every time.
        """
        self._driver.make_current()
        if self._captured:
            self._captured()
            return
        self._launch_and_wait()
        try:
            self._captured = self._driver.capture(self._launch)
        except DeviceError:
            self._captured = self._launch_and_wait

    def _launch_and_wait(self) -> None:
        try:
            self._launch()
        except DeviceError:
            with suppress(DeviceError):  # rows must not be filled while what was put on the stream still writes them
                self._driver.wait()
            raise
        self._driver.wait()

    def _launch(self) -> None:
        self._driver.clear(*self._arrived)  # should a step have been broken off, the next is sound again
        self._driver.send(self._exchange.given, self._exchange.given_at)
        for work in self._chain:
            if isinstance(work, Launch):
                self._driver.launch(work)
            else:
                self._blas.launch(work)
        self._driver.fetch(self._exchange.found_at, self._exchange.found)
