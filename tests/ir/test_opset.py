"""Raising old opsets: the function stays, and what the converter cannot do is said."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from sardonyx import ir
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
