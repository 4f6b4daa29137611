"""What the two public models have in common: Triton's verbs, carried to a request desk.

``pb_utils`` can be imported by the model's own file alone, which brings it in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from songstarter.errors import SongstarterError
from songstarter.faces.desk import Answering, Replying, RequestDesk
from songstarter.faces.triton import TritonStages, origin_of, settings_of, values_of
from songstarter.publisher import Publisher


class PublicModel:
    """Hands requests to the desk and returns, so that one instance holds many at once.

    ``face`` does a model's work and ``reply`` is the way back to a caller.
    """

    pb_utils: ClassVar[Any]
    face: ClassVar[Callable[..., Answering]]
    reply: ClassVar[Callable[..., Replying]]

    def initialize(self, args: Mapping[str, str]) -> None:
        self._stages = stages = TritonStages(self.pb_utils)
        try:
            settings = settings_of(args)
            limit = int(settings.pop("max_requests"))
            face = type(self).face(Path(args["model_repository"]).parent, stages, **settings)
        except SongstarterError as error:
            raise self.pb_utils.TritonModelException(str(error)) from error
        self._desk = RequestDesk(face, limit=limit, cancel=stages.cancel)
        self._publisher = Publisher(self._desk.readings, self.pb_utils.MetricFamily)
        self._publisher.start()

    def execute(self, requests: Sequence[Any]) -> Any:
        for request in requests:
            reply = type(self).reply(self.pb_utils, request)
            self._desk.accept(partial(values_of, request), reply, **origin_of(request))
        return None

    def finalize(self) -> None:
        self._desk.close()
        self._publisher.stop()
        self._stages.close()
