"""The pass: its options, the target's table, and what `explain` says."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from sardonyx import ir, models
from sardonyx.driver.explanation import explain
from sardonyx.errors import SpecError
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.attention.fuse import CHOICE, RULES, FuseTransformer, admitted
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline
from tests import models_for_tests as build
from tests.passes.contract import PassContract
from tests.passes.fusion_attention import graphs
from tests.passes.fusion_attention.graphs import fused, self_attention
from tests.passes.fusion_attention.test_small_rules import GOLDEN

ALL = tuple(rule.name for rule in RULES)


class TestFuseTransformer(PassContract):
    instance = FuseTransformer(enable=ALL)
    context = PassContext(graphs.capabilities())

    def sources(self) -> list[onnx.ModelProto]:
        sources = [self_attention(), self_attention(mask="causal", packed="gather", guard=True)]
        return [*sources, *(source for source, _, _ in GOLDEN.values() if len(source.graph.input) == 1)]

    def applied(self, source: onnx.ModelProto) -> tuple[ir.Model, bool]:
        self.source = source
        return super().applied(source)

    def feed(self) -> dict[str, "graphs.np.ndarray"]:
        return graphs.feed(self.source, {"N": 2, "S": 5})


def test_every_rule_has_a_golden_case() -> None:
    tested = {rule for _, rules, _ in GOLDEN.values() for rule in rules}
    assert tested | {"attention", "multi-head-attention", "group-query-attention", "packed-attention"} == set(ALL)


def test_rules_have_names_of_their_own() -> None:
    assert len(set(ALL)) == len(ALL)


@pytest.mark.parametrize("option", ["enable", "disable"])
def test_unknown_rules_are_named(option: str) -> None:
    with pytest.raises(SpecError, match="no transformer rule 'magic'"):
        FuseTransformer(**{option: ("magic",)})


def test_choices_are_made_only_where_they_are_asked_for() -> None:
    target = graphs.capabilities()
    row = target.fused["com.microsoft", "MultiHeadAttention"]
    for default, made in ((True, {"multi-head-attention": 1}), (False, {})):
        table = {("com.microsoft", "MultiHeadAttention"): replace(row, default=default)}
        _, result = fused(self_attention(), target=replace(target, fused=table))
        assert result.stats == made


def test_disabled_rules_are_left_out() -> None:
    model = ir.load(self_attention()).model
    result = FuseTransformer(enable=ALL, disable=("multi-head-attention",)).apply(
        model, PassContext(graphs.capabilities())
    )
    assert not result.modified


def test_what_the_target_does_not_run_is_refused_with_its_name() -> None:
    target = replace(graphs.capabilities(), target="bare", fused={})
    _, result = fused(self_attention(), "multi-head-attention", target=target)
    assert result.refusals[0].reason == "bare has no com.microsoft MultiHeadAttention in its table"
    assert not admitted(target)


def test_without_a_table_only_standard_operators_are_made() -> None:
    assert {rule.domain for rule in admitted(None)} == {""}


def test_new_nodes_say_whence_they_come() -> None:
    model, _ = fused(self_attention(), "multi-head-attention")
    node = next(n for n in model.graph if n.op_type == "MultiHeadAttention")
    assert node.metadata_props["sardonyx.rule"] == "multi-head-attention"
    assert "softmax" in node.metadata_props["sardonyx.source"]
    assert model.opset_imports["com.microsoft"] == 1


def test_explain_says_which_rule_nearly_matched(tmp_path: Path) -> None:
    for mask, reason in (("", CHOICE), ("strange", "is not known to fit the scores")):
        model = ir.load(self_attention(mask=mask)).model
        root = [n.name for n in model.graph if n.op_type == "Transpose"][-1]
        assert root is not None
        ir.save(model, tmp_path / "model.onnx")
        reasons = dict(explain(tmp_path / "model.onnx", root).rules)
        assert reason in reasons["multi-head-attention"]
        assert "keys and values are not repeated" in reasons["group-query-attention"] or mask


def test_graphs_without_attention_are_left() -> None:
    model = ir.load(build.cnn()).model
    assert not FuseTransformer(enable=ALL).apply(model, PassContext(graphs.capabilities())).modified


def test_a_trained_transformer_is_fused_and_keeps_its_function() -> None:
    entry = models.load("digits_transformer")
    original = ir.load(entry.path).model
    model = PassManager(parse_pipeline(Recipe().optimize, available_passes())).run(ir.clone(original)).model
    before = ir.num_nodes(model)
    result = FuseTransformer(enable=ALL).apply(model, PassContext(graphs.capabilities()))
    assert result.stats["multi-head-attention"] == result.stats["packed-attention"] > 0
    assert ir.num_nodes(model) < before
    for sample in list(entry.samples)[:3]:
        graphs.assert_same_outputs(ir.to_proto(original), model, dict(sample))
