"""Exports as they lie in a folder: one sub-folder each, read without torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Exporter = Literal["torchscript", "dynamo"]


@dataclass(frozen=True)
class Variant:
    """One way to export.

    Attributes:
        exporter: `torchscript` traces and writes operators one by one; `dynamo` is the newer exporter.
        opset: The opset asked for.
    """

    exporter: Exporter
    opset: int

    def __str__(self) -> str:
        return f"{self.exporter}-{self.opset}"


VARIANTS: tuple[Variant, ...] = (
    Variant("torchscript", 11),
    Variant("torchscript", 14),
    Variant("torchscript", 17),
    Variant("dynamo", 18),
    Variant("dynamo", 23),
)


@dataclass(frozen=True)
class Export:
    """An architecture exported, or not.

    Attributes:
        name: ARCHITECTURE-EXPORTER-OPSET, also the name of its folder.
        folder: Holds `model.onnx` and `feeds_0.npz`, `feeds_1.npz`, ...: one a set of sizes.
        error: What the exporter raised; empty where it did its work.
    """

    name: str
    folder: Path
    error: str = ""

    @property
    def model(self) -> Path:
        """The exported file."""
        return self.folder / "model.onnx"

    def feeds(self) -> list[dict[str, Any]]:
        """Reads the feeds, one a set of sizes."""
        found = []
        for path in sorted(self.folder.glob("feeds_*.npz")):
            with np.load(path) as arrays:
                found.append({name: arrays[name] for name in arrays.files})
        return found


def exports_in(folder: Path) -> Iterator[Export]:
    """Yields the exports that a folder holds, failed ones included, by name."""
    for path in sorted(folder.iterdir()):
        error = path / "error.txt"
        if error.exists() or (path / "model.onnx").exists():
            yield Export(path.name, path, error.read_text(encoding="utf-8") if error.exists() else "")
