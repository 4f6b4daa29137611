"""A captured graph replays the work it has seen, on the memory it has seen, whatever it is asked: so ask right.

onnxruntime looks at a run's graph id alone. With inputs of another shape or at another address it would compute the old
result again and say nothing. It also keeps captured graphs for each thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from songstarter.errors import ReplayRefused
from songstarter.stages.places import Place


class ReplayGuard:
    """Remembers what each graph id was captured on."""

    def __init__(self) -> None:
        self._captured: dict[int, tuple[int, dict[str, Place]]] = {}

    def check(self, graph_id: int, places: Mapping[str, Place]) -> None:
        """Take note of a graph's first run.

        Raises:
            ReplayRefused: a later run is on other memory or other shapes, or comes from another thread.
        """
        thread, known = self._captured.setdefault(graph_id, (threading.get_ident(), dict(places)))
        if thread != threading.get_ident():
            raise ReplayRefused(f"graph {graph_id} was captured by another thread than the one that runs it now")
        if known != places:
            changed = sorted(name for name in known.keys() | places.keys() if known.get(name) != places.get(name))
            raise ReplayRefused(
                f"graph {graph_id} was captured on other memory than it is run on now: {', '.join(changed)} changed"
            )
