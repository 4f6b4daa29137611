"""A stand-in for the public model, for the client's own tests: it answers with what it received.

Every answer is a real WAV file whose samples are the JSON text of the inputs. Some prompts misbehave on purpose.
"""

import base64
import hashlib
import io
import json
import threading
import time
import wave

import numpy as np
import triton_python_backend_utils as pb_utils

SAMPLE_RATE = 32000
SLOW_SECONDS = 6.0


class TritonPythonModel:
    def initialize(self, args):
        self.names = [tensor["name"] for tensor in json.loads(args["model_config"])["input"]]
        self.attempts = {}
        self.cancelled = []

    def execute(self, requests):
        for request in requests:
            received = {name: tensor for name in self.names if (tensor := _tensor(request, name)) is not None}
            beside = {"id": request.request_id(), "parameters": json.loads(request.parameters() or "{}")}
            sender = request.get_response_sender()
            threading.Thread(target=self._answer, args=(received, beside, sender), daemon=True).start()
        return [None] * len(requests)

    def _answer(self, received, beside, sender):
        try:
            response = pb_utils.InferenceResponse(self._outputs(received, beside, sender))
        except pb_utils.TritonModelException as refusal:
            response = pb_utils.InferenceResponse(error=refusal.args[0])
        except Exception as problem:
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(repr(problem)))
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _outputs(self, received, beside, sender):
        prompt = _value(received, "prompt", b"").decode()
        seed = _value(received, "seed", -1)
        self._misbehave(prompt, seed, sender)
        if (duration := _value(received, "duration", 8.0)) <= 0:
            raise _refusal(f"duration: found {duration}, allowed is above 0 up to 30", "INVALID_ARG")
        padding = int(duration * SAMPLE_RATE) * 4 if prompt == "big" else 0
        count = _value(received, "num_outputs", 4)
        counts = {"cancelled": len(self.cancelled), "attempts": self.attempts[seed]}
        echo = {"inputs": _described(received), **beside, **counts}
        files = [_wav({"variation": i, **echo}, padding) for i in range(count)]
        if _value(received, "output_encoding", b"data_uri") != b"raw":
            files = [b"data:audio/wav;base64," + base64.b64encode(file) for file in files]
        return [
            pb_utils.Tensor("output", np.array(files, dtype=np.object_)),
            pb_utils.Tensor("seed", np.array([7 if seed == -1 else seed], dtype=np.int64)),
            pb_utils.Tensor("sample_rate", np.array([SAMPLE_RATE], dtype=np.int32)),
        ]

    def _misbehave(self, prompt, seed, sender):
        self.attempts[seed] = self.attempts.get(seed, 0) + 1
        if prompt == "busy" or (prompt == "busy twice" and self.attempts[seed] <= 2):
            raise _refusal("the service is full: 16 takes are being made, 64 wait", "UNAVAILABLE")
        if prompt == "late":
            raise _refusal("the deadline of 1.5 s has passed", "UNAVAILABLE")
        if prompt == "broken":
            raise _refusal("variation 1 could not be finished", "INTERNAL")
        if prompt == "gone":
            raise _refusal("the caller went away", "CANCELLED")
        deadline = time.monotonic() + (SLOW_SECONDS if prompt == "slow" else 0.0)
        while time.monotonic() < deadline and not sender.is_cancelled():
            time.sleep(0.05)
        if sender.is_cancelled():
            self.cancelled.append(prompt)


def _tensor(request, name):
    return pb_utils.get_input_tensor_by_name(request, name)


def _refusal(message, code):
    return pb_utils.TritonModelException(pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))


def _value(received, name, default):
    return received[name].as_numpy()[0] if name in received else default


def _described(received):
    arrays = {name: tensor.as_numpy() for name, tensor in received.items()}
    return {name: [str(a.dtype), list(a.shape), _shown(a[0])] for name, a in arrays.items()}


def _shown(value):
    """A value as JSON: text as it is, other bytes by their length and digest."""
    if not isinstance(value, bytes):
        return value.item()
    if b"\x00" in value:
        return [len(value), hashlib.sha256(value).hexdigest()]
    return value.decode()


def _wav(echo, padding):
    text = json.dumps(echo).encode()
    samples = text.ljust(-(-max(len(text), padding) // 4) * 4)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples)
    return file.getvalue()
