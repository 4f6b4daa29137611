"""What installing the package does besides copying files: compile what is in C, where there is a compiler."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILE = Path(__file__).parent / "songstarter" / "stages" / "native" / "compile.py"


class CompileDecoder(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled libraries into the wheel, which is then one for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        native = _load(COMPILE)
        try:
            libraries = native.compile_all()
        except native.CannotCompile as reason:
            self.app.display_warning(f"without anything in C, the ONNX graphs will run instead: {reason}")
            return
        build_data["tag"] = "py3-none-linux_x86_64"
        build_data["artifacts"] += [str(path.relative_to(self.root)) for path in libraries]


def _load(path: Path) -> Any:
    """The module by its file: the package is not installed yet, and importing it would take what it depends on."""
    spec = importlib.util.spec_from_file_location("compile_decoder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
