"""Triton's verbs for the public model: songstarter.faces does the work, this file carries tensors in and out."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import triton_python_backend_utils as pb_utils

from songstarter.contract import DECODER, INNER_OUTPUTS, plain_values
from songstarter.errors import SongstarterError
from songstarter.faces.admission import Admission
from songstarter.faces.face import Face
from songstarter.faces.replies import from_inner_wire, to_wire

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Answers late: execute() hands requests to threads and returns, so one instance holds many at once."""

    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        settings = {name: float(value["string_value"]) for name, value in parameters.items()}
        self._admission = Admission(int(settings.pop("max_requests")))
        self._threads = ThreadPoolExecutor(self._admission.limit, thread_name_prefix="request")
        try:
            self._face = Face(Path(args["model_repository"]).parent, self, **settings)
        except SongstarterError as error:
            raise pb_utils.TritonModelException(str(error)) from error

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                values = _values(request)
                self._admission.enter()
                self._threads.submit(self._answer, values, sender)
            except Exception as error:
                sender.send(_failure(error), flags=FINAL)
        return [None] * len(requests)

    def finalize(self):
        self._threads.shutdown(cancel_futures=True)

    def _answer(self, values, sender):
        with self._admission.leaving():
            try:
                response = pb_utils.InferenceResponse(_to_triton(self._face.answer(values)))
            except Exception as error:
                response = _failure(error)
            sender.send(response, flags=FINAL)

    def run(self, model, inputs):
        return _from_triton(_inner(model, inputs).exec())

    def decode(self, inputs):
        # The last response may carry no tensors.
        return filter(None, map(_from_triton, _inner(DECODER, inputs).exec(decoupled=True)))


def _inner(model, inputs):
    names = [tensor.name for tensor in INNER_OUTPUTS[model]]
    return pb_utils.InferenceRequest(model_name=model, requested_output_names=names, inputs=_to_triton(inputs))


def _to_triton(tensors):
    return [pb_utils.Tensor(name, array) for name, array in tensors.items()]


def _from_triton(response):
    if response.has_error():
        raise from_inner_wire(response.error().message())
    return {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}


def _values(request):
    tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    return plain_values(tensors, json.loads(request.parameters() or "{}"))


def _failure(error):
    code, message = to_wire(error)
    if not isinstance(error, SongstarterError):
        pb_utils.Logger.log_error(f"songstarter: {type(error).__name__}: {error}")
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))
