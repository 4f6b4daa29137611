"""A stand-in for the streaming model, for the client's own tests: three chunks, or what the prompt asks for."""

import base64
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
AUDIO = {"raw": (b"RIFF", b"\x00\xff\n\n", b"end"), "base64": (b"UklGRg==", b"AP8KCg==", b"ZW5k")}
BEATS = 40  # a tenth of a second each


class TritonPythonModel:
    def initialize(self, args):
        self.attempts = 0
        self.cancelled = 0

    def execute(self, requests):
        for request in requests:
            values = {tensor.name(): tensor.as_numpy()[0] for tensor in request.inputs()}
            threading.Thread(target=self._answer, args=(values, request.get_response_sender()), daemon=True).start()

    def _answer(self, values, sender):
        prompt = values.get("prompt", b"").decode()
        if refusal := self._refusal(prompt):
            return self._fail(sender, refusal)
        begin, middle, end = AUDIO[values.get("output_encoding", b"base64").decode()]
        if prompt == "which format?":
            sender.send(self._message(self._format(values), 0, 3.0, values, last=True))
            return sender.send(flags=FINAL)
        variations = range(values.get("num_outputs", 1))
        for variation in variations:
            sender.send(self._message(begin, variation, 1.0, values))
        if failure := self._misbehave(prompt, sender, values):
            return self._fail(sender, failure)
        for variation in variations:
            sender.send(self._message(middle, variation, 2.0, values))
            if prompt != "short":
                sender.send(self._message(end, variation, 3.0, values, last=True))
        return sender.send(flags=FINAL)

    def _format(self, values):
        said = values.get("output_format", b"none")
        return said if values.get("output_encoding") == b"raw" else base64.b64encode(said)

    def _refusal(self, prompt):
        self.attempts += prompt == "busy twice"
        if prompt == "busy" or (prompt == "busy twice" and self.attempts <= 2):
            return "UNAVAILABLE: the service is full"
        return "INVALID_ARG: duration: found 99, allowed is 8" if prompt == "refused" else None

    def _misbehave(self, prompt, sender, values):
        if prompt == "breaks":
            return "INTERNAL: variation 1 could not be finished"
        time.sleep(2 if prompt == "silent" else 0)
        for _ in range(BEATS if prompt == "slow" else 0):
            time.sleep(0.1)
            if sender.is_cancelled():
                self.cancelled += 1
                return "CANCELLED: the caller is gone"
            sender.send(self._message(b"", 0, 1.0, values))
        return None

    def _fail(self, sender, message):
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message)), flags=FINAL)

    def _message(self, audio, variation, seconds, values, last=False):
        tensors = {
            "audio": np.array([audio], dtype=object),
            "variation": np.array([variation], np.int32),
            "seconds": np.array([seconds], np.float32),
            "total_seconds": np.array([3.0], np.float32),
            "gain": np.array([float(self.cancelled)], np.float32),  # by which a test learns of it
            "last": np.array([last]),
            "seed": np.array([values.get("seed", 7)], np.int64),
            "sample_rate": np.array([32000], np.int32),
            "channels": np.array([2], np.int32),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])
