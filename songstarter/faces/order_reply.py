"""How the decoder model answers an order; ``pb_utils`` comes in as an argument, as in ``triton.py``."""

from __future__ import annotations

from typing import Any

import numpy as np

from songstarter.errors import SongstarterError
from songstarter.faces.replies import to_inner_wire
from songstarter.faces.stages import Tensors
from songstarter.faces.triton import response_of


class OrderReply:
    """The way back to whoever ordered: chunks, and an end."""

    def __init__(self, pb_utils: Any, request: Any) -> None:
        self._pb_utils = pb_utils
        self._final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._sender = request.get_response_sender()
        self._wanted = frozenset(request.requested_output_names())

    def send(self, tensors: Tensors, *, last: bool) -> None:
        """A chunk of a take; the last one ends the order."""
        answer = response_of(self._pb_utils, tensors, self._wanted)
        self._sender.send(answer, flags=self._final if last else 0)

    def fail(self, error: Exception) -> None:
        """End the order with an error: as a tensor, not as Triton's error, see ``contract.DECODER_OUTPUTS``."""
        if not isinstance(error, SongstarterError):
            self._pb_utils.Logger.log_error(f"decoder: {type(error).__name__}: {error}")
        _, text = to_inner_wire(error)
        tensors = {"error": np.array([text.encode()], dtype=object)}
        self._sender.send(response_of(self._pb_utils, tensors, self._wanted), flags=self._final)

    def end(self) -> None:
        """Close the way of a request that has nothing to hear."""
        self._sender.send(flags=self._final)
