"""Models of one's own: a folder with `model.onnx` beside `eval.py`, which has `calib()` and `evaluate(run)`."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def load_eval(folder: Path) -> ModuleType:
    """Imports the `eval.py` of a model's folder; what it imports is also looked for beside the folder."""
    source = folder / "eval.py"
    spec = spec_from_file_location(f"task_{folder.name}", source)
    if not source.is_file() or spec is None or spec.loader is None:
        raise SystemExit(f"{source} is missing")
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
