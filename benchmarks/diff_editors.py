"""Editors of models whose edits are known: the ground truth of `benchmarks/diff_truth.py`."""

import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import version_converter

from benchmarks.diff_kinds import Change, Truth, noted_changes
from benchmarks.optimizer import with_onnxruntime, with_onnxsim, with_onnxslim
from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.measure import Session, describe_machine, samples_for
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import RULES, Fuse
from sardonyx.passes.provenance import sources
from sardonyx.pipeline import PassManager, Recipe, available_passes, available_schemes, parse_pipeline


@dataclass(frozen=True)
class Edited:
    """A second model and what is known of it.

    Attributes:
        model: The second model.
        values: Partners of values by name, of which any will do; None where numbers tell.
        nodes: Pairs of names of nodes that belong together; None where not known.
        changes: Kinds and names of the changes, from both models; None where not known.
    """

    model: ir.Model
    values: Mapping[str, frozenset[str]] | None = None
    nodes: frozenset[tuple[str, str]] | None = None
    changes: Truth | None = None


def renamed(model: ir.Model) -> tuple[ir.Model, dict[str, str]]:
    """Returns a copy whose nodes, values and initializers have other names, and the new names by old.

    Names of nodes are listed as `node NAME`. Inputs and outputs of the model keep theirs.
    """
    copy, names = ir.clone(model), {}
    kept = {value.name for value in (*copy.graph.inputs, *copy.graph.outputs)}
    for number, graph in enumerate(ir.all_graphs(copy)):
        for index, value in enumerate(ir.graph_values(graph)):
            if value.name and value.name not in kept:
                names[value.name] = f"t{number}_{index}"
                value.name = names[value.name]
        for index, node in enumerate(graph):
            names[f"node {node.name}"] = f"n{number}_{index}"
            node.name = names[f"node {node.name}"]
    return copy, names


def _values(model: ir.Model, without: Iterable[str] = (), forms: Sequence[str] = ("",)) -> dict[str, frozenset[str]]:
    """All values of the main graph that depend on inputs, as their own partners, or with other ends of their names."""
    gone = set(without)
    made = [v for node in model.graph for v in node.outputs if node.inputs and v.name]
    named = [v.name for v in (*model.graph.inputs, *made) if v.name and v.name not in gone]
    return {name: frozenset(name + form for form in forms) for name in named}


def _nodes(model: ir.Model) -> frozenset[tuple[str, str]]:
    return frozenset((n.name or "", n.name or "") for graph in ir.all_graphs(model) for n in graph)


def _exactly(*changes: Change) -> Truth:
    """A truth that is known from what the editor did."""
    return lambda before, after: set(changes)


def rename(model: ir.Model, folder: Path) -> Edited:
    """Nothing but names, see `renamed`."""
    return Edited(ir.clone(model), _values(model), _nodes(model), _exactly())


def reorder(model: ir.Model, folder: Path) -> Edited:
    """Another topological order, drawn at random, of the nodes of the main graph."""
    copy, generator = ir.clone(model), random.Random(0)
    nodes = list(copy.graph)
    waiting = {n: {p for v in _read(n) if (p := v.producer()) is not None and p.graph is copy.graph} for n in nodes}
    order: list[ir.Node] = []
    ready = [n for n in nodes if not waiting[n]]
    while ready:
        node = ready.pop(generator.randrange(len(ready)))
        order.append(node)
        for other in nodes:
            if node in waiting[other]:
                waiting[other].discard(node)
                if not waiting[other]:
                    ready.append(other)
    copy.graph.remove(nodes)
    copy.graph.extend(order)
    return Edited(copy, _values(model), _nodes(model), _exactly())


def _read(node: ir.Node) -> Iterable[ir.Value]:
    yield from (v for v in node.inputs if v is not None)
    for graph in ir.node_subgraphs(node):
        for inner in graph:
            yield from _read(inner)


def one_weight(model: ir.Model, folder: Path) -> Edited | None:
    """Noise on one initializer."""
    copy, generator = ir.clone(model), np.random.default_rng(0)
    weights = [v for v in copy.graph.initializers.values() if v.dtype == ir.DataType.FLOAT and v.const_value.size > 64]
    if not weights:
        return None
    value = weights[len(weights) // 2]
    array = ir.read_array(value.const_value)
    value.const_value = ir.tensor(array + generator.normal(0, 0.1, array.shape).astype(np.float32), name=value.name)
    changed = value.name or ""
    return Edited(copy, _values(model), _nodes(model), _exactly(("initializer values", changed)))


def one_attribute(model: ir.Model, folder: Path) -> Edited | None:
    """Another value of an attribute that changes no shape."""
    copy = ir.clone(model)
    found = [(n, a) for n in copy.graph for a in n.attributes.values() if a.type.name == "FLOAT" and not a.is_ref()]
    if not found:
        found = [(n, a) for n in copy.graph for a in n.attributes.values() if n.op_type == "Conv" and a.name == "pads"]
        if not found:
            return None
    node, attr = found[len(found) // 2]
    if attr.type.name == "FLOAT":
        node.attributes[attr.name] = ir.AttrFloat32(attr.name, attr.as_float() * 1.5 + 0.1)
    else:
        pads = list(attr.as_ints())
        node.attributes[attr.name] = ir.AttrInt64s(attr.name, pads[len(pads) // 2 :] + pads[: len(pads) // 2])
        if tuple(node.attributes[attr.name].as_ints()) == tuple(pads):
            node.attributes[attr.name] = ir.AttrInt64s(attr.name, [p + 1 for p in pads])
    return Edited(copy, _values(model), _nodes(model), _exactly(("attribute", f"{node.name}.{attr.name}")))


def delete_layer(model: ir.Model, folder: Path) -> Edited | None:
    """One node that keeps the shape, taken out of the middle."""
    copy = ir.clone(model)
    nodes = [
        n
        for n in copy.graph
        if n.op_type in ("Relu", "Sigmoid", "Clip", "BatchNormalization", "LayerNormalization", "Tanh", "Erf")
        and not n.outputs[0].is_graph_output()
        and n.inputs[0].producer() is not None
    ]
    if not nodes:
        return None
    node = nodes[len(nodes) // 2]
    gone, name = node.outputs[0].name or "", node.name or ""
    ir.replace_all_uses_with(node.outputs[0], node.inputs[0])
    unused = {v.name for v in node.inputs[1:] if v is not None and v.is_initializer() and len(v.uses()) == 1}
    copy.graph.remove(node, safe=True)
    for weight in unused:
        copy.graph.initializers.pop(weight)
    facts = [("removed", name), *(("initializer removed", weight) for weight in unused)]
    nodes_left = frozenset((n.name or "", n.name or "") for n in copy.graph)
    return Edited(copy, _values(model, [gone]), nodes_left, _exactly(*facts))


def upgrade_opset(model: ir.Model, folder: Path) -> Edited:
    """Onnx's version converter, four versions up."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    version = model.opset_imports[""] + 4
    return Edited(ir.load(version_converter.convert_version(proto, version)).model)


_CASTS = ("", "_cast_float16", "_cast_float")
_FORMS = tuple(form + cast for form in ("", "_quantized", "_dequantized") for cast in _CASTS)
"""Ends of the names that passes give to what carries a value on."""


def _passes(*names: str) -> Callable[[ir.Model, Path], Edited]:
    """Passes by name with their default options: the name of a scheme stands for its pipeline."""

    def edit(model: ir.Model, folder: Path) -> Edited:
        schemes = available_schemes()
        pipeline = ", ".join(schemes[name].pipeline if name in schemes else name for name in names)
        passes = parse_pipeline(pipeline, available_passes())
        after = PassManager(passes, context=_context(model)).run(ir.clone(model)).model
        ir.ensure_shapes(after)
        return Edited(after, _values(model, forms=_FORMS), None, noted_changes)

    return edit


def _context(model: ir.Model) -> PassContext:
    target = backend("onnxruntime").capabilities(describe_machine())
    with Session(ir.serialize(model)) as session:
        samples = samples_for(None, session)
    return PassContext(target, samples)


def _by_rule(*rules: str) -> Callable[[ir.Model, Path], Edited | None]:
    """The fusion pass with some of its rules; nodes by the provenance they write."""

    def edit(model: ir.Model, folder: Path) -> Edited | None:
        others = tuple(rule.name for rule in RULES if rule.name not in rules and not rule.candidate)
        candidates = tuple(rule.name for rule in RULES if rule.name in rules and rule.candidate)
        copy = ir.clone(model)
        result = Fuse(disable=others, enable=candidates).apply(copy, PassContext())
        if not result.stats:
            return None
        ir.ensure_shapes(copy)
        return Edited(copy, None, _provenance(model, copy), noted_changes)

    return edit


def _provenance(model: ir.Model, after: ir.Model) -> frozenset[tuple[str, str]]:
    """Nodes by what the passes noted: a made node and each of its sources, where all of those are in the model."""
    known = {n.name: n.op_type for graph in ir.all_graphs(model) for n in graph}
    pairs = set()
    for graph in ir.all_graphs(after):
        for node in graph:
            origin = sources(node)
            if origin and all(name in known for name in origin):
                pairs.update((name, node.name or "") for name in origin)
            elif not origin and known.get(node.name) == node.op_type:
                pairs.add((node.name or "", node.name or ""))
    return frozenset(pairs)


def own_passes(model: ir.Model, folder: Path) -> Edited:
    """All exact passes of the default recipe."""
    passes = parse_pipeline(Recipe().optimize, available_passes())
    after = PassManager(passes, context=PassContext()).run(ir.clone(model)).model
    ir.ensure_shapes(after)
    return Edited(after)


def _tool(run: Callable[[str, str], None]) -> Callable[[ir.Model, Path], Edited | None]:
    """Another tool, file to file."""

    def edit(model: ir.Model, folder: Path) -> Edited | None:
        source, written = folder / "source.onnx", folder / "written.onnx"
        onnx.save(ir.to_proto(model), source)
        run(str(source), str(written))
        return Edited(ir.load(written).model)

    return edit


EDITORS: Mapping[str, Callable[[ir.Model, Path], Edited | None]] = {
    "rename": rename,
    "reorder": reorder,
    "one-weight": one_weight,
    "one-attribute": one_attribute,
    "delete-layer": delete_layer,
    "upgrade-opset": upgrade_opset,
    **{f"rule:{rule.name}": _by_rule(rule.name) for rule in RULES},
    "own-passes": own_passes,
    **{name: _passes(name) for name in ("equalize", "smooth-quant", "convert-float")},
    **{name: _passes(name) for name in ("static", "dynamic", "weight-int8", "weight-int4-hqq", "static-fp16")},
    "onnxsim": _tool(with_onnxsim),
    "onnxslim": _tool(with_onnxslim),
    "onnxruntime": _tool(with_onnxruntime),
}


def main() -> None:
    """Lists the editors."""
    sys.stdout.write("\n".join(EDITORS) + "\n")


if __name__ == "__main__":
    main()
