"""Folding a Pad with zeros into the padding of the convolution after it."""

from dataclasses import dataclass

from sardonyx import ir
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.provenance import mark

NO_PADS: tuple[int, ...] = ()


@dataclass(frozen=True)
class FusePad(Pass):
    """Rewrites Conv(Pad(x)) to Conv(x) with larger `pads`, where Pad adds constant zeros to spatial axes only."""

    name = "fuse-pad"
    summary = "fold a Pad with zeros into the Conv after it"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Fuses wherever the amounts of padding are constant; a Pad that others read too stays for them."""
        fused = 0
        refusals = []
        for graph in ir.all_graphs(model):
            for node in graph:
                pad = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
                if node.op_type != "Conv" or node.domain or pad is None or pad.op_type != "Pad" or pad.domain:
                    continue
                amounts = _spatial_padding(pad)
                reason = amounts if isinstance(amounts, str) else _conv_obstacle(node, amounts)
                if reason is not None or isinstance(amounts, str):
                    refusals.append(Refusal(self.name, str(reason), (pad.name or "", node.name or "")))
                    continue
                _fuse(graph, pad, node, amounts)
                fused += 1
        return PassResult(model, fused > 0, {self.name: fused} if fused else {}, tuple(refusals))


def _spatial_padding(pad: ir.Node) -> list[int] | str:
    """The amounts a Pad adds to the spatial axes, begins then ends, or why they do not fit a Conv."""
    if ir.attribute(pad, "mode", "constant") != "constant":
        return f"the Pad's mode is {ir.attribute(pad, 'mode', 'constant')}, not constant"
    if len(pad.inputs) < 2:
        return "the Pad has the form of an opset before 11"
    tensors = [ir.constant_tensor(v) if v is not None else None for v in pad.inputs[1:]]
    if any(t is None and v is not None for t, v in zip(tensors, pad.inputs[1:], strict=True)) or tensors[0] is None:
        return "the amounts or the value of the Pad are not constant"
    if len(tensors) > 1 and tensors[1] is not None and tensors[1].numpy().item() != 0:
        return "the Pad's value is not 0"
    amounts = [int(a) for a in tensors[0].numpy()]
    if len(tensors) > 2 and tensors[2] is not None:
        axes = tensors[2].numpy()
        shape = pad.inputs[0].shape if pad.inputs[0] is not None else None
        if shape is None:
            return "the rank of the Pad's input is unknown"
        amounts = _spread(amounts, [int(a) % len(shape) for a in axes], len(shape))
    rank = len(amounts) // 2
    begins, ends = amounts[:rank], amounts[rank:]
    if any(begins[:2]) or any(ends[:2]):
        return "the Pad adds to the batch or channel axis"
    if min(amounts) < 0:
        return "the Pad crops"
    return begins[2:] + ends[2:]


def _spread(amounts: list[int], axes: list[int], rank: int) -> list[int]:
    """Amounts for all axes from amounts for some."""
    full = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        full[axis] = amounts[position]
        full[rank + axis] = amounts[len(axes) + position]
    return full


def _conv_obstacle(conv: ir.Node, amounts: list[int]) -> str | None:
    if ir.attribute(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "the Conv's auto_pad depends on the padded size"
    own = ir.attribute(conv, "pads", NO_PADS)
    if own and len(own) != len(amounts):
        return "the Conv's pads do not fit the Pad's rank"
    return None


def _fuse(graph: ir.Graph, pad: ir.Node, conv: ir.Node, amounts: list[int]) -> None:
    own = ir.attribute(conv, "pads", NO_PADS)
    total = [a + b for a, b in zip(amounts, own or [0] * len(amounts), strict=True)]
    conv.attributes["pads"] = ir.AttrInt64s("pads", total)
    conv.attributes.pop("auto_pad", None)
    conv.replace_input_with(0, pad.inputs[0])
    mark(conv, FusePad.name, conv.name, pad.name)
    if not pad.outputs[0].uses() and not pad.outputs[0].is_graph_output() and pad.graph is graph:
        graph.remove(pad, safe=True)
