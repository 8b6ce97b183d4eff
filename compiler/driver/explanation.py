"""Explanations: what became of a node, and why not more."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.capabilities import Capabilities
from sardonyx.driver.choice import MIXED, is_lossy
from sardonyx.driver.output import original_file
from sardonyx.errors import UsageError
from sardonyx.measure import describe_machine
from sardonyx.passes.fusion.attention.fuse import CHOICE, admitted
from sardonyx.passes.fusion.fuse import RULES
from sardonyx.passes.provenance import SOURCE_KEY
from sardonyx.passes.quantization.placement import place
from sardonyx.passes.rewriting.driver import APPLIES, near_misses
from sardonyx.pipeline import (
    CompileRecord,
    PassContext,
    PassManager,
    PassRecord,
    Recipe,
    available_passes,
    parse_pipeline,
)
from sardonyx.pipeline.record import RECORD_NAME


@dataclass(frozen=True)
class Explanation:
    """What became of one node of the original model.

    Attributes:
        node: Its name.
        op_type: Its operator.
        fate: What each pass did with it, in order, as sentences.
        rules: For each fusion rule that could start at it, what kept the rule from being applied there.
        integers: Why the target runs it as integers, or why not.
    """

    node: str
    op_type: str
    fate: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]
    integers: str


def explain(source: Path, node: str) -> Explanation:
    """Explains a node of a model, or of the model that an output folder was compiled from.

    Args:
        source: A model file, or a folder written by a compile.
        node: Name of a node of the original model.

    Raises:
        UsageError: If there is no such model or no such node.
    """
    path, recipe, record = _original(source)
    model = ir.load(path, opset=recipe.opset).model
    found = _find(model, node)
    if found is None:
        raise _no_such_node(path, model, node)
    op_type = found.op_type
    target = backend(recipe.target)
    capabilities = target.capabilities(describe_machine())
    follower = _Follower(node, capabilities)
    passes = parse_pipeline(recipe.optimize, available_passes())
    manager = PassManager(passes, context=PassContext(capabilities), hook=follower)
    optimized = manager.run(model).model
    ir.ensure_shapes(optimized)
    placement = place(optimized, capabilities)
    last = None if follower.current is None else _find(optimized, follower.current)
    integers = "it is no longer in the optimized model"
    if last is not None and last.name is not None:
        row = capabilities.support(last.domain, last.op_type)
        listed = "the target has no integer kernel for it" if row is None else "its neighbours are not integers"
        runs = _as_written(record, last.name) if last.name in placement.integer_nodes else listed
        integers = placement.float_nodes.get(last.name, runs)
    return Explanation(node, op_type, tuple(follower.fate), tuple(follower.rules), integers)


def _as_written(record: CompileRecord | None, node: str) -> str:
    """What a compile made of a node that the target can run as integers; what it would make of it without one."""
    if record is None or record.chosen == "":
        return "it runs as integers"
    if not is_lossy(record.chosen):
        why = next((d.reason for d in record.decisions if d.stage == "choose"), "")
        return f"the target can run it as integers, but the {record.chosen} model was written: {why}"
    given = (
        d.reason for d in record.decisions if d.stage == "give-back" and d.choice == "float" and node in d.subjects
    )
    reason = next(given, None) if record.chosen == MIXED else None
    return "it runs as integers" if reason is None else f"it was given back to float: {reason}"


def _original(source: Path) -> tuple[Path, Recipe, CompileRecord | None]:
    record_path = source / RECORD_NAME
    if not source.is_dir():
        return source, Recipe(), None
    if not record_path.is_file():
        raise UsageError(f"{source} holds no {RECORD_NAME}.", remedy="Name a model file or a compile's output folder.")
    record = CompileRecord.read(record_path)
    return original_file(record, source), record.recipe, record


def _find(model: ir.Model, name: str) -> ir.Node | None:
    return next((n for graph in ir.all_graphs(model) for n in graph if n.name == name), None)


def _no_such_node(path: Path, model: ir.Model, name: str) -> UsageError:
    names = [n.name for graph in ir.all_graphs(model) for n in graph if n.name]
    close = difflib.get_close_matches(name, names, n=1) or names[:1]
    remedy = f"Did you mean {close[0]!r}?" if close else "Its nodes have no names."
    return UsageError(f"{path} has no node {name!r}.", remedy=remedy)


class _Follower:
    """Follows a node through the passes: a hook for the pass manager."""

    def __init__(self, node: str, capabilities: Capabilities) -> None:
        self.current: str | None = node
        self.admitted = admitted(capabilities)
        self.fate: list[str] = []
        self.rules: list[tuple[str, str]] = []

    def __call__(self, before: ir.Model, after: ir.Model, record: PassRecord) -> None:
        if self.current is None:
            return
        if record.name == "fuse":
            self.rules.extend((rule.name, reason) for rule, reason in near_misses(before, RULES, self.current))
            fused = near_misses(before, self.admitted, self.current)
            self.rules.extend((rule.name, CHOICE if reason == APPLIES else reason) for rule, reason in fused)
        for refusal in record.refusals:
            if self.current in refusal.nodes:
                self.fate.append(f"{record.name} left it: {refusal.reason}")
        if _find(after, self.current) is not None:
            return
        successor = next(_made_from(after, self.current), None)
        if successor is None:
            self.fate.append(f"{record.name} removed it: its value is a constant now, unused, or another node's")
        else:
            rule = successor.metadata_props.get("sardonyx.rule", "")
            self.fate.append(f"{record.name} rewrote it to {successor.name} ({successor.op_type}) by {rule}")
        self.current = successor.name if successor is not None else None


def _made_from(model: ir.Model, name: str) -> Iterator[Any]:
    for graph in ir.all_graphs(model):
        for node in graph:
            if name in node.metadata_props.get(SOURCE_KEY, "").split(","):
                yield node
