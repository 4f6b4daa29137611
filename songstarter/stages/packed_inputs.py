"""A run's small inputs side by side in one array, so that one copy brings all of them to a device.

tokens │ positions │ lengths │ settings │ ...     host: one view each     device: one place each
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Device
from songstarter.stages.places import Place
from songstarter.stages.session import DeviceArray

ALIGNMENT = 256  # bytes; kernels read vectors
Layout = Mapping[str, tuple[type[np.generic], tuple[int, ...]]]


class Packing:
    """Where each input of a layout begins."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._starts: dict[str, int] = {}
        self.bytes = 0
        for name, (dtype, shape) in layout.items():
            self._starts[name] = self.bytes
            self.bytes += -(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT

    def views(self, packed: Array) -> dict[str, Array]:
        """Each input's part of an array of bytes."""
        return {name: self._view(packed, name) for name in self._layout}

    def addresses(self, base: int) -> dict[str, int]:
        """Each input's address, of bytes that begin at ``base``."""
        return {name: base + start for name, start in self._starts.items()}

    def _view(self, packed: Array, name: str) -> Array:
        dtype, shape = self._layout[name]
        start = self._starts[name]
        return packed[start : start + math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


class PackedInputs:
    """Views to write to, by name, and the places on the device where ``send`` brings them."""

    def __init__(self, layout: Layout, device: Device) -> None:
        packing = Packing(layout)
        self._host = np.zeros(packing.bytes, np.uint8)
        self._device = DeviceArray(self._host.copy(), device)
        self.views = packing.views(self._host)
        self.places = {
            name: Place(device, *layout[name], address)
            for name, address in packing.addresses(self._device.place.address).items()
        }

    def send(self) -> None:
        """Bring what the views hold to the device."""
        self._device.write(self._host)
