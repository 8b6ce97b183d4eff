"""Where two models are compared: pairs of values in the order of computation, each with the nodes it answers for."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest

from sardonyx import ir
from sardonyx.diff.dequantize import restored_constant, stored_tensors
from sardonyx.diff.quantities import Pairs, is_dequantize, is_quantize
from sardonyx.diff.segments import Replacement, Segment, Wiring

_ROUND_TRIP = ["QuantizeLinear", "DequantizeLinear"]
_CONSTANT_OPERATORS = frozenset({"Constant", "DequantizeLinear"})


class Noise(StrEnum):
    """What a place may add to the error although nothing is wrong there.

    `rounding`: both models compute the same in floats or integers. `step`: only one of them rounds to the grid of one
    quantizer, and does nothing else. `mixed`: only one of them computes with quantized values.
    """

    ROUNDING = "rounding"
    STEP = "step"
    MIXED = "mixed"


@dataclass(frozen=True)
class ConstantPair:
    """Constants at the same input of nodes that do the same, with other contents.

    Attributes:
        before: The first model's.
        after: The second's: an initializer, or the output of the DequantizeLinear that restores it.
        before_tensor: The values, dequantized.
        after_tensor: The values, dequantized.
        reader_before: The node of the first model that reads it.
        reader_after: The node of the second.
    """

    before: ir.Value
    after: ir.Value
    before_tensor: ir.TensorProtocol
    after_tensor: ir.TensorProtocol
    reader_before: ir.Node
    reader_after: ir.Node


@dataclass(frozen=True)
class Checkpoint:
    """A quantity at which the two models are compared, and what computes it from the quantities before it.

    Attributes:
        before: Name of the value in the first model.
        after: Name of the value in the second.
        before_nodes: Nodes of the first model between this quantity and those it is computed from.
        after_nodes: The same of the second; without constant subexpressions, like the former.
        before_reads: Names of the first model's values that the readers of `after_reads` are given.
        after_reads: Names of the values that the nodes of the second model take from outside.
        constants: Constants of the second model that are compared by themselves.
        replacements: For each of them: what takes its place where nodes are compared, the first model's.
        noise: What to expect.
        quantizer: The one node that rounds, where `noise` is `STEP`.
        dtypes: Types of the floats that the nodes of both compute.
    """

    before: str
    after: str
    before_nodes: tuple[ir.Node, ...]
    after_nodes: tuple[ir.Node, ...]
    before_reads: tuple[str, ...]
    after_reads: tuple[str, ...]
    constants: tuple[ConstantPair, ...]
    replacements: tuple[Replacement, ...]
    noise: Noise
    quantizer: ir.Node | None
    dtypes: tuple[ir.DataType, ...]


@dataclass(frozen=True)
class Plan:
    """All places of comparison, in the order of the second model."""

    checkpoints: tuple[Checkpoint, ...]
    constants: tuple[ConstantPair, ...]


class Planner:
    """Finds the places of comparison.

    Args:
        before: Wiring of the first model's main graph.
        after: Wiring of the second's.
        pairs: Values that carry the same quantity.
    """

    def __init__(self, before: Wiring, after: Wiring, pairs: Pairs) -> None:
        self._before, self._after = before, after
        self._given = pairs.given
        self._pairs = sorted(pairs.pairs, key=lambda pair: after.position(pair.after))
        self._stops_before = pairs.before_values
        self._stops_after = pairs.after_values
        self._constants: dict[tuple[ir.Value, ir.Node], ConstantPair] = {}

    def plan(self) -> Plan:
        """Returns the places. Values that are no tensors are left out."""
        checkpoints = []
        for pair in self._pairs:
            if not (_is_tensor(pair.before) and _is_tensor(pair.after)):
                continue
            if pair.rounded:
                part_before = Segment((), (pair.before,))
            else:
                part_before = self._before.segment((pair.before,), self._stops_before)
            checkpoints.append(self._checkpoint(pair.before, pair.after, part_before))
        return Plan(tuple(checkpoints), tuple(self._constants.values()))

    def _checkpoint(self, before: ir.Value, after: ir.Value, part_before: Segment) -> Checkpoint:
        part_after = self._after.segment((after,), self._stops_after)
        nodes_before, nodes_after = _computing(part_before.nodes), _computing(part_after.nodes)
        constants = self._constant_pairs(nodes_before, nodes_after)
        apart = {value.producer() for pair in constants for value in (pair.before, pair.after)}
        noise, quantizer = _noise(
            [node for node in part_before.nodes if node not in apart],
            [node for node in part_after.nodes if node not in apart],
        )
        return Checkpoint(
            before=before.name or "",
            after=after.name or "",
            before_nodes=nodes_before,
            after_nodes=nodes_after,
            before_reads=tuple((self._given.get(value) or value).name or "" for value in part_after.reads),
            after_reads=tuple(value.name or "" for value in part_after.reads),
            constants=tuple(constants),
            replacements=tuple(map(self._replacement, constants)),
            noise=noise,
            quantizer=quantizer,
            dtypes=_float_types((*part_before.nodes, *part_after.nodes)),
        )

    def _constant_pairs(self, before: Sequence[ir.Node], after: Sequence[ir.Node]) -> list[ConstantPair]:
        """Pairs the constants that one node each reads at the same place, where both nodes do the same."""
        if len(before) != 1 or len(after) != 1:
            return []
        (b,), (a,) = before, after
        if (b.domain, b.op_type) != (a.domain, a.op_type) or is_quantize(b) or is_dequantize(b):
            return []
        return list(filter(None, (self._constant_pair(b, a, index) for index in range(len(b.inputs)))))

    def _constant_pair(self, b: ir.Node, a: ir.Node, index: int) -> ConstantPair | None:
        old, new = b.inputs[index], a.inputs[index] if index < len(a.inputs) else None
        if old is None or new is None or not _comparable_constants(old, new) or _same_constant(old, new):
            return None
        if (new, a) not in self._constants:
            tensors = restored_constant(old), restored_constant(new)
            if tensors[0] is None or tensors[1] is None:
                return None
            self._constants[new, a] = ConstantPair(old, new, tensors[0], tensors[1], b, a)
        return self._constants[new, a]

    def _replacement(self, pair: ConstantPair) -> Replacement:
        reader = pair.reader_after
        return Replacement(self._after.index(reader), reader.inputs.index(pair.after), pair.before_tensor)


def _computing(nodes: Sequence[ir.Node]) -> tuple[ir.Node, ...]:
    """Leaves out nodes that only restore constants."""
    return tuple(node for node in nodes if not _restores_constant(node))


def _restores_constant(node: ir.Node) -> bool:
    return node.op_type in _CONSTANT_OPERATORS and all(
        value is None or value.const_value is not None for value in node.inputs
    )


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.const_value is not None or (producer is not None and _restores_constant(producer))


def _comparable_constants(old: ir.Value, new: ir.Value) -> bool:
    if not (_is_constant(old) and _is_constant(new)) or old.dtype is None or not old.dtype.is_floating_point():
        return False
    return old.dtype == new.dtype and old.shape is not None and old.shape == new.shape


def _same_constant(old: ir.Value, new: ir.Value) -> bool:
    """Whether two constants of one type and shape are stored in the same way with the same content."""
    stored = [ir.convenience.get_const_tensor(value) for value in (old, new)]
    if None not in stored:
        return _same_tensors(stored[:1], stored[1:])
    producers = [value.producer() for value in (old, new)]
    if any(tensor is not None for tensor in stored) or None in producers:
        return False
    return _same_tensors(*(stored_tensors(producer) for producer in producers if producer is not None))


def _same_tensors(old: Sequence[ir.TensorProtocol | None], new: Sequence[ir.TensorProtocol | None]) -> bool:
    return len(old) == len(new) and all(
        b is a
        or (
            b is not None
            and a is not None
            and (b.dtype, b.shape) == (a.dtype, a.shape)
            and all(x == y for x, y in zip_longest(ir.read_chunks(b), ir.read_chunks(a)))
        )
        for b, a in zip(old, new, strict=True)
    )


def _noise(before: Sequence[ir.Node], after: Sequence[ir.Node]) -> tuple[Noise, ir.Node | None]:
    """Says what to expect of two segments, without what restores constants that are compared by themselves."""
    if not before and [node.op_type for node in after if not _restores_constant(node)] == _ROUND_TRIP:
        return Noise.STEP, next(node for node in after if is_dequantize(node))
    same = any(map(_quantizes, before)) == any(map(_quantizes, after))
    return (Noise.ROUNDING if same else Noise.MIXED), None


def _quantizes(node: ir.Node) -> bool:
    """Whether a node reads integers, or makes some, that stand for floats: one of both is what all such have."""
    outputs = {value.dtype for value in node.outputs}
    inputs = {value.dtype for value in node.inputs if value is not None}
    narrow = {t for t in inputs | outputs if t is not None and t.is_integer() and t.bitwidth <= 8}
    return bool(narrow) or is_quantize(node) or is_dequantize(node)


def _float_types(nodes: Sequence[ir.Node]) -> tuple[ir.DataType, ...]:
    types = {v.dtype for node in nodes for v in (*node.outputs, *node.inputs) if v is not None}
    return tuple(sorted((t for t in types if t is not None and t.is_floating_point()), key=lambda t: t.bitwidth))


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)
