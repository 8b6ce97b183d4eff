"""The pass: FP32 to FP16 or BF16 where that is safe and pays."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.precision.analysis import Analysis, float_constant, is_float
from sardonyx.passes.precision.bounds import Interval
from sardonyx.passes.precision.formats import FORMATS, Format
from sardonyx.passes.precision.integers import (
    DEQUANTIZE,
    FIRST_HALF_OPSET,
    has_pairs,
    integer_products,
    of_weight,
    split_group,
)
from sardonyx.passes.precision.operators import AGNOSTIC
from sardonyx.passes.precision.reasons import CONTROL_FLOW, blocking, why_float
from sardonyx.passes.precision.regions import TypePlan, choose_slots, keep_worthwhile, regions
from sardonyx.passes.precision.rewrite import Rewriter
from sardonyx.passes.precision.slots import slots
from sardonyx.passes.quantization.calibration import calibrate

Named = ir.Node | ir.Value
KERNELS = ("native", "loads", "schema")


@dataclass(frozen=True)
class ConvertFloat(Pass):
    """Converts regions of FLOAT nodes, with their weights, to FLOAT16 or BFLOAT16.

    With samples, the range of each activation of the main graph is measured, and what exceeds `margin` of the format's
    range stays in FP32. Without samples, operators whose results may be far larger than their inputs stay in FP32.

    Attributes:
        dtype: `float16` or `bfloat16`.
        keep_io: Whether the model's inputs and outputs stay FLOAT; else all of them are converted.
        block: Operators, or patterns of node names (`*` matches anything), that stay in FP32.
        margin: Share of the format's largest value that a measured value may reach, in (0, 1].
        kernels: Which operators are converted: `native`, those that the target has kernels for; `loads`, also those
            that it runs in FP32 between Casts of its own; `schema`, all that ONNX allows, for another runtime.
    """

    name = "convert-float"
    summary = "FP16 or BF16 where values fit and regions pay for their Casts; FP32 elsewhere, with reasons"

    dtype: str = "float16"
    keep_io: bool = True
    block: tuple[str, ...] = ()
    margin: float = 0.5
    kernels: str = "loads"

    def __post_init__(self) -> None:
        for option, value, known in (("dtype", self.dtype, tuple(FORMATS)), ("kernels", self.kernels, KERNELS)):
            if value not in known:
                raise SpecError(f"{option} cannot be {value!r}.", remedy=f"Use one of: {', '.join(known)}.")
        if not 0 < self.margin <= 1:
            raise SpecError(f"A margin of {self.margin} is outside (0, 1].", remedy="0.5 leaves a factor of 2.")

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Decides, then writes types, constants and Casts.

        Raises:
            SpecError: If a pattern of `block` names no operator and no node.
            DataError: If the samples do not fit the model.
        """
        kept_opset = self._raise_opset(model, context)
        ir.ensure_shapes(model)
        facts = self._analyse(model, context)
        refused: dict[str, list[Named]] = defaultdict(list)
        candidates = self._candidates(facts, refused)
        plan = TypePlan(facts, candidates, self._ends(facts, refused))
        found = slots(model.graph)
        choose_slots(plan, found)
        for reason, nodes in keep_worthwhile(plan, list(regions(plan))).items():
            refused[reason] += nodes
        plan = TypePlan(facts, plan.nodes, plan.ends if plan.nodes else frozenset())
        choose_slots(plan, found)
        refusals = tuple(
            Refusal("stay-in-float32", reason, tuple(map(_name, concerned))) for reason, concerned in refused.items()
        )
        refusals += (Refusal("raise-opset", kept_opset),) if kept_opset is not None else ()
        if not plan.nodes:
            return PassResult(model, modified=False, refusals=refusals)
        refusals += _wrapped(plan)
        rewriter = Rewriter(plan)
        rewriter.write()
        stats = {name: count for name, count in rewriter.stats.items() if count}
        return PassResult(model, modified=True, stats=stats, refusals=refusals)

    @property
    def form(self) -> Format:
        """The format to convert to."""
        return FORMATS[self.dtype]

    def _raise_opset(self, model: ir.Model, context: PassContext) -> str | None:
        """Raises the opset where Q/DQ nodes may become 16-bit too; returns why it stays, if so."""
        support = None if context.capabilities is None else context.capabilities.floats.get(self.form.dtype)
        if support is None or not support.around_integers or not has_pairs(model):
            return None
        return ir.ensure_opset(model, FIRST_HALF_OPSET)

    def _analyse(self, model: ir.Model, context: PassContext) -> Analysis:
        capabilities = context.capabilities if self.kernels != "schema" else None
        return Analysis(
            model=model,
            form=self.form,
            limit=self.margin * self.form.largest,
            support=None if capabilities is None else capabilities.floats.get(self.form.dtype),
            native=self.kernels == "native",
            capabilities=capabilities,
            measured=_measure(model, context),
        )

    def _candidates(self, facts: Analysis, refused: dict[str, list[Named]]) -> set[ir.Node]:
        """Nodes that may be converted; the others are noted with their reasons."""
        candidates = set()
        kept: dict[ir.Node, str] = {}
        matched: set[str] = set()
        for graph in facts.graphs:
            for node in graph:
                patterns = blocking(node, self.block)
                matched.update(patterns)
                if not _computes_floats(node):
                    continue
                reason = f"it is blocked by {patterns[0]!r}" if patterns else why_float(node, facts)
                if reason is None:
                    candidates.add(node)
                else:
                    refused[reason].append(node)
                    kept[node] = reason
        unmatched = [pattern for pattern in self.block if pattern not in matched]
        if unmatched:
            raise SpecError(
                f"{unmatched[0]!r} names no operator and no node of this model.",
                remedy="`sardonyx inspect` lists the operators; patterns of node names may contain *.",
            )
        return candidates - self._split(facts, kept, refused)

    def _split(self, facts: Analysis, kept: Mapping[ir.Node, str], refused: dict[str, list[Named]]) -> set[ir.Node]:
        """Nodes that would be converted without the nodes that they multiply integers with."""
        found: set[ir.Node] = set()
        for group in integer_products(facts.graphs, facts.capabilities) if facts.capabilities is not None else ():
            reason = split_group(group, kept)
            if reason is not None:
                split = group - kept.keys()
                refused[reason] += sorted(split, key=_name)
                found |= split
        return found

    def _ends(self, facts: Analysis, refused: dict[str, list[Named]]) -> frozenset[ir.Value]:
        """Inputs and outputs that are converted; those that may overflow are noted."""
        if self.keep_io:
            return frozenset()
        found = set()
        for value in (*facts.model.graph.inputs, *facts.model.graph.outputs):
            if not is_float(value):
                continue
            reason = facts.overflow(value)
            if value.is_initializer():
                reason = f"{value.name} is a constant or an input with a default"
            if reason is None:
                found.add(value)
            else:
                refused[reason].append(value)
        return frozenset(found)


def _name(named: Named) -> str:
    return named.name or (named.op_type if isinstance(named, ir.Node) else "")


def _computes_floats(node: ir.Node) -> bool:
    """Whether a node has something to convert: constants and control flow have not, but their contents."""
    if not node.domain and node.op_type in CONTROL_FLOW | AGNOSTIC | {"Constant"}:
        return False
    return any(map(is_float, (*node.inputs, *node.outputs)))


def _measure(model: ir.Model, context: PassContext) -> Mapping[str, Interval]:
    """Ranges of the finite values of the main graph's activations, by name; empty without samples."""
    if context.samples is None:
        return {}
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    nodes = [node for node in model.graph if not (node.op_type == DEQUANTIZE and of_weight(node))]
    computed = [value for node in nodes for value in node.outputs if float_constant(value) is None]
    names = [value.name for value in (*inputs, *computed) if is_float(value) and value.name]
    if not names:
        return {}
    observers = calibrate(model, names, ["finite-minmax"], context).observers
    ranges = {name: observer.range() for name, kinds in observers.items() for observer in kinds.values()}
    return {name: (seen.low, seen.high) for name, seen in ranges.items()}


def _wrapped(plan: TypePlan) -> tuple[Refusal, ...]:
    """Says which converted operators the target runs in FP32 all the same."""
    facts = plan.facts
    if facts.support is None:
        return ()
    wrapped = [n for n in plan.nodes if n.op_type != "Cast" and (n.domain, n.op_type) not in facts.support.native]
    if not wrapped:
        return ()
    operators = sorted({node.op_type for node in wrapped})
    name = facts.form.dtype.name
    return (
        Refusal(
            "run-natively",
            f"the target has no {name} kernels for {', '.join(operators)}: it runs them in FP32 between Casts of its "
            "own, so that the model becomes smaller and not faster there",
            tuple(sorted(map(_name, wrapped))),
        ),
    )
