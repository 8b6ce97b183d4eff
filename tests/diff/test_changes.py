"""What differs: weights, types, interface, opset, and the schema of it all."""

import numpy as np
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.diff import Diff, compare, match
from sardonyx.diff.schema import InitializerChange
from sardonyx.diff.tensors import dequantized, distance
from sardonyx.diff.unified import summary_lines, unified_lines
from tests import models_for_tests as build

WEIGHT = build.weights(8, 8)


def product(weight: np.ndarray, name: str = "w") -> ir.Model:
    node = helper.make_node("MatMul", ["x", name], ["y"], name="matmul")
    return build.model([node], {"x": ["N", 8]}, {"y": ["N", 8]}, {name: weight})


def only(before: ir.Model, after: ir.Model) -> InitializerChange:
    (change,) = compare(before, after, match(before, after)).initializers
    return change


def test_equal_models_are_identical_and_renamed_ones_the_same() -> None:
    diff = compare(product(WEIGHT), product(WEIGHT), match(product(WEIGHT), product(WEIGHT)))
    assert (diff.same, diff.identical, diff.equal_initializers) == (True, True, 1)
    before, after = product(WEIGHT), product(WEIGHT, "other")
    diff = compare(before, after, match(before, after))
    assert (diff.same, diff.identical) == (True, False)
    assert only(before, after).how == "renamed"


def test_changed_values_are_measured() -> None:
    other = WEIGHT.copy()
    other[2, 3] += 0.5
    change = only(product(WEIGHT), product(other))
    assert (change.how, change.elements) == ("values", 1)
    assert change.max_abs == pytest.approx(0.5, rel=1e-6)
    assert change.max_rel == pytest.approx(0.5 / abs(WEIGHT[2, 3]), rel=1e-6)
    signal = 10 * np.log10(np.square(WEIGHT.astype(np.float64)).sum() / 0.25)
    assert change.sqnr_db == pytest.approx(signal, rel=1e-6)


def test_a_value_that_is_not_finite_in_one_model_is_infinitely_far() -> None:
    other = WEIGHT.copy()
    other[0, 0] = np.nan
    change = only(product(WEIGHT), product(other))
    assert change.max_abs == np.inf
    assert change.sqnr_db is None


def test_half_precision_is_another_type_of_the_same_values() -> None:
    def weight(dtype: type) -> ir.Model:
        nodes = [
            helper.make_node("Cast", ["w"], ["c"], name="cast", to=1),
            helper.make_node("MatMul", ["x", "c"], ["y"], name="matmul"),
        ]
        return build.model(nodes, {"x": ["N", 8]}, {"y": ["N", 8]}, {"w": WEIGHT.astype(dtype)})

    change = only(weight(np.float32), weight(np.float16))
    assert (change.how, change.dtype_before, change.dtype_after) == ("type", "FLOAT", "FLOAT16")


def test_a_transposed_weight_has_another_shape_and_the_same_values() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transB=1)]
    weight = build.weights(4, 8)
    after = build.model(nodes, {"x": ["N", 8]}, {"y": ["N", 4]}, {"w": weight})
    plain = [helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm")]
    before = build.model(plain, {"x": ["N", 8]}, {"y": ["N", 4]}, {"w": weight.T.copy()})
    assert only(before, after).how == "shape"


def test_opset_interface_and_metadata_are_named() -> None:
    before = build.model([helper.make_node("Relu", ["x"], ["y"], name="r")], {"x": [4]}, {"y": [4]}, opset=17)
    after = build.model([helper.make_node("Relu", ["x"], ["y"], name="r")], {"x": ["N"]}, {"y": ["N"]}, opset=18)
    after.metadata_props["author"] = "someone"
    diff = compare(before, after, match(before, after))
    assert [(c.name, c.before, c.after) for c in diff.opsets] == [("ai.onnx", "17", "18")]
    assert ("input x", "FLOAT[4]", "FLOAT[N]") in [(c.name, c.before, c.after) for c in diff.interface]
    assert ("metadata author", None, "someone") in [(c.name, c.before, c.after) for c in diff.metadata]
    assert not diff.same


def test_the_document_reads_back_and_refuses_what_it_does_not_know() -> None:
    before, after = product(WEIGHT), product(WEIGHT * 2)
    diff = compare(before, after, match(before, after))
    assert Diff.model_validate_json(diff.model_dump_json()) == diff
    with pytest.raises(ValueError, match="surprise"):
        Diff.model_validate(diff.model_dump() | {"surprise": 1})


def test_costs_count_what_a_region_reads() -> None:
    before = product(WEIGHT)
    diff = compare(before, before, match(before, before))
    assert (diff.before.cost.parameters, diff.before.cost.macs, diff.before.cost.weight_bytes) == (64, 64, 256)


def test_the_summary_counts_nodes() -> None:
    def chain(*operators: str) -> ir.Model:
        names = ["x", *(f"t{i}" for i in range(len(operators) - 1)), "y"]
        nodes = [
            helper.make_node(kind, [names[i]], [names[i + 1]], name=f"{kind}{i}") for i, kind in enumerate(operators)
        ]
        return build.model(nodes, {"x": [4]}, {"y": [4]})

    before, after = chain("Exp", "Neg", "Abs", "Tanh"), chain("Exp", "Tanh")
    for key in range(7):
        after.metadata_props[f"book {key}"] = "kept"
    lines = list(summary_lines(compare(before, after, match(before, after))))
    (nodes,) = (line for line in lines if line.startswith("  nodes"))
    assert nodes.startswith("  nodes       4 -> 2: ")
    gone = sum(int(part.split()[0]) for part in nodes.split(": ")[1].split(", "))
    assert gone == 4
    assert sum("book" in line for line in lines) == 5
    assert any(line.endswith("and 2 more") for line in lines)


def test_control_characters_of_names_do_not_reach_the_terminal() -> None:
    before, after = product(WEIGHT), product(WEIGHT * 2)
    after.graph.node("matmul").name = "\x1b[31m[bold]evil\n@@"
    diff = compare(before, after, match(before, after))
    lines = [*summary_lines(diff), *unified_lines(before, after, diff, ("a\x1b", "b"))]
    assert all(line.isprintable() for line in lines)
    assert "-w: FLOAT[8x8]" in lines


def test_blocks_of_integers_stand_for_floats() -> None:
    tensor = ir.tensor(np.arange(8, dtype=np.int8).reshape(2, 4))
    found = dequantized(tensor, np.array([[1, 10], [2, 20]], np.float32), None, 1)
    assert found is not None
    assert found.tolist() == [[0, 1, 20, 30], [8, 10, 120, 140]]
    assert dequantized(tensor, np.ones(3, np.float32), None, 1) is None


def test_distance_of_text_is_unknown() -> None:
    words = [np.array(["a", "b"], object)]
    assert distance(words, words) is None


def test_attributes_of_a_node_that_another_was_fused_with() -> None:
    def padded(fused: bool) -> ir.Model:
        pad = [helper.make_node("Pad", ["x", "pads"], ["p"], name="pad")]
        conv = helper.make_node("Conv", ["x" if fused else "p", "w"], ["y"], name="conv", pads=[int(fused)] * 4)
        constants = {"w": build.weights(4, 3, 3, 3)} | ({} if fused else {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])})
        return build.model([*([] if fused else pad), conv], {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}, constants)

    before, after = padded(False), padded(True)
    (region,) = compare(before, after, match(before, after)).regions
    assert region.how == "fused"
    assert [(c.name, c.before, c.after) for c in region.attributes] == [("pads", "[0, 0, 0, 0]", "[1, 1, 1, 1]")]
