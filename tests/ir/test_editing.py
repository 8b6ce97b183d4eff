"""Small helpers: names, constants, attributes, counts, digests, text, evaluation."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from sardonyx import ir
from sardonyx.errors import LoadError, PassError, VerifyError
from tests.ir.models import linear

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "custom" : 1]>
g (float[N, 4] x, bool c, float[4] d) => (float[N, 4] y)
<float[4] d = {1, 2, 3, 4}, float[4] w = {1, 2, 3, 4}>
{
  a = Add(x, w)
  k = Constant <value_float = 2.0> ()
  m = Mul(a, k)
  y = If(c) <
    then_branch = t () => (float[N, 4] p) { p = Relu(m) },
    else_branch = e () => (float[N, 4] q) {
      q = custom.Foo <axes = [1, 2], mode = "m", alpha = 0.5, keep = 1> (m)
    }>
}
"""


@pytest.fixture
def model() -> ir.Model:
    return ir.from_text(TEXT)


def find(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for graph in ir.all_graphs(model) for node in graph if node.op_type == op_type)


def test_counts(model: ir.Model) -> None:
    assert len(list(ir.all_graphs(model))) == 3
    assert ir.num_nodes(model) == 6
    assert ir.operator_counts(model) == {
        "Add": 1, "Constant": 1, "If": 1, "Mul": 1, "Relu": 1, "custom::Foo": 1,
    }  # fmt: skip
    assert ir.nbytes(model) == 32


def test_functions_count() -> None:
    model = ir.from_text("""
        <ir_version: 10, opset_import: ["" : 17, "f" : 1]>
        g (float[2] x) => (float[2] y) { y = f.twice(x) }
        <domain: "f", opset_import: ["" : 17]> twice (a) => (b) { c = Neg(a) b = Add(c, c) }""")
    assert ir.num_nodes(model) == 3
    assert [len(graph) for graph in ir.all_graphs(model)] == [1, 2]


def test_constants(model: ir.Model) -> None:
    initializers = model.graph.initializers
    weight = ir.constant_tensor(initializers["w"])
    assert weight is not None
    assert weight.shape == (4,)
    assert ir.constant_tensor(initializers["d"]) is None  # a default that a caller may override
    two = ir.constant_tensor(find(model, "Constant").outputs[0])
    assert two is not None
    assert two.numpy() == 2.0
    assert ir.constant_tensor(model.graph.inputs[0]) is None
    assert ir.constant_tensor(find(model, "Mul").outputs[0]) is None


def test_names(model: ir.Model) -> None:
    names = ir.NameAuthority(model)
    assert [names.value(name) for name in ("m", "m", "x", "p", "new", "new")] == [
        "m_1", "m_2", "x_1", "p_1", "new", "new_1",
    ]  # fmt: skip
    assert names.node(find(model, "Add").name or "") == "Add_1"
    assert names.node("Other") == "Other"


def test_initializers_are_never_overwritten(model: ir.Model) -> None:
    value = ir.add_initializer(model.graph, "scale", np.float32(0.5).reshape(()))
    assert (value.dtype, value.shape, value.is_initializer()) == (ir.DataType.FLOAT, (), True)
    with pytest.raises(ValueError, match="already registered"):
        ir.add_initializer(model.graph, "scale", np.zeros(1, np.float32))
    assert ir.constant_tensor(value).numpy() == 0.5


def test_attributes(model: ir.Model) -> None:
    foo = find(model, "Foo")
    assert ir.attribute(foo, "axes", ()) == (1, 2)
    assert ir.attribute(foo, "mode", "") == "m"
    assert ir.attribute(foo, "alpha", 0.0) == 0.5
    assert ir.attribute(foo, "keep", 0) == 1
    assert ir.attribute(foo, "absent", 7) == 7
    assert ir.attribute(foo, "axes", None) == (1, 2)
    with pytest.raises(VerifyError, match="'mode' of node 'Foo'"):
        ir.attribute(foo, "mode", 3)


def test_attribute_of_a_function_parameter() -> None:
    model = ir.from_text("""
        <ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[2] x) => (float[2] y) { y = f.leak <s = 0.5> (x) }
        <domain: "f", opset_import: ["" : 17]>
        leak <s> (a) => (b) { b = LeakyRelu <alpha : float = @s> (a) }""")
    with pytest.raises(VerifyError, match="Inline"):
        ir.attribute(find(model, "LeakyRelu"), "alpha", 0.01)


def test_text_round_trip(model: ir.Model) -> None:
    assert ir.to_text(ir.from_text(ir.to_text(model))) == ir.to_text(model)
    assert all(node.name for graph in ir.all_graphs(model) for node in graph)
    assert "w =" not in ir.to_text(model, initializers=False)


@pytest.mark.parametrize("text", ["", "nonsense", TEXT.replace("}", ""), TEXT.replace("m = Mul", "a = Mul")])
def test_bad_text(text: str) -> None:
    with pytest.raises(LoadError):
        ir.from_text(text)


def test_digest_sees_what_matters(tmp_path: Path, model: ir.Model) -> None:
    first = ir.digest(model)
    assert ir.digest(ir.clone(model)) == first
    changed = []
    for edit in (
        lambda m: setattr(m.graph.initializers["w"], "const_value", ir.tensor(np.zeros(4, np.float32))),
        lambda m: setattr(find(m, "Relu"), "op_type", "Abs"),
        lambda m: find(m, "Foo").attributes.add(ir.AttrInt64("keep", 0)),
        lambda m: m.opset_imports.update({"": 18}),
    ):
        copy = ir.clone(model)
        edit(copy)
        changed.append(ir.digest(copy))
    assert len({first, *changed}) == 5
    documented = ir.clone(model)
    documented.producer_name = "someone"
    documented.graph.doc_string = "a note"
    find(documented, "Add").metadata_props["from"] = "there"
    find(documented, "Add").outputs[0].shape = None
    assert ir.digest(documented) == first
    (tmp_path / "f").write_bytes(b"abc")
    assert ir.file_sha256(tmp_path / "f").startswith("ba7816bf")


def test_digest_does_not_depend_on_where_weights_are(tmp_path: Path) -> None:
    model = ir.load(linear(np.ones((40, 30), np.float32))).model
    inside = ir.load(ir.save(model, tmp_path / "a.onnx", external_data=False).path).model
    outside = ir.load(ir.save(model, tmp_path / "b.onnx", external_data=True).path).model
    assert ir.digest(model) == ir.digest(inside) == ir.digest(outside)


def node_of(body: str, inputs: str = "float[4] x") -> ir.Node:
    return ir.from_text(f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (y) {{ {body} }}').graph[0]


def evaluate(node: ir.Node, *inputs: np.ndarray | None) -> list[np.ndarray]:
    return ir.evaluate_node(node, inputs, opset_imports={"": 17})


def test_evaluation() -> None:
    x = np.float32([1, -2, 3, -4])
    np.testing.assert_array_equal(evaluate(node_of("y = Relu(x)"), x)[0], [1, 0, 3, 0])
    np.testing.assert_array_equal(
        evaluate(node_of('y = Clip(x, "", high)', "float x, float high"), x, None, np.float32(1))[0],
        [1, -2, 1, -4],
    )
    first, second = evaluate(node_of("y, z = Split(x)"), x)
    np.testing.assert_array_equal(np.concatenate([first, second]), x)
    (only,) = evaluate(node_of("y = Shape(x)"), x)
    assert only.tolist() == [4]
    assert only.dtype == np.int64
    half = x.astype(ml_dtypes.bfloat16)
    assert evaluate(node_of("y = Neg(x)"), half)[0].dtype == half.dtype


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = MatMul(x, x)", "'MatMul'"),
        ("y = custom.Foo(x)", "custom::Foo"),
        ("y = NotThere(x)", "NotThere"),
        ("y = If(x) <then_branch = a () => (float[4] p) { p = Neg(x) }>", "subgraphs"),
    ],
)
def test_evaluation_that_fails_says_why(body: str, message: str) -> None:
    node = node_of(body, "float[2, 3] x")
    inputs = [np.zeros((2, 3), np.float32)] * len(node.inputs)
    with pytest.raises(ir.EvaluationError, match=message) as caught:
        evaluate(node, *inputs)
    assert isinstance(caught.value, PassError)
