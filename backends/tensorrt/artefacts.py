"""Names of what is written, and the sidecar file that says where an engine came from."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sardonyx import ir
from sardonyx.backends.engine import EngineReport
from sardonyx.backends.tensorrt.settings import TARGETS

MODEL_NAME = "model.trt.onnx"
COMMANDS_NAME = "build-commands.txt"

FILES = (
    MODEL_NAME,
    f"{MODEL_NAME}.data",
    "model.*.engine",
    "model.*.engine.json",
    "model.*.engine.layers.json",
    COMMANDS_NAME,
)
"""What may lie in an output folder, as patterns of names."""


def engine_name(module: str, version: str, targets: Sequence[str]) -> str:
    """Returns `model.tensorrt_rtx-1.7.1.116-sm86-sm89.engine`.

    Engines run only with the module and the version that built them, on the targets that they were built for, so that
    the name says all three; without targets it is the builder's default set, or the GPU that it ran on.
    """
    return "-".join((f"model.{module}", version, *(TARGETS[each].lower() for each in targets))) + ".engine"


def write_sidecar(engine: Path, model: Path, report: EngineReport) -> Path:
    """Writes what an engine was built from, by and for, with the hashes of both files, beside it as JSON.

    Times and memory of the build are left out: the same build gives the same file. So is the table of layers, which
    the record holds.
    """
    facts = asdict(report)
    for elsewhere in ("seconds", "peak_rss_bytes", "layers", "layers_source"):
        del facts[elsewhere]
    facts |= {
        "engine": {"file": engine.name, "sha256": ir.file_sha256(engine)},
        "model": {"file": model.name, "sha256": ir.file_sha256(model)},
    }
    path = engine.with_name(f"{engine.name}.json")
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return path


def write_information(engine: Path, text: str) -> Path:
    """Writes what the inspector of an engine told, as it told it, beside the engine."""
    path = engine.with_name(f"{engine.name}.layers.json")
    path.write_text(text, encoding="utf-8")
    return path


def write_commands(folder: Path, report: EngineReport) -> Path:
    """Writes the command lines that build the engine elsewhere."""
    lines = []
    for tool, command in report.commands.items():
        lines += [f"# {tool}", command, ""]
    path = folder / COMMANDS_NAME
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
