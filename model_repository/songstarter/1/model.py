"""Triton's verbs for the public model: songstarter.faces does the work, this file carries tensors in and out."""

import json
from functools import partial
from pathlib import Path

import triton_python_backend_utils as pb_utils

from songstarter.contract import DECODER, INNER_OUTPUTS, plain_values
from songstarter.errors import SongstarterError
from songstarter.faces.desk import RequestDesk
from songstarter.faces.face import Face
from songstarter.faces.replies import from_inner_wire, to_wire
from songstarter.faces.visits import current
from songstarter.publisher import Publisher

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Answers late: execute() hands requests to the desk and returns, so one instance holds many at once."""

    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        settings = {name: float(value["string_value"]) for name, value in parameters.items()}
        limit = int(settings.pop("max_requests"))
        try:
            face = Face(Path(args["model_repository"]).parent, self, **settings)
        except SongstarterError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._desk = RequestDesk(face, limit=limit)
        self._publisher = Publisher(self._desk.readings, pb_utils.MetricFamily)
        self._publisher.start()

    def execute(self, requests):
        for request in requests:
            reply = partial(_reply, request.get_response_sender())
            origin = {"request_id": request.request_id(), "trace_context": request.trace().get_context()}
            self._desk.accept(partial(_values, request), reply, **origin)
        return [None] * len(requests)

    def finalize(self):
        self._desk.close()
        self._publisher.stop()

    def run(self, model, inputs):
        return _from_triton(_inner(model, inputs).exec())

    def decode(self, inputs):
        # The last response may carry no tensors.
        return filter(None, map(_from_triton, _inner(DECODER, inputs).exec(decoupled=True)))


def _inner(model, inputs):
    names = [tensor.name for tensor in INNER_OUTPUTS[model]]
    # Without its trace: Triton frees that when execute() returns, and would crash.
    request_id = current().request_id
    return pb_utils.InferenceRequest(
        model_name=model, requested_output_names=names, inputs=_to_triton(inputs), request_id=request_id
    )


def _to_triton(tensors):
    return [pb_utils.Tensor(name, array) for name, array in tensors.items()]


def _from_triton(response):
    if response.has_error():
        raise from_inner_wire(response.error().message())
    return {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}


def _values(request):
    tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    return plain_values(tensors, json.loads(request.parameters() or "{}"))


def _reply(sender, outcome):
    failed = isinstance(outcome, Exception)
    sender.send(_failure(outcome) if failed else pb_utils.InferenceResponse(_to_triton(outcome)), flags=FINAL)


def _failure(error):
    code, message = to_wire(error)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))
