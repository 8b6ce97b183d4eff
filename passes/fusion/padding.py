"""Rules that fold a Pad into the padding of the convolution or pooling behind it."""

from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.rewriting.pattern import Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

NO_PADS: tuple[int, ...] = ()
NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Abs", "Exp"})
"""Operators whose results are never below 0, so that a maximum with a 0 beside them is the maximum without it."""


class _FusePad(Rule):
    """Adds the amounts of a Pad to the `pads` of the node behind it."""

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses padding that the node cannot express."""
        pad, node = found.named["pad"], found.root
        amounts = _spatial_padding(pad)
        if isinstance(amounts, str):
            return amounts
        if ir.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return f"the auto_pad of {node.name} depends on the padded size"
        own = ir.attribute(node, "pads", NO_PADS)
        if own and len(own) != len(amounts):
            return f"the pads of {node.name} do not fit the rank of {pad.name}"
        return self.obstacle(found, _total(amounts, own))

    def obstacle(self, found: Match, pads: list[int]) -> str | None:
        """Returns why this operator cannot pad so, or None."""
        return _zero_obstacle(found.named["pad"])

    def attributes(self) -> tuple[ir.Attr, ...]:
        """Returns attributes that go with the padding."""
        return ()

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the node with the sum of both paddings."""
        amounts = _spatial_padding(found.named["pad"])
        assert isinstance(amounts, list), "the check refuses other padding"
        pads = _total(amounts, ir.attribute(found.root, "pads", NO_PADS))
        attributes = {a.name: a for a in found.root.attributes.values() if a.name != "auto_pad"}
        attributes |= {a.name: a for a in (ir.AttrInt64s("pads", pads), *self.attributes())}
        inputs = [found.values["x"], *found.root.inputs[1:]]
        return editor.op(found.root.op_type, inputs, list(attributes.values()))


_PAD = Op("Pad", Var("x"), Const("amounts"), name="pad", open_inputs=True)


class FusePad(_FusePad):
    """A Pad that adds zeros to spatial axes is what the `pads` of a convolution do."""

    name = "fuse-pad"
    summary = "Pad with zeros before Conv goes into its pads"
    pattern: ClassVar[Op] = Op("Conv", _PAD, Var("weight"), open_inputs=True)


class _FusePadIntoPool(_FusePad):
    def obstacle(self, found: Match, pads: list[int]) -> str | None:
        """Refuses windows that may lie in the padding alone, and outputs that count positions."""
        node = found.root
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return f"the indices of {node.name} are used"
        if ir.attribute(node, "ceil_mode", 0) or any(d != 1 for d in ir.attribute(node, "dilations", NO_PADS)):
            return f"{node.name} rounds up or is dilated"
        kernel = ir.attribute(node, "kernel_shape", NO_PADS)
        if any(pad >= size for pad, size in zip(pads, (*kernel, *kernel), strict=True)):
            return f"the padding would be as large as the window of {node.name}"
        return None


class FusePadIntoAveragePool(_FusePadIntoPool):
    """An AveragePool that counts its padding averages over the zeros, as it does over those of a Pad."""

    name = "fuse-pad-into-average-pool"
    summary = "Pad with zeros before AveragePool goes into its pads, which it then counts"
    pattern: ClassVar[Op] = Op("AveragePool", _PAD)

    def obstacle(self, found: Match, pads: list[int]) -> str | None:
        """Refuses a pool that leaves its own padding out, and values other than 0."""
        if any(ir.attribute(found.root, "pads", NO_PADS)) and not ir.attribute(found.root, "count_include_pad", 0):
            return f"{found.root.name} counts the zeros of the Pad, but not its own"
        return _zero_obstacle(found.named["pad"]) or super().obstacle(found, pads)

    def attributes(self) -> tuple[ir.Attr, ...]:
        """Counts the padding."""
        return (ir.AttrInt64("count_include_pad", 1),)


class FusePadIntoMaxPool(_FusePadIntoPool):
    """A MaxPool ignores its padding, as it does zeros beside values that are not negative, and minus infinity."""

    name = "fuse-pad-into-max-pool"
    summary = "Pad before MaxPool goes into its pads where the padded values cannot be the maximum"
    pattern: ClassVar[Op] = Op("MaxPool", _PAD)

    def obstacle(self, found: Match, pads: list[int]) -> str | None:
        """Refuses padding that may be the maximum."""
        value, producer = pad_value(found.named["pad"]), found.values["x"].producer()
        hidden = value == 0 and producer is not None and not producer.domain and producer.op_type in NOT_NEGATIVE
        if not hidden and not (value is not None and np.isneginf(value)):
            return f"the value {value} of {found.named['pad'].name} may be the maximum"
        return super().obstacle(found, pads)


def pad_value(pad: ir.Node) -> float | None:
    """Returns what a Pad adds, or None where that is not constant."""
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    tensor = ir.constant_tensor(value) if value is not None else None
    if value is None:
        return 0.0
    return None if tensor is None else float(tensor.numpy().item())


def _zero_obstacle(pad: ir.Node) -> str | None:
    return None if pad_value(pad) == 0 else f"the value of {pad.name} is not 0"


def _total(amounts: list[int], own: tuple[int, ...]) -> list[int]:
    return [a + b for a, b in zip(amounts, own or (0,) * len(amounts), strict=True)]


def _spatial_padding(pad: ir.Node) -> list[int] | str:
    """The amounts a Pad adds to the spatial axes, begins then ends, or why they are not only that."""
    mode = ir.attribute(pad, "mode", "constant")
    if mode != "constant":
        return f"the mode of {pad.name} is {mode}, not constant"
    tensor = ir.constant_tensor(pad.inputs[1]) if pad.inputs[1] is not None else None
    if tensor is None or pad_value(pad) is None:
        return f"the amounts or the value of {pad.name} are not constant"
    amounts = [int(a) for a in tensor.numpy()]
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        axes, shape = ir.constant_tensor(pad.inputs[3]), pad.inputs[0].shape if pad.inputs[0] is not None else None
        if axes is None or shape is None:
            return f"the axes of {pad.name} are not constant, or the rank of its input is unknown"
        amounts = _spread(amounts, [int(a) % len(shape) for a in axes.numpy()], len(shape))
    rank = len(amounts) // 2
    begins, ends = amounts[:rank], amounts[rank:]
    if any(begins[:2]) or any(ends[:2]):
        return f"{pad.name} adds to the batch or channel axis"
    if min(amounts) < 0:
        return f"{pad.name} crops"
    return begins[2:] + ends[2:]


def _spread(amounts: list[int], axes: list[int], rank: int) -> list[int]:
    """Amounts for all axes from amounts for some."""
    full = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        full[axis] = amounts[position]
        full[rank + axis] = amounts[len(axes) + position]
    return full


RULES = (FusePad(), FusePadIntoAveragePool(), FusePadIntoMaxPool())
