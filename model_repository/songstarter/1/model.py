"""Triton's verbs for the public model: songstarter.faces does the work, this file carries tensors in and out."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import triton_python_backend_utils as pb_utils

from songstarter.contract import DECODER, FIELDS, INNER_OUTPUTS
from songstarter.errors import SongstarterError
from songstarter.faces.admission import Admission
from songstarter.faces.face import Face
from songstarter.faces.replies import from_inner_wire, to_wire

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Answers late: execute() hands requests to threads and returns, so one instance holds many at once."""

    def initialize(self, args):
        settings = {
            key: float(value["string_value"]) for key, value in json.loads(args["model_config"])["parameters"].items()
        }
        self._admission = Admission(int(settings.pop("max_requests")))
        try:
            self._face = Face(Path(args["model_repository"]).parent, BlsStages(), **settings)
        except SongstarterError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._threads = ThreadPoolExecutor(self._admission.limit, thread_name_prefix="request")

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._admission.enter()
            except SongstarterError as error:
                sender.send(_failure(error), flags=FINAL)
                continue
            self._threads.submit(self._answer, _values(request), sender)
        return [None] * len(requests)

    def finalize(self):
        self._threads.shutdown(cancel_futures=True)

    def _answer(self, values, sender):
        try:
            response = _response(self._face.answer(values))
        except Exception as error:
            response = _failure(error)
        self._admission.leave()
        sender.send(response, flags=FINAL)


class BlsStages:
    """The other models, called through Triton from inside it."""

    def run(self, model, inputs):
        return _tensors(_inner(model, inputs).exec())

    def decode(self, inputs):
        responses = _inner(DECODER, inputs).exec(decoupled=True)
        return filter(None, map(_tensors, responses))  # the last response may carry nothing


def _inner(model, inputs):
    names = [tensor.name for tensor in INNER_OUTPUTS[model]]
    tensors = [pb_utils.Tensor(name, array) for name, array in inputs.items()]
    return pb_utils.InferenceRequest(model_name=model, requested_output_names=names, inputs=tensors)


def _tensors(response):
    if response.has_error():
        raise from_inner_wire(response.error().message())
    return {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}


def _values(request):
    tensors = [(field.name, pb_utils.get_input_tensor_by_name(request, field.name)) for field in FIELDS]
    given = {name: tensor.as_numpy().reshape(-1)[0] for name, tensor in tensors if tensor is not None}
    return {name: value if isinstance(value, bytes) else value.item() for name, value in given.items()}


def _response(outputs):
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


def _failure(error):
    if not isinstance(error, SongstarterError):
        pb_utils.Logger.log_error(f"songstarter: {type(error).__name__}: {error}")
    code, message = to_wire(error)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))
