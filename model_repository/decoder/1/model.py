"""Triton's verbs for the decoder: songstarter.engine does the work, this file carries tensors in and out."""

import contextlib
import queue
import threading
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from songstarter.contract import CANCEL
from songstarter.engine.order import OrderDesk, outputs
from songstarter.errors import SongstarterError
from songstarter.faces.replies import to_inner_wire
from songstarter.faces.triton import response_of, settings_of
from songstarter.publisher import Publisher

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Decoupled: one response for each chunk of each take. Sending has a thread of its own, since every call into
    Triton costs a good part of a decode step."""

    def initialize(self, args):
        settings = {name: int(value) for name, value in settings_of(args).items()}
        try:
            self._desk = OrderDesk(Path(args["model_repository"]).parent, **settings)
        except SongstarterError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._outbox = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, name="sender", daemon=True)
        self._sender.start()
        self._publisher = Publisher(self._desk.readings, pb_utils.MetricFamily)
        self._publisher.start()

    def execute(self, requests):
        for request in requests:
            way = Way(request)
            try:
                inputs = {tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()}
                self._accept(inputs, way, request.request_id())
            except Exception as error:
                way.fail(error)

    def finalize(self):
        self._desk.close()
        self._publisher.stop()
        self._outbox.put(None)
        self._sender.join(timeout=5)

    def _accept(self, inputs, way, request_id):
        if CANCEL.name in inputs:
            self._desk.cancel(inputs[CANCEL.name])
            way.end()
        else:
            self._desk.accept(inputs, lambda response: self._outbox.put((way, response)), request_id)

    def _send_all(self):
        while (item := self._outbox.get()) is not None:
            way, response = item
            try:
                way.send(response)
            except Exception as error:  # the caller must hear something, and the others must still be served
                if not response.last:
                    self._desk.lost(response, error)
                    continue
                with contextlib.suppress(Exception):
                    way.fail(error)
            self._desk.delivered(response)


class Way:
    """The way back to whoever ordered."""

    def __init__(self, request):
        self._sender = request.get_response_sender()
        self._wanted = frozenset(request.requested_output_names())

    def send(self, response):
        if isinstance(response.outcome, Exception):
            self.fail(response.outcome)
        else:
            tensors = outputs(response.variation, response.outcome)
            self._sender.send(response_of(pb_utils, tensors, self._wanted), flags=FINAL if response.last else 0)

    def fail(self, error):
        """The last response: a tensor, not Triton's error, see contract.DECODER_OUTPUTS."""
        if not isinstance(error, SongstarterError):
            pb_utils.Logger.log_error(f"decoder: {type(error).__name__}: {error}")
        _, text = to_inner_wire(error)
        tensors = {"error": np.array([text.encode()], dtype=object)}
        self._sender.send(response_of(pb_utils, tensors, self._wanted), flags=FINAL)

    def end(self):
        self._sender.send(flags=FINAL)
