"""Outlier channels: products whose activation has few channels of far greater range are computed in two parts.

    x W  =  rest(x) W_rest + x[..., outliers] W[outliers]        rest(x) = Where(channel is no outlier, x, 0)

Each part is quantized with a scale of its own, so that a handful of channels no longer takes the integers of all
others (the decomposition of LLM.int8(), Dettmers et al., 2022, arXiv:2208.07339, which keeps the second part in float).
The float model computes the same sums in another order.

The channels to split off are those of the greatest reach; as many as let the estimated squared error of the products,
step^2 / 12 for each channel times the squares of its weights, fall most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.capabilities import Capabilities, Role
from sardonyx.errors import PassError, SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.provenance import mark, rules
from sardonyx.passes.quantization.methods.channels import ChannelStats, observe_channels
from sardonyx.passes.quantization.methods.layers import Layer, linear_layers
from sardonyx.passes.quantization.plan import QuantPlan

_ON_INTEGERS = frozenset({Role.COMPUTE, Role.FOLLOWER, Role.TRANSPARENT, Role.ACTIVATION})


@dataclass(frozen=True)
class SplitOutliers(Pass):
    """Splits products of MatMul and Gemm whose activation has outlier channels.

    Attributes:
        most: Share of the channels that may be split off.
        least_gain: Factor by which the estimated error must fall: a split costs two more nodes for the activation, and
            two for each product.
    """

    name = "split-outliers"
    summary = "give outlier channels of activations a product, and so a scale, of their own"

    most: float = 0.02
    least_gain: float = 4.0

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Splits products of the main graph.

        Raises:
            PassError: If the context has no target or no samples.
            DataError: If there are zero samples.
        """
        if context.capabilities is None:
            raise PassError("Splitting outliers needs a target's table.", remedy="Name one with --target.")
        if context.samples is None:
            raise PassError("Splitting outliers needs samples to observe.", remedy="Pass --data, or data=samples.")
        taken = {v: layers for v, layers in _products(model).items() if int(self.most * layers[0].channels)}
        refusals: list[Refusal] = []
        usable = {}
        for value, layers in taken.items():
            reason = _why_not(value, layers, context.capabilities)
            if reason is None:
                usable[value] = layers
            else:
                refusals.append(Refusal(self.name, reason, (value.name or "",)))
        if not usable:
            return PassResult(model, modified=False, refusals=tuple(refusals))
        stats = observe_channels(model, {value.name or "": -1 for value in usable}, context)
        splitter, chosen = _Splitter(model), {}
        for value, layers in usable.items():
            found = self._outliers(value, stats[value.name or ""], layers)
            if isinstance(found, str):
                refusals.append(Refusal(self.name, found, (value.name or "",)))
            else:
                splitter.split(value, layers, found)
                chosen[value.name or ""] = tuple(found.tolist())
        if not chosen:
            return PassResult(model, modified=False, refusals=tuple(refusals))
        plan = QuantPlan(context.capabilities.target, (), outliers=chosen).to_dict()
        return PassResult(model, True, {"split": splitter.products}, tuple(refusals), details={"plan": plan})

    def _outliers(self, value: ir.Value, stats: ChannelStats, layers: Sequence[Layer]) -> npt.NDArray[np.int64] | str:
        """Indices of the channels to split off, ascending; or why there are none."""
        if stats.low.size != layers[0].channels or not stats.finite:
            return f"{value.name} has no finite range on the samples"
        order = np.argsort(-stats.reach, kind="stable")
        norms = np.sum([layer.channel_norms() for layer in layers], axis=0)
        errors = [
            _rounding(stats, norms, order[:count]) + _rounding(stats, norms, order[count:])
            for count in range(int(self.most * order.size) + 1)
        ]
        best = int(np.argmin(errors))
        gain = errors[0] / errors[best] if errors[best] > 0 else 1.0
        if gain < self.least_gain:
            return f"splitting outlier channels of {value.name} would lower the error {gain:.2f} times only"
        return np.sort(order[:best])


def _rounding(stats: ChannelStats, norms: npt.NDArray[np.float64], channels: npt.NDArray[np.int64]) -> float:
    """The squared error of products with channels that share a scale, but for a common factor."""
    reach = stats.high[channels].max(initial=0.0) - stats.low[channels].min(initial=0.0)
    return float(reach**2 * norms[channels].sum())


def _was_split(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and SplitOutliers.name in rules(producer)


def _why_not(value: ir.Value, layers: Sequence[Layer], capabilities: Capabilities) -> str | None:
    producer = value.producer()
    row = None if producer is None else capabilities.support(producer.domain, producer.op_type)
    if producer is not None and row is not None and row.role in _ON_INTEGERS:
        return f"{value.name} may be computed with integers by {producer.name}, under one scale for all channels"
    for layer in layers:
        if len(layer.weight.uses()) > 1:
            return f"the weight {layer.weight.name} of {layer.node.name} has further users"
    return None


def repeat_splits(model: ir.Model, plan: QuantPlan, capabilities: Capabilities) -> int:
    """Splits the products of a plan again.

    Args:
        model: The float model that the plan was made from, its scales moved; changed in place.
        plan: The plan, perhaps edited.
        capabilities: The target's table.

    Returns:
        How many products were split.

    Raises:
        SpecError: If the model has no such value, or its products cannot be split so.
    """
    taken = {value.name or "": (value, layers) for value, layers in _products(model).items()}
    splitter = _Splitter(model)
    for name, channels in plan.outliers.items():
        value, layers = taken.get(name, (None, []))
        problem = "the model has no value of that name whose products can be split"
        if value is not None:
            problem = _why_not(value, layers, capabilities) or _unusable(channels, layers[0].channels) or ""
        if value is None or problem:
            raise SpecError(
                f"The plan's outliers are unusable at {name!r}: {problem}.",
                remedy="Mend or remove them, or make the plan anew with --plan-out.",
            )
        splitter.split(value, layers, np.asarray(channels, np.int64))
    return splitter.products


def _unusable(channels: Sequence[int], number: int) -> str | None:
    """Why channels of a value that has so many cannot be split off, or None."""
    if not channels or list(channels) != sorted(set(channels)):
        return "the channels are none, or not ascending"
    if channels[0] < 0 or channels[-1] >= number or len(channels) == number:
        return f"{list(channels)} are not some of {number} channels"
    return None


def _products(model: ir.Model) -> dict[ir.Value, list[Layer]]:
    """The products of the main graph that may be split, by their activation."""
    taken: dict[ir.Value, list[Layer]] = {}
    for layer in linear_layers(model.graph):
        if layer.channel_axis == -1 and not _was_split(layer.activation):
            taken.setdefault(layer.activation, []).append(layer)
    return taken


class _Splitter:
    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._names = ir.NameAuthority(model)
        self.products = 0

    def split(self, value: ir.Value, layers: Sequence[Layer], outliers: npt.NDArray[np.int64]) -> None:
        """Splits all products of a value."""
        name, channels = value.name or "", layers[0].channels
        ordinary = np.ones(channels, np.bool_)
        ordinary[outliers] = False
        mask = self._constant(f"{name}_ordinary", ordinary)
        zero = self._constant(f"{name}_zero", np.float32(0))
        indices = self._constant(f"{name}_outliers", outliers)
        first = min(layers, key=lambda layer: self._graph.index(layer.node)).node
        rest = self._node(first, "Where", [mask, value, zero], {}, value.shape)
        shape = None if value.shape is None else ir.Shape([*value.shape[:-1], outliers.size])
        apart = self._node(first, "Gather", [value, indices], {"axis": ir.AttrInt64("axis", -1)}, shape)
        for layer in layers:
            self._split_product(layer, (rest, apart), (ordinary, outliers))

    def _split_product(
        self,
        layer: Layer,
        operands: tuple[ir.Value, ir.Value],
        channels: tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]],
    ) -> None:
        self.products += 1
        node, weight = layer.node, layer.weight
        array, axis = layer.tensor.numpy(), layer.input_axis
        ordinary = np.expand_dims(channels[0], 1 - axis)
        weights = (
            self._constant(f"{weight.name}_ordinary", np.where(ordinary, array, np.float32(0))),
            self._constant(f"{weight.name}_outliers", np.take(array, channels[1], axis)),
        )
        output = node.outputs[0]
        products = [
            self._node(node, node.op_type, [operand, each, *more], node.attributes, output.shape)
            for operand, each, more in zip(operands, weights, (node.inputs[2:], ()), strict=True)
        ]
        total = self._node(node, "Add", products, {}, output.shape)
        ir.replace_nodes_and_values(self._graph, node, [node], [], [output], [total])
        if weight.is_initializer() and not weight.uses() and not weight.is_graph_output():
            self._graph.initializers.pop(weight.name or "")

    def _node(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.Attr],
        shape: ir.Shape | None,
    ) -> ir.Value:
        node = ir.Node("", op_type, inputs, attributes.values(), name=self._names.node(f"{before.name}_{op_type}"))
        node.outputs[0].name = self._names.value(f"{before.name}_{op_type}")
        node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, shape
        mark(node, SplitOutliers.name, before.name)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _constant(self, name: str, array: npt.NDArray[np.generic] | np.generic) -> ir.Value:
        return ir.add_initializer(self._graph, self._names.value(name), array)
