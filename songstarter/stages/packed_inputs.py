"""A run's small inputs side by side in one array, so that one copy brings all of them to a device.

tokens │ positions │ lengths │ settings │ uniforms     host: one view each     device: one place each
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Device
from songstarter.stages.session import DeviceArray, Place

ALIGNMENT = 256  # bytes; kernels read vectors
Layout = Mapping[str, tuple[type[np.generic], tuple[int, ...]]]


class PackedInputs:
    """Views to write to, by name, and the places on the device where ``send`` brings them."""

    def __init__(self, layout: Layout, device: Device) -> None:
        starts, end = {}, 0
        for name, (dtype, shape) in layout.items():
            starts[name] = end
            end += -(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
        self._host = np.zeros(end, np.uint8)
        self._device = DeviceArray(self._host.copy(), device)
        base = self._device.place.address
        self.views = {name: self._view(starts[name], *form) for name, form in layout.items()}
        self.places = {
            name: Place(device, dtype, shape, base + starts[name]) for name, (dtype, shape) in layout.items()
        }

    def send(self) -> None:
        """Bring what the views hold to the device."""
        self._device.write(self._host)

    def _view(self, start: int, dtype: type[np.generic], shape: tuple[int, ...]) -> Array:
        end = start + math.prod(shape) * np.dtype(dtype).itemsize
        return self._host[start:end].view(dtype).reshape(shape)
