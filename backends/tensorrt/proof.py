"""The proof: which ONNX nodes an engine computes in which type, and what was meant to be INT8 and is not."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sardonyx import ir
from sardonyx.backends.engine import Miss, Proof
from sardonyx.backends.tensorrt.layers import Layer, weight_bytes

INT8 = "Int8"
"""What builders call the type."""

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that the proof is about."""

MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Expand", "Concat"})
"""Operators that only move data: a builder looks through them for the DequantizeLinear of an operand."""

_FOLDED = "no layer of the engine names it: the builder folded it, or joined it with other work"


def prove(
    model: ir.Model, layers: tuple[Layer, ...], planned: Iterable[str] = (), reasons: Mapping[str, str] | None = None
) -> Proof:
    """Maps a layer table back to the nodes of the model that was built.

    Args:
        model: The model that the builder parsed.
        layers: Its layer table.
        planned: Names of nodes that a plan meant to be INT8. Those whose two operands come from DequantizeLinear
            are meant to be so in any case.
        reasons: By node, why it is known not to run as INT8.
    """
    products = {node.name or "": node for node in _products(model)}
    named = set(planned)
    by_node = _layers_by_node(layers)
    precisions = {name: _precision(by_node.get(name, ())) for name in products}
    meant = [name for name, node in products.items() if name in named or is_quantized(node)]
    misses = tuple(
        Miss(name, products[name].op_type, precisions[name], _reason(name, by_node, reasons or {}))
        for name in meant
        if precisions[name] != INT8
    )
    return Proof(
        nodes=dict(Counter(precision or "none" for precision in precisions.values())),
        layers=dict(Counter(f"{layer.kind} {layer.precision}".strip() for layer in layers)),
        planned=len(meant),
        integer=len(meant) - len(misses),
        misses=misses,
        weight_bytes=weight_bytes(layers),
    )


def is_quantized(node: ir.Node) -> bool:
    """Whether both operands of a product come from DequantizeLinear, through data movement at most."""
    operands = node.inputs[:2]
    return len(operands) == 2 and all(_dequantized(operand) for operand in operands)


def _products(model: ir.Model) -> list[ir.Node]:
    return [n for graph in ir.all_graphs(model) for n in graph if n.op_type in PRODUCTS and not n.domain]


def _dequantized(value: ir.Value | None) -> bool:
    while value is not None:
        producer = value.producer()
        if producer is None:
            return False
        if producer.op_type == "DequantizeLinear":
            return True
        if producer.op_type not in MOVES:
            return False
        value = producer.inputs[0]
    return False


def _layers_by_node(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        for node in layer.nodes:
            found.setdefault(node, []).append(layer)
    return found


def _precision(layers: Sequence[Layer]) -> str:
    """The type that a node's product is computed in; where no layer of products names it, that of those that do."""
    computing = [layer for layer in layers if layer.computes_products] or list(layers)
    found = sorted({layer.precision for layer in computing})
    return found[0] if len(found) == 1 else " and ".join(found)


def _reason(name: str, by_node: Mapping[str, Sequence[Layer]], reasons: Mapping[str, str]) -> str:
    if name in reasons:
        return reasons[name]
    layers = [layer for layer in by_node.get(name, ()) if layer.computes_products]
    if not layers:
        return _FOLDED
    operands = ", ".join(each.dtype for each in layers[0].inputs)
    return f"the builder runs it as {layers[0].name} ({layers[0].kind}) on {operands}"
