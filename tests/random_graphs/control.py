"""If, Loop and Scan, whose subgraphs use what is outside of them, and local functions."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.random_graphs import elementwise, linear, movement, sizes
from tests.random_graphs.scope import FLAG, IMAGE, SEQUENCE, Kind, Maker, Scope

INNER: tuple[Maker, ...] = (*elementwise.MAKERS, *linear.MAKERS, *movement.MAKERS, *sizes.MAKERS)
DOMAIN = "local"


def _fill(scope: Scope, kind: Kind) -> str:
    """Adds some nodes to a subgraph and one of its own that gives a value of a kind."""
    for _ in range(scope.choose(0, 1, 2)):
        scope.choose(*INNER)(scope)
    return scope.op(scope.choose("Relu", "Tanh", "Identity"), scope.take(kind))


def branches(scope: Scope) -> None:
    """If with a condition that is given, constant, or computed from constants."""
    kind: Kind = scope.choose(IMAGE, SEQUENCE)
    graphs = []
    for _ in range(2):
        inner = scope.inner()
        graphs.append(inner.graph({}, {_fill(inner, kind): scope.element}))
    truth = int(TensorProto.BOOL)
    constant = scope.constant(np.array(scope.flip()))
    condition = scope.choose(FLAG, constant, scope.op("Not", constant, element=truth))
    scope.give(kind, scope.op("If", condition, then_branch=graphs[0], else_branch=graphs[1]))


def repeated(scope: Scope) -> None:
    """Loop with a constant or a computed number of rounds over one carried value, which it also collects, perhaps."""
    kind: Kind = scope.choose(IMAGE, SEQUENCE)
    inner = scope.inner()
    index, going, carried = (inner.names.new(stem) for stem in ("index", "going", "carried"))
    inner.give(kind, carried)
    last = inner.op("Tanh", inner.op("Add", _fill(inner, kind), carried))
    still = inner.op("Identity", going, element=int(TensorProto.BOOL))
    outputs = {still: int(TensorProto.BOOL), last: scope.element}
    results = [scope.names.new("loop")]
    if scope.flip():
        outputs[inner.op("Identity", last)] = scope.element
        results.append(scope.names.new("collected"))
    inputs = {
        index: (int(TensorProto.INT64), ()),
        going: (int(TensorProto.BOOL), ()),
        carried: (scope.element, kind.value),
    }
    rounds = scope.choose(scope.constant(np.array(scope.choose(0, 1, 3), np.int64)), _rows(scope, kind))
    condition = scope.choose("", scope.constant(np.array(True)))
    scope.node("Loop", [rounds, condition, scope.take(kind)], results, body=inner.graph(inputs, outputs))
    scope.made |= dict.fromkeys(results, scope.element)
    scope.give(kind, results[0])


def _rows(scope: Scope, kind: Kind) -> str:
    shape = scope.op("Shape", scope.take(kind), element=int(TensorProto.INT64))
    return scope.op("Gather", shape, scope.constant(np.array(0, np.int64)), element=int(TensorProto.INT64))


def scanned(scope: Scope) -> None:
    """Scan along the length of a sequence: a running sum through a weight from outside."""
    inner = scope.inner()
    state, element = (inner.names.new(stem) for stem in ("state", "element"))
    weight = scope.weight(8, 8, scale=0.2)
    after = inner.op("Tanh", inner.op("Add", inner.op("MatMul", state, weight), element))
    inputs = dict.fromkeys((state, element), (scope.element, ("N", 8)))
    body = inner.graph(inputs, {after: scope.element, inner.op("Identity", after): scope.element})
    start = scope.reduce(
        "ReduceMax", scope.op("Tanh", scope.op("Concat", scope.take(SEQUENCE), _row(scope), axis=1)), 1, keep=False
    )
    results = [scope.names.new("scan") for _ in range(2)]
    scope.node(
        "Scan",
        [start, scope.take(SEQUENCE)],
        results,
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
    )
    scope.made |= dict.fromkeys(results, scope.element)
    scope.give(SEQUENCE, results[1])


def _row(scope: Scope) -> str:
    """[N, 1, 8] of a value's batch, so that a maximum over the length is never one over nothing."""
    batch = scope.squeeze("Unsqueeze", _rows(scope, SEQUENCE), 0, int(TensorProto.INT64))
    shape = scope.op("Concat", batch, scope.integers(1, 8), axis=0, element=int(TensorProto.INT64))
    return scope.op("Expand", scope.number(-1), shape)


def called(scope: Scope) -> None:
    """A call of a local function, of which a model has one or two, one calling the other."""
    kind: Kind = scope.choose(IMAGE, SEQUENCE)
    name = scope.choose("Blend", "Twice")
    for needed, (nodes, attributes) in _BODIES.items():
        imports = [helper.make_opsetid("", scope.opset), helper.make_opsetid(DOMAIN, 1)]
        scope.functions.setdefault(
            needed, helper.make_function(DOMAIN, needed, ["a", "b"], ["out"], list(nodes), imports, attributes)
        )
    arguments = {"slope": scope.choose(0.1, 0.5)} if name == "Blend" else {}
    scope.give(kind, scope.op(name, scope.take(kind), scope.take(kind), domain=DOMAIN, **arguments))


def _leaky() -> onnx.NodeProto:
    """LeakyRelu whose slope is an attribute of the function."""
    node = helper.make_node("LeakyRelu", ["sum"], ["out"])
    slope = onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    node.attribute.append(slope)
    return node


_BODIES: dict[str, tuple[Sequence[onnx.NodeProto], Sequence[str]]] = {
    "Blend": (
        [
            helper.make_node("Sigmoid", ["a"], ["gate"]),
            helper.make_node("Mul", ["gate", "b"], ["kept"]),
            helper.make_node("Identity", ["kept"], ["same"]),
            helper.make_node("Sub", ["same", "a"], ["sum"]),
            _leaky(),
        ],
        ["slope"],
    ),
    "Twice": (
        [
            helper.make_node("Blend", ["a", "b"], ["once"], domain=DOMAIN, slope=0.25),
            helper.make_node("Blend", ["once", "b"], ["out"], domain=DOMAIN, slope=0.5),
        ],
        [],
    ),
}

MAKERS: tuple[Maker, ...] = (branches, repeated, scanned, called)
