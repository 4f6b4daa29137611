"""The type of every array; shapes and element types stand in docstrings, where they can be named."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
