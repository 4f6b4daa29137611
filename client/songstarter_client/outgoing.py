"""A request on its way to a server: its tensors, and what is said beside them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from songstarter import contract
from songstarter.contract import Field
from songstarter.request import MAX_DEADLINE
from songstarter_client.fields import InputTensor, checked, input_tensors

# The fields of ``fields.Handling``.
PRIORITY = Field("priority", "INT32", None, "place among the requests that wait, 1 (first) to 5; 3 if nothing is said")
DEADLINE = Field(
    "deadline",
    "FP32",
    None,
    "seconds after which the server gives the request up (a whole song over http: the timeout)",
)
REQUEST_ID = Field("request_id", "STRING", None, "by which the server's log names it; otherwise one is made for it")
HANDLING = (PRIORITY, DEADLINE, REQUEST_ID)

PARAMETERS = {PRIORITY: "songstarter_priority", DEADLINE: "deadline"}  # by Triton's names: it keeps ``priority``


@dataclass(frozen=True)
class Outgoing:
    """What one request says. Sent again, it has the same id."""

    tensors: tuple[InputTensor, ...]
    parameters: Mapping[str, Any]
    request_id: str

    @classmethod
    def of(cls, prompt: str | None, given: Mapping[str, object], fields: Sequence[Field] = contract.FIELDS) -> Outgoing:
        """The request for the given values by the names of ``fields`` and of ``HANDLING``."""
        beside = {field.name for field in HANDLING}
        inputs = {name: value for name, value in given.items() if name not in beside}
        parameters = {
            wire: checked(field, given[field.name])
            for field, wire in PARAMETERS.items()
            if given.get(field.name) is not None
        }
        request_id = given.get(REQUEST_ID.name)
        named = checked(REQUEST_ID, request_id).decode() if request_id else secrets.token_hex(8)
        return cls(input_tensors(prompt, inputs, fields), parameters, named)

    def given_up_after(self, seconds: float) -> Outgoing:
        """The same with a deadline, unless it has one."""
        return replace(self, parameters={PARAMETERS[DEADLINE]: min(seconds, MAX_DEADLINE), **self.parameters})
