"""A model repository around a decoder of true dimensions and random weights, to be served and loaded.

    python -m benchmarks.repository --size small --codec true --precision int8_kv8 --into build/bench/served
    songstarter bench --serve build/bench/served --bare build/bench/served --concurrency 1,8

The text encoder is tiny, and so is the codec, if not asked for otherwise: then what is measured is the decoder and the
way to it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from benchmarks.exported import CODECS, make_weights
from benchmarks.shapes import SIZES
from export.checkpoints.loaded import save
from export.exporter import Export, export
from songstarter.checkpoint import Precision


@contextmanager
def _told(name: str) -> Iterator[None]:
    print(name, flush=True)
    yield


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repository", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--codec", choices=CODECS, default="tiny")
    parser.add_argument("--precision", choices=get_args(Precision), default="int8_kv8")
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="songstarter-") as folder:
        save(make_weights(SIZES[arguments.size], arguments.codec), Path(folder))
        export(Export(folder, arguments.precision), arguments.into, _told)


if __name__ == "__main__":
    main()
