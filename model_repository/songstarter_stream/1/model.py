"""Triton's verbs for the streaming public model: songstarter.faces does the work."""

import triton_python_backend_utils as pb_utils

from songstarter.faces.public_model import PublicModel
from songstarter.faces.streaming import StreamFace
from songstarter.faces.triton import StreamReply


class TritonPythonModel(PublicModel):
    """Decoupled: a request is answered by many messages, from a thread of its own, after execute() has returned."""

    pb_utils, face, reply = pb_utils, StreamFace, StreamReply
