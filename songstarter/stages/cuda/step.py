"""A decoder's steps by kernels of its own, from the graph's weights, on the graph's memory.

The graph of the same weights goes on to fill rows; only steps of one column come here, which is nearly all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from songstarter.array import Array
from songstarter.errors import DeviceError
from songstarter.stages.cuda.chain import Chain, Scratch, kernels_of, scratch_bytes
from songstarter.stages.cuda.compiler import compile_kernels
from songstarter.stages.cuda.driver import Driver, Launch
from songstarter.stages.cuda.layout import Layout
from songstarter.stages.cuda.libraries import Opener, open_library
from songstarter.stages.cuda.products import Blas, Gemm
from songstarter.stages.graph_weights import Weights


@dataclass(frozen=True)
class Exchange:
    """Memory of the host that a step reads from first and writes to at its end, and where that is on the device."""

    given: Array
    given_at: int
    found: Array
    found_at: int


class Kernels:
    """One decoder's weights on the device, and the kernels that compute with them."""

    computed_by = "decoder.cu"

    def __init__(self, layout: Layout, opener: Opener = open_library) -> None:
        """Compile, and bring the weights to the device.

        Raises:
            DeviceError: the device, its driver, the compiler or cuBLAS is not to be had, or memory for the weights.
        """
        self._layout = layout
        self._driver = Driver(opener)
        try:
            self._driver.load(compile_kernels(opener, self._driver.capability), kernels_of(layout))
            self._blas = Blas(opener, self._driver)
            self._weights = {name: self._driver.upload(layout.weights[name]) for name in layout.names()}
        except DeviceError:
            self._driver.give_back()  # the graph goes on without us
            raise

    @classmethod
    def of(cls, graph: Path, opener: Opener = open_library) -> Kernels | None:
        """The kernels for a decoder graph; None where they are not made for it."""
        weights = Weights.of(graph)
        layout = Layout.of(weights) if weights else None
        return cls(layout, opener) if layout else None

    def exchange(self, given: int, found: int) -> Exchange:
        """So many bytes each way."""
        driver = self._driver
        return Exchange(driver.pinned(given), driver.allocate(given), driver.pinned(found), driver.allocate(found))

    def bind(self, exchange: Exchange, places: Mapping[str, int], rows: int) -> Step:
        """A step of so many rows, from ``exchange.given`` to ``exchange.found``.

        ``places`` are addresses by the names of the graph's inputs and outputs.
        """
        parts = {name: self._driver.allocate(size) for name, size in scratch_bytes(self._layout, rows).items()}
        chain = Chain(self._layout, self._weights, places, Scratch(**parts), rows)
        return Step(self._driver, self._blas, exchange, tuple(chain))

    def allocate(self, size: int) -> int:
        """The address of so many bytes on the device, all zero."""
        return self._driver.allocate(size)

    def read(self, address: int, array: Array) -> Array:
        """Fill an array from the device."""
        self._driver.download(address, array)
        return array


class Step:
    """What carries out one step, again and again; from one thread."""

    def __init__(self, driver: Driver, blas: Blas, exchange: Exchange, chain: Sequence[Launch | Gemm]) -> None:
        self._driver, self._blas, self._exchange, self._chain = driver, blas, exchange, chain
        self._captured: Callable[[], None] | None = None

    def run(self) -> None:
        """Carry it out and wait; the first time launch by launch, for libraries then do what cannot be captured."""
        if self._captured is None:
            self._driver.make_current()
            self._launch()
            self._driver.wait()
            self._captured = self._driver.capture(self._launch)
        else:
            self._captured()

    def _launch(self) -> None:
        self._driver.send(self._exchange.given, self._exchange.given_at)
        for launch in self._chain:
            if isinstance(launch, Launch):
                self._driver.launch(launch)
            else:
                self._blas.launch(launch)
        self._driver.fetch(self._exchange.found_at, self._exchange.found)
