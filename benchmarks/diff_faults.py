"""Injects one fault in random places of models and looks whether the drift names the node.

    python -m benchmarks.diff_faults [FOLDER] [--faults 30] [--seed 0] [--only NAME ...] [--work FOLDER]
    python -m benchmarks.diff_faults FOLDER --peak NAME      # peak memory of comparing a model with one of its faults

A FOLDER holds `NAME/model.onnx` beside `NAME/eval.py` with `calib()`; the shipped models take part as well. Models are
compared in four settings: as they are, optimized, quantized, and optimized with quantized; the second model
of a pair always has the fault, and other names for all but its inputs and outputs. A fault that changes no output by
more than `VISIBLE` is drawn again.

- scale: a scale of a quantized model times 4 or 1/4
- weight: one output channel of a weight with the other sign
- input: two inputs of a node exchanged, or one replaced by another value of the same type and shape, but for the
  value that it is rounded from or to: a node that goes without rounding has no fault

A fault is named right when the node that has it (that reads the scale, the weight or the input) is among the nodes of
the first place that parts; the table says how many nodes that place names. Where another node does the same with the
same operands, and the same is done with its result, the faulty model is the same whichever of both has the fault:
either is right.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sardonyx import ir, models
from sardonyx.backends import backend
from sardonyx.diff.drift import drift
from sardonyx.diff.matching import match
from sardonyx.diff.quantities import rounded_forms, unrounded_form
from sardonyx.diff.view import COMMUTATIVE, attribute_text
from sardonyx.errors import SardonyxError
from sardonyx.measure import (
    ErrorAccumulator,
    Samples,
    Session,
    SessionOptions,
    describe_machine,
    load_samples,
    measure_peak,
)
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.methods.presets import ModelKind, model_kind
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline

SAMPLES = 2
VISIBLE = 1e-3
CALIBRATION = 16
SETTINGS = ("original", "optimized", "quantized", "optimized to quantized")
KINDS = ("weight", "input", "scale")
Rng = np.random.Generator
Fault = tuple[str, frozenset[int]]
"""What was done, and the places in the main graph of the nodes that have it."""


@dataclass(frozen=True)
class Subject:
    """A model with samples."""

    name: str
    path: Path
    samples: Samples


def subjects(folder: Path | None, only: Sequence[str]) -> Iterator[Subject]:
    """The shipped models, then those of a folder."""
    for name in ("digits_cnn", "digits_transformer"):
        entry = models.load(name)
        yield Subject(name, Path(entry.path), load_samples(entry.samples))
    if folder is not None:
        sys.path.insert(0, str(folder))
        for path in sorted(folder.glob("*/model.onnx")):
            if not only or path.parent.name in only:
                yield Subject(path.parent.name, path, load_samples(f"{path.parent.name}.eval:calib"))


def first_samples(samples: Samples, count: int) -> Samples:
    """The first few, kept."""
    return load_samples([dict(feed) for feed in itertools.islice(samples, count)])


def forms(subject: Subject, work: Path) -> dict[str, ir.Model]:
    """The original, the optimized and the quantized model."""
    found = {"original": ir.load(subject.path).model}
    context = PassContext(backend("onnxruntime").capabilities(describe_machine()))
    passes = parse_pipeline(Recipe().optimize, available_passes())
    found["optimized"] = PassManager(passes, context=context).run(ir.load(subject.path).model).model
    kept = work / f"{subject.name}.onnx"
    if not kept.exists():
        calibration = first_samples(subject.samples, CALIBRATION)
        ir.save(quantized(found["optimized"], calibration, context), kept)
    found["quantized"] = ir.load(kept).model
    return found


def quantized(model: ir.Model, samples: Samples, context: PassContext) -> ir.Model:
    """Dynamic for transformers, static for others, and nothing equalized before.

    Equalized weights differ from the original's by design, so the first place where such a pair parts is no fault.
    """
    text = "quantize-dynamic" if model_kind(model) is ModelKind.TRANSFORMER else "quantize-static"
    passes = parse_pipeline(text, available_passes())
    return PassManager(passes, context=replace(context, samples=samples)).run(ir.clone(model)).model


def wrong_scale(model: ir.Model, rng: Rng) -> Fault | None:
    """A scale times 4 or 1/4."""
    places = {node: index for index, node in enumerate(model.graph)}
    scales = [
        value
        for value in model.graph.initializers.values()
        if any(use.node.op_type in ("QuantizeLinear", "DequantizeLinear") and use.idx == 1 for use in value.uses())
    ]
    if not scales:
        return None
    value = scales[rng.integers(len(scales))]
    factor = (4.0, 0.25)[rng.integers(2)]
    array = ir.read_array(_tensor(value))
    value.const_value = ir.tensor((array * factor).astype(array.dtype), name=value.name)
    return f"{value.name} x {factor}", frozenset(places[use.node] for use in value.uses())


def wrong_weight(model: ir.Model, rng: Rng) -> Fault | None:
    """One output channel with the other sign."""
    places = {node: index for index, node in enumerate(model.graph)}
    weights = [
        value
        for value in model.graph.initializers.values()
        if value.const_value is not None and len(value.const_value.shape) >= 2 and value.const_value.size > 8
        if all(use.node in places for use in value.uses())
    ]
    if not weights:
        return None
    value = weights[rng.integers(len(weights))]
    array = np.array(ir.read_array(_tensor(value)))
    axis = 0 if any(use.node.op_type == "Conv" for use in value.uses()) else array.ndim - 1
    channel = [slice(None)] * array.ndim
    index = int(rng.integers(array.shape[axis]))
    channel[axis] = slice(index, index + 1)
    middle = 256 if array.dtype == np.uint8 else 0
    part = array[tuple(channel)].astype(np.float64)
    array[tuple(channel)] = np.clip(middle - part, *_limits(array.dtype)).astype(array.dtype)
    value.const_value = ir.tensor(array, name=value.name)
    return f"{value.name}[{index}]", frozenset(places[use.node] for use in value.uses())


def wrong_input(model: ir.Model, rng: Rng) -> Fault | None:
    """Two inputs exchanged, or one replaced by an earlier value of the same type and shape."""
    nodes = list(model.graph)
    for place in rng.permutation(len(nodes)):
        node = nodes[int(place)]
        inputs = [v for v in node.inputs if v is not None and v.const_value is None and _kind(v)]
        earlier = [v for other in nodes[: int(place)] for v in other.outputs]
        for value in inputs:
            swapped = [v for v in inputs if v is not value and _kind(v) == _kind(value)]
            same = {value, unrounded_form(value), *rounded_forms(value)}
            others = swapped or [v for v in earlier if v not in node.inputs and _kind(v) == _kind(value)]
            others = [v for v in others if v not in same]
            if not others or (swapped and node.op_type in ("Add", "Mul")):
                continue
            other = others[rng.integers(len(others))]
            index = node.inputs.index(value)
            if swapped:
                node.replace_input_with(node.inputs.index(other), value)
            node.replace_input_with(index, other)
            return f"{node.name} reads {other.name}", frozenset((int(place),))
    return None


def interchangeable(model: ir.Model, places: frozenset[int]) -> frozenset[int]:
    """Places in the main graph, with those of nodes that do the same and of which the same is made."""
    nodes = list(model.graph)
    known = {_done(nodes[place]) for place in places}
    return places | {place for place, node in enumerate(nodes) if _done(node) in known}


def _done(node: ir.Node) -> object:
    """What a node does with which operands, and what is done with its results."""
    uses = [
        sorted((id(use.node), -1 if use.node.op_type in COMMUTATIVE else use.idx) for use in value.uses())
        for value in node.outputs
    ]
    attributes = sorted((name, attribute_text(attr)) for name, attr in node.attributes.items())
    return node.domain, node.op_type, str(attributes), tuple(map(id, node.inputs)), str(uses)


FAULTS: Mapping[str, Callable[[ir.Model, Rng], Fault | None]] = {
    "scale": wrong_scale,
    "weight": wrong_weight,
    "input": wrong_input,
}


def _kind(value: ir.Value) -> tuple[str, tuple[int, ...]] | None:
    """Type and shape of a float value, where known and not a scalar."""
    if value.dtype is None or not value.dtype.is_floating_point() or value.shape is None:
        return None
    dims = tuple(str(dim) for dim in value.shape)
    return (value.dtype.name, dims) if dims and not all(dim == "1" for dim in dims) else None  # type: ignore[return-value]


def _limits(dtype: "np.dtype[np.generic]") -> tuple[float, float]:
    info = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return float(info.min), float(info.max)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def hide_names(model: ir.Model, rng: Rng) -> None:
    """Gives everything but inputs and outputs other names, and forgets where nodes came from."""
    interface = {*model.graph.inputs, *model.graph.outputs}
    values = [v for graph in ir.all_graphs(model) for v in ir.graph_values(graph) if v not in interface]
    for value, number in zip(values, rng.permutation(len(values)), strict=True):
        value.name = f"value_{number}"
    nodes = [node for graph in ir.all_graphs(model) for node in graph]
    for node, number in zip(nodes, rng.permutation(len(nodes)), strict=True):
        node.name = f"node_{number}"
        node.metadata_props.clear()


def visible(sound: ir.Model, faulty: ir.Model, samples: Samples, work: Path) -> float:
    """How much the outputs change, relative to what they are."""
    names = [value.name or "" for value in sound.graph.outputs]
    errors = ErrorAccumulator(names)
    results = []
    for model, path in ((sound, work / "sound.onnx"), (faulty, work / "faulty.onnx")):
        ir.save(ir.clone(model), path, external_data=False)
        with Session(path, options=SessionOptions(optimization="disabled")) as session:
            results.append([session.run(feed, names) for feed in samples])
    for a, b in zip(*results, strict=True):
        errors.update(a, b)
    found = errors.result()
    return max(float("inf") if e.nonfinite else 0.0 if e.equal else 10 ** (-e.sqnr_db / 20) for e in found)


def faulty_copy(model: ir.Model, kind: str, samples: Samples, rng: Rng, work: Path) -> tuple[ir.Model, Fault] | None:
    """A copy with one fault that shows."""
    for _ in range(20):
        copy = ir.clone(model)
        fault = FAULTS[kind](copy, rng)
        if fault is None:
            return None
        try:
            if visible(model, copy, samples, work) > VISIBLE:
                hide_names(copy, rng)
                return copy, fault
        except SardonyxError:
            continue  # the runtime sees the fault itself
    return None


def trial(subject: Subject, setting: str, kind: str, rng: Rng, work: Path) -> bool | None:
    """One fault; None where the model has no place for it."""
    built = forms(subject, work)
    samples = first_samples(subject.samples.named_for(_specs(subject.path)), SAMPLES)
    before, form = built[setting.split()[0]], setting.split()[-1]
    changed = faulty_copy(built[form], kind, samples, rng, work)
    if changed is None:
        return None
    after, (what, nodes) = changed
    start = time.perf_counter()
    result = drift(before, after, match(before, after), samples)
    seconds = time.perf_counter() - start
    found = None if result.first is None else result.places[result.first]
    named = () if found is None else tuple(entry.index for entry in found.after_nodes)
    right = bool(interchangeable(after, nodes) & set(named))
    shown = "nothing parts" if found is None else "+".join(entry.op_type for entry in found.after_nodes)
    verdict = "right" if right else "WRONG"
    print(f"{verdict} {subject.name:19} {setting:22} {kind:7} {len(named):2} nodes {seconds:6.1f} s  {what} -> {shown}")
    if not right:
        wanted = [node.op_type for index, node in enumerate(after.graph) if index in nodes]
        print(f"      wanted {wanted}, first {found and (found.before, found.local and found.local.relative)}")
    sys.stdout.flush()
    return right


def _specs(path: Path) -> tuple[object, ...]:
    with Session(path) as session:
        return session.inputs


def compare_with_fault(folder: str, name: str) -> None:
    """Compares a model with itself but for one weight."""
    subject = next(s for s in subjects(Path(folder), [name]) if s.name == name)
    rng = np.random.default_rng(0)
    before, after = ir.load(subject.path).model, ir.load(subject.path).model
    fault = wrong_weight(after, rng)
    hide_names(after, rng)
    result = drift(before, after, match(before, after), first_samples(subject.samples, 1))
    first = None if result.first is None else result.places[result.first]
    print(f"{name}: {len(result.places)} places, {fault}, first {first and (first.before, first.after_nodes)}")


def main() -> None:
    """Runs the trials and prints a line each, and the count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--work", type=Path)
    parser.add_argument("--peak", metavar="NAME")
    arguments = parser.parse_args()
    if arguments.peak:
        peak = measure_peak(compare_with_fault, str(arguments.folder), arguments.peak)
        print(f"peak {peak / 1e6:.0f} MB")
        return
    rng = np.random.default_rng(arguments.seed)
    known = list(subjects(arguments.folder, arguments.only))
    right = done = 0
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for turn in itertools.count():
            if done == arguments.faults:
                break
            setting = SETTINGS[turn % len(SETTINGS)]
            kinds = KINDS if "quantized" in setting else KINDS[:2]
            subject = known[rng.integers(len(known))]
            outcome = trial(subject, setting, kinds[rng.integers(len(kinds))], rng, work)
            if outcome is not None:
                done += 1
                right += outcome
    print(f"{right} of {done} named right")


if __name__ == "__main__":
    main()
