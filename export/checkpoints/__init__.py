"""Where checkpoints come from: transformers folders, audiocraft folders, and the embedded one."""

from export.checkpoints.embedded import make_checkpoint
from export.checkpoints.loaded import Loaded, save
from export.checkpoints.sources import load

__all__ = ["Loaded", "load", "make_checkpoint", "save"]
