"""Nodes by pattern: names, operators and regions."""

import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.errors import SpecError
from sardonyx.measure import describe_machine, load_samples
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.plan import QuantPlan
from sardonyx.passes.quantization.selection import select
from sardonyx.passes.quantization.static import QuantizeStatic
from tests import models_for_tests as build

NAMES = ("conv1", "norm1", "relu1", "pad1", "conv2", "add1", "relu2", "pool1", "gap", "flatten", "gemm")


@pytest.fixture
def model() -> ir.Model:
    return ir.load(build.cnn()).model


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("conv1", {"conv1"}),
        ("conv*", {"conv1", "conv2"}),
        ("op:Relu", {"relu1", "relu2"}),
        ("region:pad1..add1", {"pad1", "conv2", "add1"}),
        ("region:m1..f1", {"gap", "flatten"}),
        ("*", set(NAMES)),
    ],
)
def test_what_patterns_select(model: ir.Model, pattern: str, expected: set[str]) -> None:
    assert set(select(model, [pattern])) == expected


def test_the_first_pattern_is_the_reason(model: ir.Model) -> None:
    assert select(model, ["conv1", "op:Conv"]) == {"conv1": "conv1", "conv2": "op:Conv"}


@pytest.mark.parametrize("pattern", ["convv1", "op:Softmax", "region:gemm..conv1", "region:conv1"])
def test_what_selects_nothing_is_refused_by_name(model: ir.Model, pattern: str) -> None:
    with pytest.raises(SpecError, match=pattern):
        select(model, ["conv1", pattern])


def test_nodes_in_branches_are_found() -> None:
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["n"], name="inner")], "b", [], [
        helper.make_tensor_value_info("n", 1, None)
    ])  # fmt: skip
    nodes = [helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch)]
    source = build.proto(nodes, {"x": [2]}, {"y": None}, {"c": build.np.array(True)})
    assert "inner" in select(ir.load(source).model, ["inner*"])


@pytest.mark.parametrize(
    ("options", "integers"),
    [
        ({"exclude": ("conv2",)}, {"conv1", "gemm"}),
        ({"include": ("op:Gemm",)}, {"gemm"}),
        ({}, {"conv1", "conv2", "gemm"}),
    ],
)
def test_static_quantization_obeys(options: dict[str, tuple[str, ...]], integers: set[str]) -> None:
    model = ir.load(build.cnn(batch_norm=False)).model
    context = PassContext(capabilities(describe_machine()), load_samples(build.images(4)))
    plan = QuantPlan.from_dict(QuantizeStatic(**options).apply(model, context).details["plan"])  # type: ignore[arg-type]
    assert set(plan.compute_nodes) == integers
    assert all(plan.float_nodes[name] for name in {"conv1", "conv2", "gemm"} - integers)


def test_ranges_are_observed_once_for_all_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ir.load(build.cnn(batch_norm=False)).model
    context = PassContext(capabilities(describe_machine()), load_samples(build.images(4)))
    first = QuantizeStatic().plan(model, context)
    monkeypatch.setattr("sardonyx.passes.quantization.ranges.calibrate", None)
    again = QuantizeStatic().plan(ir.clone(model), context)
    assert again == first
    assert QuantizeStatic(exclude=("gemm",)).plan(ir.clone(model), context).points
