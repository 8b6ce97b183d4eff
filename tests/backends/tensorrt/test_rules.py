"""The table of rules itself: documented, unique, true to the parser; and rules about the graph as a whole."""

from collections import Counter
from pathlib import Path

import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper

from sardonyx.backends.tensorrt.findings import Severity
from sardonyx.backends.tensorrt.preflight import preflight
from sardonyx.backends.tensorrt.rules import RULES, Rule
from sardonyx.backends.tensorrt.rules.operators import KNOWN
from sardonyx.backends.tensorrt.settings import ShapeRange
from tests.backends.tensorrt.nets import MICROSOFT, Net
from tests.models_for_tests import weights

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "tensorrt-rules.md"


def test_each_rule_has_a_name_of_its_own_and_ends_in_a_sentence() -> None:
    assert all(count == 1 for count in Counter(rule.name for rule in RULES).values())
    assert all(rule.message.endswith((".", ").")) and rule.remedy.endswith(".") for rule in RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_is_documented(rule: Rule) -> None:
    assert f"| `{rule.name}` | {rule.severity} |" in DOCUMENT.read_text(encoding="utf-8")


def test_the_document_has_no_other_rules() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").split("## The rules")[1].splitlines()
    documented = {line.split("`")[1] for line in lines if line.startswith("| `")}
    assert documented == {rule.name for rule in RULES}


def test_known_operators_are_those_of_the_parser() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="the builder of tensorrt-rtx is not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    parser = trt.OnnxParser(builder.create_network(1), logger)
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    assert {name for name in standard if parser.supports_operator(name)} == KNOWN & standard


def found(proto: onnx.ModelProto, profile: tuple[ShapeRange, ...] | None = None) -> dict[str, str]:
    """Messages by rule."""
    return {each.rule: each.message for each in preflight(onnx_ir.from_proto(proto), profile=profile, legalizes=False)}


def dynamic() -> onnx.ModelProto:
    net = Net()
    return net.model(net.op("Relu", net.input(("N", 4, 8))))


def test_dynamic_sizes_need_a_profile() -> None:
    assert "'x' has the shape [N,4,8]" in found(dynamic())["no-profile"]


def shapes(*sizes: tuple[int, ...], name: str = "x") -> tuple[ShapeRange, ...]:
    return (ShapeRange(name, *sizes),)


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ((), "gives no shapes to an input of shape [N,4,8]"),
        (shapes((1, 4, 8), (2, 4, 8), (4, 4, 8), name="y"), "names no input of the model; inputs are x"),
        (shapes((1, 4), (2, 4), (4, 4)), "has 2 dimensions where the input has 3"),
        (shapes((1, 3, 8), (2, 3, 8), (4, 3, 8)), "has 3:3:3 at dimension 1, which is fixed at 4"),
    ],
)
def test_profiles_must_fit(profile: tuple[ShapeRange, ...], reason: str) -> None:
    proto = dynamic()
    messages = [
        each.message for each in preflight(onnx_ir.from_proto(proto), profile=profile) if each.rule == "bad-profile"
    ]
    assert any(reason in message for message in messages)


def test_a_profile_that_fits_says_nothing() -> None:
    assert found(dynamic(), shapes((1, 4, 8), (2, 4, 8), (4, 4, 8))) == {}


def test_outputs_must_be_made() -> None:
    net = Net()
    net.op("Relu", net.input((4,)))
    assert "output-not-produced" in found(net.model("nothing"))
    assert "no-output" in found(net.model())


def test_inputs_without_elements_or_with_too_many_are_found() -> None:
    for size, rule in ((0, "empty-input"), (2**40, "huge-input")):
        net = Net()
        assert rule in found(net.model(net.op("Relu", net.input((size, 4)))))


def test_operators_that_share_a_name_with_standard_ones_are_found() -> None:
    net = Net()
    x = net.input((1, 4, 8))
    made = net.op("Attention", x, net.const(weights(8, 24)), net.const(weights(24)), num_heads=2, domain=MICROSOFT)
    assert "takes it for the standard Attention" in found(net.model(made))["other-meaning"]


def test_initializers_declared_otherwise_are_found() -> None:
    net = Net()
    proto = net.model(net.op("Relu", net.op("Identity", net.const(weights(4), "k"))))
    proto.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [3]))
    assert "'k' is declared [3], and its data has [4]" in found(proto)["initializer-size"]


def test_shapes_that_contradict_are_found() -> None:
    net = Net()
    made = net.op("Conv", net.input((1, 5, 8, 8)), net.const(weights(4, 3, 3, 3)))
    assert "'x' has 5 channels, and its weights take 3" in found(net.model(made))["conv-channels"]
    net = Net()
    made = net.op("Add", net.input((3,), "a"), net.input((4,), "b"))
    assert "Incompatible dimensions" in found(net.model(made))["shape-contradiction"]


def test_a_finding_in_a_subgraph_names_its_node() -> None:
    net = Net()
    x, flag = net.input((4,)), net.input((), "flag", TensorProto.BOOL)
    branches = [
        helper.make_graph(
            [helper.make_node("Sparkle", [x], [f"{name}_out"], name=name, domain="com.example")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [4])],
        )
        for name in ("first", "second")
    ]
    proto = net.model(net.op("If", flag, then_branch=branches[0], else_branch=branches[1]))
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    unknown = [each for each in preflight(onnx_ir.from_proto(proto)) if each.rule == "unknown-operator"]
    assert {each.node for each in unknown} == {"first", "second"}
    assert all(each.severity is Severity.REFUSED for each in unknown)
