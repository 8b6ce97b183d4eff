"""Benchmarks are not run by the check, but each must at least import: what they use may have moved."""

from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_benchmarks_import(name: str) -> None:
    module = import_module(f"benchmarks.{name}")
    assert callable(getattr(module, "main", None)) or "__main__" not in (FOLDER / f"{name}.py").read_text(
        encoding="utf-8"
    )
