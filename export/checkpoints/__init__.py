"""Where checkpoints come from: transformers folders, audiocraft folders, and the embedded one."""

from export.checkpoints.loaded import Loaded, save
from export.checkpoints.sources import load
from export.checkpoints.tiny import make_checkpoint

__all__ = ["Loaded", "load", "make_checkpoint", "save"]
