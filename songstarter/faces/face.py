"""The public model's work on one request: parse, condition, decode, render."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping, MutableMapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Checkpoint
from songstarter.chunks import LONGEST
from songstarter.contract import FIELDS, Field
from songstarter.errors import TakeFailed
from songstarter.faces.conditioning import Conditioner, Conditions, load_tokenizer
from songstarter.faces.rendering import Renderer
from songstarter.faces.stages import Stages, Tensors
from songstarter.faces.visits import Visit
from songstarter.request import Request


class Face:
    """Answers requests with files; it holds no state of any of them, so many may be under way at once."""

    def __init__(
        self,
        repository: Path,
        stages: Stages,
        *,
        fields: Sequence[Field] = FIELDS,
        max_duration: float = 300.0,
        max_audio_seconds: float = 600.0,
        codec_calls: float = 2,
    ) -> None:
        """Read the exported repository.

        Raises:
            CheckpointError: it is not complete.
        """
        self._checkpoint = Checkpoint.read(repository)
        self._stages = stages
        self._fields = fields
        self._max_duration = max_duration
        self._conditioner = Conditioner(
            self._checkpoint, load_tokenizer(repository), stages, max_audio_seconds=max_audio_seconds
        )
        self._renderer = Renderer(self._checkpoint, stages, codec_calls=int(codec_calls))

    def answer(self, values: MutableMapping[str, Any], visit: Visit) -> Generator[Tensors, None, None]:
        """The outputs of ``contract.OUTPUTS``, once, for plain values by the names of ``contract.FIELDS``.

        ``values`` are emptied: an upload must not stay in memory until its song is made. ``visit`` hears how far it is.

        Raises:
            SongstarterError: one of its leaves; InvalidRequest where the caller can mend it.
        """
        request, order = self.prepare(values, visit)
        frames = self._checkpoint.frames_in(request.duration)
        takes = [self._renderer.take(frames, request, visit) for _ in range(request.variations)]
        files: dict[int, bytes] = {}
        with closing(self._stages.decode(order)) as responses:
            for response in responses:
                variation = int(response["variation"].item())
                takes[variation].push(response["codes"])
                if takes[variation].complete:
                    files[variation] = takes[variation].file()
                    visit.rendered(frames / self._checkpoint.frames_per_second)
        if len(files) != request.variations:
            raise TakeFailed(f"the decoder sent {len(files)} takes of {request.variations}")
        yield {
            "output": np.array([files[variation] for variation in sorted(files)], dtype=object),
            "seed": np.array([request.seed], np.int64),
            "sample_rate": np.array([self._checkpoint.sample_rate], np.int32),
        }

    def prepare(self, values: MutableMapping[str, Any], visit: Visit) -> tuple[Request, dict[str, Array]]:
        """Parse and condition: the request without its audio, which was heard, and its order of the decoder
        (``contract.ORDER``), each take in chunks that are runs of the codec. ``values`` are emptied.

        Raises:
            SongstarterError: as ``answer``.
        """
        request = self._parse(values)
        values.clear()
        visit.understood(request)
        order = self._order(request, self._conditioner.condition(request, visit))
        heard = replace(request, audio=None)
        visit.understood(heard)
        return heard, order

    def _parse(self, values: Mapping[str, Any]) -> Request:
        one_frame = 1 / self._checkpoint.frames_per_second
        return Request.parse(values, shortest=one_frame, longest=self._max_duration, fields=self._fields)

    def _order(self, request: Request, conditions: Conditions) -> dict[str, Array]:
        sampling = request.sampling
        frames = self._checkpoint.frames_in(request.duration)
        order = {
            "prefix": conditions.prefix,
            "null_prefix": conditions.null_prefix,
            "frames": np.array([frames], np.int32),
            "variations": np.array([request.variations], np.int32),
            "seed": np.array([request.seed], np.int64),
            "temperature": np.array([sampling.temperature], np.float32),
            "top_k": np.array([sampling.top_k], np.int32),
            "top_p": np.array([sampling.top_p], np.float32),
            "guidance": np.array([sampling.guidance], np.float32),
            "priority": np.array([request.priority], np.int32),
            "first_chunk": np.array([LONGEST], np.int32),
            "chunk": np.array([LONGEST], np.int32),
            "order": np.array([secrets.token_hex(8).encode()], dtype=object),
        }
        return order if conditions.opening is None else order | {"opening": conditions.opening.astype(np.int32)}
