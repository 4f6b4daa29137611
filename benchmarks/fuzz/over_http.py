"""Cases for the HTTP port: raw bytes, broken JSON, odd requests, broken binary tensors, odd paths."""

from __future__ import annotations

import http.client
import json
import socket
from random import Random

from benchmarks.fuzz.material import MODELS, PUBLIC, damaged, noise, odd_json, odd_value, right_json
from benchmarks.fuzz.target import PATIENCE, Outcome, Target
from songstarter.contract import PUBLIC_MODEL

UNFRAMED_PATIENCE = 0.3  # seconds: who sends half a message is owed no answer
VERBS = ("infer", "generate", "generate_stream", "ready", "stats", "config", "versions/1/infer", "load", "")
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW")
ROOTS = (
    "/v2",
    "/v2/health/ready",
    "/v2/models",
    "/v2/repository/index",
    "/v2/logging",
    "/v2/systemsharedmemory/status",
)


def raw_bytes(random: Random, target: Target) -> Outcome:
    """A message that is damaged where HTTP itself is concerned."""
    body = right_json(random)
    length = random.choice((len(body), len(body) + 7, -1, 2**63, "many"))
    lines = [
        f"POST /v2/models/{PUBLIC_MODEL}/{random.choice(VERBS)} HTTP/{random.choice(('1.1', '1.0', '9.9', ''))}",
        "Host: fuzz",
        f"Content-Length: {length}",
        random.choice(("", "Transfer-Encoding: chunked", "X: " + "y" * 9000, "Expect: 100-continue", "\0: \0")),
    ]
    message = "\r\n".join(lines).encode(errors="replace") + b"\r\n\r\n" + body
    data = random.choice((noise(random), damaged(random, message), message[: random.randrange(len(message))], message))
    return unframed(target.host, target.http, data)


def unframed(host: str, port: int, data: bytes) -> Outcome:
    """Send bytes and listen for a moment."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as connection:
            connection.settimeout(UNFRAMED_PATIENCE)
            connection.sendall(data)
            return "answered" if connection.recv(65_536) else "closed"
    except TimeoutError:
        return "unfinished"
    except OSError:
        return "closed"


def broken_json(random: Random, target: Target) -> Outcome:
    body = random.choice((damaged(random, right_json(random)), noise(random), json.dumps(odd_value(random)).encode()))
    return post(target, f"/v2/models/{random.choice(MODELS)}/{random.choice(VERBS[:3])}", body)


def odd_request(random: Random, target: Target) -> Outcome:
    return post(target, f"/v2/models/{random.choice(PUBLIC)}/{random.choice(VERBS[1:3])}", odd_json(random))


def odd_infer(random: Random, target: Target) -> Outcome:
    """The JSON of /infer, with names, shapes, types and data that don't fit."""
    inputs = [
        {
            "name": random.choice(("duration", "prompt", "seed", "prefix", "input_ids", "codes", "")),
            "shape": random.choice(([1], [0], [-1], [2, 2], [2**20, 2**20], [], "one", [1, 16])),
            "datatype": random.choice(("FP32", "INT64", "INT32", "BYTES", "BOOL", "FP64", "NOPE", 7)),
            "data": odd_value(random),
        }
        for _ in range(random.randint(0, 4))
    ]
    whole = {"inputs": inputs, "parameters": odd_value(random), "id": odd_value(random)}
    wanted = random.sample(sorted(whole), random.randint(1, 3))
    return post(target, f"/v2/models/{random.choice(MODELS)}/infer", json.dumps({k: whole[k] for k in wanted}).encode())


def broken_binary(random: Random, target: Target) -> Outcome:
    """Binary tensors whose sizes are not what the head says."""
    size = random.choice((4, 0, -1, 3, 2**31, 2**40))
    parameters = {"binary_data_size": size}
    tensor = {"name": "duration", "shape": [1], "datatype": random.choice(("FP32", "BYTES")), "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    body = random.choice((head, damaged(random, head))) + noise(random, 64)
    length = random.choice((len(head), len(head) - 1, 0, 2**31, -5, "x"))
    return post(target, f"/v2/models/{PUBLIC_MODEL}/infer", body, {"Inference-Header-Content-Length": str(length)})


def odd_path(random: Random, target: Target) -> Outcome:
    model = random.choice((*MODELS, "nobody", "%00", "..", "a" * 5000))
    path = random.choice((*ROOTS, f"/v2/models/{model}/{random.choice(VERBS)}", "/" + "%ff" * random.randrange(40)))
    return post(target, path, noise(random, 64), method=random.choice(METHODS))


def post(
    target: Target, path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST"
) -> Outcome:
    """A message that HTTP finds whole: it is owed an answer."""
    connection = http.client.HTTPConnection(target.host, target.http, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        answer.read()
        return "answered" if answer.status == http.client.OK else "refused"
    except TimeoutError:
        return "hung"
    except (OSError, http.client.HTTPException):
        return "closed"
    finally:
        connection.close()
