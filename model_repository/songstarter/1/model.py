"""Triton's verbs for the public model: songstarter.faces does the work, this file carries requests in."""

from functools import partial
from pathlib import Path

import triton_python_backend_utils as pb_utils

from songstarter.errors import SongstarterError
from songstarter.faces.desk import RequestDesk
from songstarter.faces.face import Face
from songstarter.faces.triton import Reply, TritonStages, origin_of, settings_of, values_of
from songstarter.publisher import Publisher


class TritonPythonModel:
    """Answers late: execute() hands requests to the desk and returns, so one instance holds many at once."""

    def initialize(self, args):
        settings = settings_of(args)
        limit = int(settings.pop("max_requests"))
        self._stages = stages = TritonStages(pb_utils)
        try:
            face = Face(Path(args["model_repository"]).parent, stages, **settings)
        except SongstarterError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._desk = RequestDesk(face, limit=limit, cancel=stages.cancel)
        self._publisher = Publisher(self._desk.readings, pb_utils.MetricFamily)
        self._publisher.start()

    def execute(self, requests):
        for request in requests:
            self._desk.accept(partial(values_of, request), Reply(pb_utils, request), **origin_of(request))
        return [None] * len(requests)

    def finalize(self):
        self._desk.close()
        self._publisher.stop()
        self._stages.close()
