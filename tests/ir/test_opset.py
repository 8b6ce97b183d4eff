"""Raising old opsets: the function stays, and what the converter cannot do is said."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, version_converter

from sardonyx import ir
from sardonyx.ir.opset_steps import WIDENED
from tests.ir.models import RNG, linear, model

X = RNG.standard_normal((1, 4, 6, 6), dtype=np.float32)

OPERATORS = {
    "clip": (9, [helper.make_node("Clip", ["x"], ["y"], min=-0.5, max=0.5)], {}),
    "softmax": (11, [helper.make_node("Softmax", ["x"], ["y"], axis=1)], {}),
    "softmax last axis": (12, [helper.make_node("Softmax", ["x"], ["y"], axis=3)], {}),
    "pad": (9, [helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 1], value=3.0)], {}),
    "slice": (9, [helper.make_node("Slice", ["x"], ["y"], axes=[2], starts=[1], ends=[5])], {}),
    "squeeze": (
        11,
        [
            helper.make_node("Squeeze", ["x"], ["s"], axes=[0]),
            helper.make_node("Unsqueeze", ["s"], ["y"], axes=[0]),
        ],
        {},
    ),
    "reduce sum": (12, [helper.make_node("ReduceSum", ["x"], ["y"], axes=[2, 3], keepdims=1)], {}),
    "upsample nearest": (
        9,
        [helper.make_node("Upsample", ["x", "scales"], ["y"], mode="nearest")],
        {"scales": np.float32([1, 1, 1.5, 2])},
    ),
    "upsample linear": (
        9,
        [helper.make_node("Upsample", ["x", "scales"], ["y"], mode="linear")],
        {"scales": np.float32([1, 1, 2, 2])},
    ),
    "resize": (
        10,
        [helper.make_node("Resize", ["x", "scales"], ["y"], mode="linear")],
        {"scales": np.float32([1, 1, 2, 1.5])},
    ),
    "batch norm": (
        9,
        [helper.make_node("BatchNormalization", ["x", "a", "b", "c", "d"], ["y"])],
        {name: np.abs(RNG.standard_normal(4, dtype=np.float32)) for name in "abcd"},
    ),
    "dropout": (11, [helper.make_node("Dropout", ["x"], ["y"], ratio=0.3)], {}),
    "conv": (
        9,
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        {"w": RNG.standard_normal((16, 4, 3, 3), dtype=np.float32)},
    ),
}


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("ir_version", [3, 6])
@pytest.mark.parametrize("name", OPERATORS)
def test_function_stays(name: str, ir_version: int) -> None:
    opset, nodes, constants = OPERATORS[name]
    listed = {n: a.shape for n, a in constants.items()} if ir_version == 3 else {}
    proto = model(nodes, {"x": X.shape, **listed}, {"y": None}, constants, opset=opset, ir_version=ir_version)
    loaded = ir.load(proto)
    assert loaded.model.opset_imports[""] == 17
    assert loaded.model.ir_version == 8
    assert "opset-raised" in [repair.kind for repair in loaded.repairs]
    assert [value.name for value in loaded.model.graph.inputs] == ["x"]
    assert ir.verify(loaded.model) == ()
    onnx.checker.check_model(ir.to_proto(loaded.model), full_check=True)
    np.testing.assert_allclose(
        run(ir.serialize(loaded.model), X), run(proto.SerializeToString(), X), rtol=1e-5, atol=1e-6
    )


def test_weights_are_lifted_and_come_back_shared(tmp_path: Path) -> None:
    saved = ir.save(ir.load(linear(np.ones((40, 30), np.float32))).model, tmp_path / "m.onnx", external_data=True)
    proto = onnx.load(saved.path, load_external_data=False)
    proto.opset_import[0].version = 9
    saved.path.write_bytes(proto.SerializeToString())
    tensor = ir.load(saved.path).model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.numpy().sum() == 1200


@pytest.mark.parametrize(("version", "asked", "expected"), [(13, 17, 13), (18, 17, 18), (12, 13, 13), (9, 19, 19)])
def test_never_lowered_and_only_below_13(version: int, asked: int, expected: int) -> None:
    assert ir.load(linear(opset=version), opset=asked).model.opset_imports[""] == expected


def test_custom_operators_pass_through() -> None:
    nodes = [
        helper.make_node("Foo", ["x"], ["h"], domain="custom", name="foo", strength=2),
        helper.make_node("Clip", ["h"], ["y"], min=0.0, max=1.0, name="clip"),
    ]
    proto = model(nodes, {"x": [2]}, {"y": [2]}, opset=9)
    proto.opset_import.add(domain="custom", version=3)
    loaded = ir.load(proto).model
    assert loaded.opset_imports == {"": 17, "custom": 3}
    foo = next(node for node in loaded.graph if node.domain)
    assert (foo.op_type, foo.attributes["strength"].as_int()) == ("Foo", 2)


def test_operator_that_the_converter_does_not_know() -> None:
    proto = model([helper.make_node("NotThere", ["x"], ["y"], name="n")], {"x": [2]}, {"y": [2]}, opset=9)
    loaded = ir.load(proto)
    assert loaded.model.opset_imports[""] == 9
    (repair,) = loaded.repairs
    assert repair.kind == "opset-kept"
    assert "NotThere" in repair.message


def test_functions_keep_the_opset() -> None:
    proto = model([helper.make_node("Twice", ["x"], ["y"], domain="f", name="n")], {"x": [2]}, {"y": [2]}, opset=12)
    proto.opset_import.add(domain="f", version=1)
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    imports = [helper.make_opsetid("", 12)]
    proto.functions.append(helper.make_function("f", "Twice", ["a"], ["b"], body, imports))
    loaded = ir.load(proto)
    assert [repair.kind for repair in loaded.repairs if repair.kind.startswith("opset")] == ["opset-kept"]
    assert len(loaded.model.functions) == 1


def test_metadata_survives() -> None:
    proto = linear(opset=11)
    proto.metadata_props.add(key="author", value="someone")
    proto.producer_name = "exporter"
    loaded = ir.load(proto).model
    assert loaded.metadata_props == {"author": "someone"}
    assert loaded.producer_name == "exporter"


REDUCED = {"axes": [2, 3], "keepdims": 1}
RAISED_IN_PLACE = {
    "reduce mean": [helper.make_node("ReduceMean", ["x"], ["y"], **REDUCED)],
    "reduce max of all": [helper.make_node("ReduceMax", ["x"], ["y"])],
    "even split": [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ],
    "split by sizes": [
        helper.make_node("Constant", [], ["sizes"], value_ints=[1, 3]),
        helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ],
    "sizes": [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("LeakyRelu", ["r"], ["y"], alpha=0.2),
    ],
}


@pytest.mark.parametrize("name", RAISED_IN_PLACE)
def test_raised_in_place_as_by_the_converter(name: str) -> None:
    proto = model(RAISED_IN_PLACE[name], {"x": X.shape}, {"y": None}, opset=14)
    raised = ir.load(proto).model
    graph = raised.graph
    assert ir.ensure_opset(raised, 20) is None
    assert raised.graph is graph
    assert raised.opset_imports[""] == 20
    assert ir.verify(raised) == ()
    data = ir.serialize(raised)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    expected = run(proto.SerializeToString(), X)
    np.testing.assert_array_equal(run(data, X), expected)
    np.testing.assert_array_equal(
        run(version_converter.convert_version(proto, 20).SerializeToString(), X), expected, strict=True
    )


def test_shapes_stay_known_where_the_opset_is_raised_in_place() -> None:
    raised = ir.load(model(RAISED_IN_PLACE["reduce mean"], {"x": X.shape}, {"y": None}, opset=14)).model
    before = ir.ensure_shapes(raised)
    ir.ensure_opset(raised, 18)
    assert ir.ensure_shapes(raised) is before


def test_what_is_not_known_to_be_the_same_is_left_to_the_converter() -> None:
    nodes = [helper.make_node("GridSample", ["x", "grid"], ["y"], mode="bilinear")]
    raised = ir.load(model(nodes, {"x": X.shape, "grid": [1, 3, 3, 2]}, {"y": None}, opset=16)).model
    graph = raised.graph
    assert ir.ensure_opset(raised, 20) is None
    assert raised.graph is not graph
    assert raised.graph[0].attributes["mode"].as_string() == "linear"


@pytest.mark.parametrize(("op_type", "opset"), [(name, opset) for name, all_ in WIDENED.items() for opset in all_])
def test_widened_operators_take_what_they_took_before(op_type: str, opset: int) -> None:
    before, after = onnx.defs.get_schema(op_type, opset - 1), onnx.defs.get_schema(op_type, opset)
    assert before.since_version < opset == after.since_version
    assert after.min_input <= before.min_input
    assert [p.name for p in before.inputs] == [p.name for p in after.inputs][: len(before.inputs)]
    assert (before.min_output, before.max_output) == (after.min_output, after.max_output)
    for name, attribute in after.attributes.items():
        if name in before.attributes:
            assert attribute.default_value == before.attributes[name].default_value
        assert not attribute.required or before.attributes[name].required
    assert before.attributes.keys() <= after.attributes.keys()
