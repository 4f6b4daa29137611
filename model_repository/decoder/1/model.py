"""Triton's verbs for the decoder: songstarter.engine does the work, this file carries tensors in and out."""

import contextlib
import queue
import threading
from functools import partial
from pathlib import Path

import triton_python_backend_utils as pb_utils

from songstarter.contract import CANCEL, PULSE
from songstarter.engine.order import OrderDesk, outputs
from songstarter.errors import SongstarterError
from songstarter.faces.order_reply import OrderReply
from songstarter.faces.triton import settings_of
from songstarter.publisher import Publisher


class TritonPythonModel:
    """Decoupled: one response for each chunk of each take. Sending has a thread of its own, since every call into
    Triton costs a good part of a decode step."""

    def initialize(self, args):
        try:
            self._desk = OrderDesk(Path(args["model_repository"]).parent, **settings_of(args))
        except SongstarterError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._outbox = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, name="sender", daemon=True)
        self._sender.start()
        self._publisher = Publisher(self._desk.readings, pb_utils.MetricFamily)
        self._publisher.start()

    def execute(self, requests):
        for request in requests:
            reply = OrderReply(pb_utils, request)
            try:
                inputs = {tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()}
                self._accept(inputs, reply, request.request_id())
            except Exception as error:
                reply.fail(error)

    def finalize(self):
        self._desk.close()
        self._publisher.stop()
        self._outbox.put(None)
        self._sender.join(timeout=5)

    def _accept(self, inputs, reply, request_id):
        if CANCEL.name in inputs:
            self._desk.cancel(inputs[CANCEL.name])
            reply.end()
        elif PULSE.name in inputs:
            self._desk.pulse(lambda: self._outbox.put(reply.end))
        else:
            self._desk.accept(
                inputs, lambda response: self._outbox.put(partial(self._send, reply, response)), request_id
            )

    def _send_all(self):
        while (send := self._outbox.get()) is not None:
            with contextlib.suppress(Exception):
                send()

    def _send(self, reply, response):
        try:
            _send(reply, response)
        except Exception as error:  # the caller must hear something, and the others must still be served
            if not response.last:
                self._desk.lost(response, error)
                return
            with contextlib.suppress(Exception):
                reply.fail(error)
        self._desk.delivered(response)


def _send(reply, response):
    if isinstance(response.outcome, Exception):
        reply.fail(response.outcome)
    else:
        reply.send(outputs(response.variation, response.outcome), last=response.last)
