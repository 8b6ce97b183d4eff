"""Bisecting two models into a folder that anyone can run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx import ir
from sardonyx.diff.bisect import Bisection, bisect
from sardonyx.diff.matching import match
from sardonyx.diff.measuring import DriftOptions
from sardonyx.driver.output import replaced_folder, require_writable
from sardonyx.ir.tensor_file import write_tensor
from sardonyx.measure import Samples

COMMAND = "sardonyx verify before.onnx after.onnx --data ."
BISECTION_NAME = "bisection.json"


@dataclass(frozen=True)
class BisectJob:
    """What to bisect.

    Attributes:
        before: File of the first model.
        after: File of the second.
        samples: Feeds of the first model.
        output: Folder to write.
        options: How to compare.
    """

    before: Path
    after: Path
    samples: Samples
    output: Path
    options: DriftOptions = field(default_factory=DriftOptions)


def run_bisect(job: BisectJob) -> Bisection | None:
    """Writes the smallest parts of two models that still show their difference.

    The folder holds `before.onnx` and `after.onnx` with the same inputs and one output, the inputs as `sample.npz` and,
    with the first model's output, as `test_data_set_0`; the place, its errors and where the parts are from as
    `bisection.json`; and `README.md`, which says how to run them.

    Returns:
        What was found; None where the models compute the same, and nothing is written.

    Raises:
        UsageError: If a model or the samples cannot be used, or the folder cannot be written.
        BackendError: If the runtime refuses one of the models.
    """
    require_writable(job.output, job.before)
    before, after = ir.load(job.before, opset=None).model, ir.load(job.after, opset=None).model
    found = bisect(before, after, match(before, after), job.samples, job.options)
    if found is not None:
        with replaced_folder(job.output) as folder:
            _write(found, job, folder)
    return found


def _write(found: Bisection, job: BisectJob, folder: Path) -> None:
    part = found.part
    ir.save(part.before, folder / "before.onnx")
    ir.save(part.after, folder / "after.onnx")
    data = folder / "test_data_set_0"
    data.mkdir()
    names = [value.name or "" for value in part.before.graph.inputs]
    for index, name in enumerate(names):
        write_tensor(data / f"input_{index}.pb", name, part.feed[name])
    write_tensor(data / "output_0.pb", part.before.graph.outputs[0].name or "", found.expected)
    arrays: dict[str, Any] = {name: part.feed[name] for name in names}
    np.savez(folder / "sample.npz", **arrays)
    facts = {
        "version": 1,
        "before": str(job.before),
        "after": str(job.after),
        "samples": job.samples.what,
        "place": found.place.model_dump(mode="json"),
        "error": found.error.model_dump(mode="json"),
    }
    (folder / BISECTION_NAME).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(found, job), encoding="utf-8")


def _readme(found: Bisection, job: BisectJob) -> str:
    part, place = found.part, found.place
    nodes = [
        f"- {side}: {', '.join(f'`{entry.name}` ({entry.op_type})' for entry in entries) or 'no node'}"
        for side, entries in (("before", place.before_nodes), ("after", place.after_nodes))
    ]
    other = "" if place.before == place.after else f", called `{place.after}` in the second model"
    relative = "not comparable" if found.error.relative is None else f"{found.error.relative:.3g}"
    lines = [
        f"# Where {job.before.name} and {job.after.name} part",
        "",
        f"At `{place.before}`{other}; relative error of these parts: {relative}.",
        "",
        *nodes,
        "",
        f"`before.onnx` has {ir.num_nodes(part.before)} nodes, `after.onnx` {ir.num_nodes(part.after)}. Both take",
        "`sample.npz`, which is what the first model computes there; `test_data_set_0` holds the same for other tools.",
        "",
        f"    {COMMAND}",
        "",
    ]
    return "\n".join(lines)
