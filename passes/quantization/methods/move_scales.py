"""Applying scales at junctions: the constants of the graph change, its function does not.

What was moved goes into the plan, so that one which is read from a file finds the weights that it was made for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.errors import PassError, SpecError
from sardonyx.passes.base import PassContext, PassResult, Refusal
from sardonyx.passes.provenance import mark
from sardonyx.passes.quantization.methods.channels import ChannelStats, FloatArray, observe_channels
from sardonyx.passes.quantization.methods.junctions import Constant, Junction, find_junctions
from sardonyx.passes.quantization.methods.layers import Layer
from sardonyx.passes.quantization.methods.migration import MOST_DOUBLINGS, Migration, search_migration
from sardonyx.passes.quantization.plan import QuantPlan
from sardonyx.passes.quantization.ranges import model_structure

KEY = "sardonyx.moved-scales"


@dataclass(frozen=True)
class Rule:
    """Which junctions a pass takes.

    Attributes:
        name: The pass, for provenance and refusals.
        behind_layers: Whether it takes the junctions that linear layers make, or else those of normalizations.
        least_gain: The estimated error must fall by this factor.
        least_gain_gated: Likewise where a product must be added to undo the scales for a Sigmoid.
    """

    name: str
    behind_layers: bool
    least_gain: float
    least_gain_gated: float


def move_scales(model: ir.Model, rule: Rule, context: PassContext) -> PassResult:
    """Moves scales at the junctions of the main graph.

    What was chosen is kept in the context's memory, so that a copy of the model gets the same tensors again.

    Args:
        model: The float model; changed in place.
        rule: Which junctions, and from what gain.
        context: Samples, threads, progress and memory.

    Raises:
        PassError: If the context has no samples.
        DataError: If there are zero samples.
    """
    if context.samples is None:
        raise PassError(f"{rule.name} needs samples to observe.", remedy="Pass --data, or data=samples.")
    ir.ensure_shapes(model)
    junctions = find_junctions(model.graph)
    taken = [junction for junction in junctions.found if (junction.layer is not None) is rule.behind_layers]
    if not taken:
        return PassResult(model, modified=False, refusals=junctions.refusals)
    structure, parts = model_structure(model)
    memory: _Memory = context.memory.setdefault((KEY, rule, structure), _Memory(parts))
    if memory.stats is None:
        axes = {_name(junction.value): junction.axis for junction in taken}
        axes |= {_name(junction.gate.source): junction.axis for junction in taken if junction.gate is not None}
        memory.stats = observe_channels(model, axes, context)
    mover = _Mover(model, rule, memory)
    for junction in taken:
        mover.move(junction, memory.stats)
    details: dict[str, Any] = {rule.name: mover.moved}
    if mover.doublings:
        target = context.capabilities.target if context.capabilities is not None else ""
        details["plan"] = QuantPlan(target, (), moved_scales={rule.name: mover.doublings}).to_dict()
    return PassResult(model, bool(mover.moved), mover.stats, (*junctions.refusals, *mover.refusals), details=details)


def repeat_moves(model: ir.Model, plan: QuantPlan) -> int:
    """Moves the scales of a plan again.

    Args:
        model: The float model that the plan was made from; changed in place.
        plan: The plan, perhaps edited.

    Returns:
        At how many values scales were moved.

    Raises:
        SpecError: If the model has no such value, or its scales cannot be moved so.
    """
    for name, moved in plan.moved_scales.items():
        junctions = {_name(junction.value): junction for junction in find_junctions(model.graph).found}
        writer = _Writer(model, name, {})
        for value, doublings in moved.items():
            problem = _unusable(junctions.get(value), doublings)
            if problem is not None:
                raise SpecError(
                    f"The plan's moved_scales of {name!r} are unusable at {value!r}: {problem}.",
                    remedy="Mend or remove them, or make the plan anew with --plan-out.",
                )
            writer.apply(junctions[value], np.exp2(np.asarray(doublings, np.float64)))
    return sum(map(len, plan.moved_scales.values()))


def _unusable(junction: Junction | None, doublings: Sequence[int]) -> str | None:
    """Why scales cannot be moved at a junction, or None."""
    if junction is None:
        return "the model has no value of that name whose channels can be scaled"
    if len(doublings) != junction.channels:
        return f"{len(doublings)} are given for {junction.channels} channels"
    far = next((number for number in doublings if abs(number) > MOST_DOUBLINGS), None)
    if far is not None:
        return f"{far} is outside -{MOST_DOUBLINGS} to {MOST_DOUBLINGS}"
    if junction.least is None:
        return None
    scales = np.exp2(np.asarray(doublings, np.float64))
    bent = np.flatnonzero(np.where(np.isinf(junction.least), scales != 1, scales < junction.least))
    return f"a Clip does not let channel {bent[0]} be scaled so" if bent.size else None


class _Memory:
    """What was seen and made for one model; its parts are held, so that their identities stay theirs."""

    def __init__(self, parts: tuple[object, ...]) -> None:
        self.parts = parts
        self.stats: dict[str, ChannelStats] | None = None
        self.migrations: dict[str, Migration] = {}
        self.tensors: dict[tuple[str, int, str], ir.TensorProtocol] = {}


class _Mover:
    """Chooses scales junction by junction, and moves those that are worth it."""

    def __init__(self, model: ir.Model, rule: Rule, memory: _Memory) -> None:
        self._writer = _Writer(model, rule.name, memory.tensors)
        self._rule = rule
        self._memory = memory
        self.stats: dict[str, int] = {}
        self.refusals: list[Refusal] = []
        self.moved: dict[str, dict[str, float]] = {}
        self.doublings: dict[str, tuple[int, ...]] = {}

    def move(self, junction: Junction, observed: Mapping[str, ChannelStats]) -> None:
        name = _name(junction.value)
        stats = observed[name]
        gated = None if junction.gate is None else observed[_name(junction.gate.source)]
        if stats.low.size != junction.channels or not stats.finite:
            self._refuse(f"{name} has no finite range on the samples", name)
            return
        migration = self._memory.migrations.get(name)
        if migration is None:
            migration = search_migration(stats, junction.consumers, gated, junction.least)
            self._memory.migrations[name] = migration
        least = self._rule.least_gain if junction.gate is None else self._rule.least_gain_gated
        if migration.alpha is None or migration.gain < least:
            self._refuse(f"moving scales at {name} would lower the error {migration.gain:.2f} times only", name)
            return
        self._writer.apply(junction, migration.scales)
        self.doublings[name] = tuple(np.log2(migration.scales).astype(int).tolist())
        self.moved[name] = {"alpha": migration.alpha, "gain": round(migration.gain, 3)}
        kind = "gated" if junction.gate is not None else "folded"
        self.stats[kind] = self.stats.get(kind, 0) + 1

    def _refuse(self, reason: str, name: str) -> None:
        self.refusals.append(Refusal(self._rule.name, reason, (name,)))


class _Writer:
    """Writes scales into the constants of a model.

    Args:
        model: The model; changed in place.
        source: The pass that chose the scales, for provenance.
        tensors: What was made for copies of the model, by node, input and junction; gets what is made for this one.
    """

    def __init__(self, model: ir.Model, source: str, tensors: dict[tuple[str, int, str], ir.TensorProtocol]) -> None:
        self._graph = model.graph
        self._names = ir.NameAuthority(model)
        self._source = source
        self._tensors = tensors

    def apply(self, junction: Junction, scales: FloatArray) -> None:
        """Divides the channels of a junction by scales, shape (channels,), and multiplies the weights behind it."""
        name = _name(junction.value)
        for constant in junction.producers:
            self._multiply(constant.node, constant.index, _along(constant, 1 / scales), name)
        for layer in junction.consumers:
            self._multiply(layer.node, 1, _for_inputs(layer, scales), name)
        if junction.gate is not None:
            self._undo_for_sigmoid(junction, scales)

    def _multiply(self, node: ir.Node, index: int, factors: FloatArray, junction: str) -> None:
        """Gives an input of a node a constant of its own, multiplied for a junction."""
        old = node.inputs[index]
        tensor = None if old is None else ir.constant_tensor(old)
        if old is None or tensor is None:
            raise PassError(f"Input {index} of {node.name} is no longer a constant.")
        key = (node.name or "", index, junction)
        made = self._tensors.get(key)
        if made is None:
            product = (tensor.numpy() * factors).astype(np.float32)
            made = self._tensors[key] = ir.tensor(product, name=tensor.name)
        new = ir.add_initializer(self._graph, self._names.value(f"{old.name}_scaled"), made)
        node.replace_input_with(index, new)
        mark(node, self._source, node.name)
        if old.is_initializer() and not old.uses() and not old.is_graph_output() and not old.is_graph_input():
            self._graph.initializers.pop(old.name or "")

    def _undo_for_sigmoid(self, junction: Junction, scales: FloatArray) -> None:
        gate = junction.gate
        if gate is None or gate.source.shape is None:
            return
        rank = len(gate.source.shape)
        shape = [-1 if axis == junction.axis % rank else 1 for axis in range(rank)]
        key = (gate.sigmoid.name or "", 0, _name(junction.value))
        made = self._tensors.get(key)
        if made is None:
            made = self._tensors[key] = ir.tensor(scales.reshape(shape).astype(np.float32))
        factors = ir.add_initializer(self._graph, self._names.value(f"{gate.source.name}_scales"), made)
        node = ir.Node("", "Mul", [gate.source, factors], name=self._names.node(f"{gate.sigmoid.name}_unscale"))
        node.outputs[0].name = self._names.value(f"{gate.source.name}_unscaled")
        node.outputs[0].type, node.outputs[0].shape = gate.source.type, gate.source.shape
        mark(node, self._source, gate.sigmoid.name)
        self._graph.insert_before(gate.sigmoid, node)
        gate.sigmoid.replace_input_with(0, node.outputs[0])


def _along(constant: Constant, factors: FloatArray) -> FloatArray:
    """Factors in a shape that multiplies a constant along its axis of channels."""
    value = constant.node.inputs[constant.index]
    rank = len(value.shape) if value is not None and value.shape is not None else 1
    return factors.reshape([-1 if axis == constant.axis % rank else 1 for axis in range(rank)])


def _for_inputs(layer: Layer, factors: FloatArray) -> npt.NDArray[np.float64]:
    """Factors in a shape that multiplies a layer's weight along its input channels, those of each group for a Conv."""
    rank = len(layer.tensor.shape)
    if layer.output_axis:
        return factors.reshape(-1, 1)
    grouped = np.repeat(factors.reshape(layer.groups, -1), layer.outputs // layer.groups, axis=0)
    return grouped.reshape(layer.outputs, -1, *(1,) * (rank - 2))


def _name(value: ir.Value) -> str:
    return value.name or ""
