"""Rules of onnxscript under our driver: used as they are, with our names, reasons and provenance."""

import sys
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxscript import ir as script_ir
from onnxscript.rewriter import RewritePass, RewriteRule, RewriteRuleClassBase, RewriteRuleSet
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule, fuse_pad_into_conv_rule

from sardonyx import ir
from sardonyx.errors import DataError, PassError, SpecError, UsageError
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.rewriting.driver import Rewriting, near_misses, rewrite_model
from sardonyx.passes.rewriting.onnxscript_rules import adapt_rules
from sardonyx.passes.rewriting.rewrite import Rewrite
from sardonyx.pipeline import available_passes, format_pass, parse_pipeline
from tests import models_for_tests as build
from tests.passes.contract import PassContract

node = helper.make_node
HERE = "tests.passes.test_onnxscript_rules"


def _neg_neg(op, x):
    return op.Neg(op.Neg(x))


NEG_NEG = RewriteRule(_neg_neg, lambda op, x: op.Identity(x), name="NegNeg")


class ScaleRelu(RewriteRuleClassBase):
    """Emits an initializer of a fixed name: twice in a graph, the second would overwrite the first."""

    def pattern(self, op, x, scale):
        return op.Relu(op.Mul(x, scale))

    def check(self, context, x, scale):
        result = super().check(context, x, scale)
        if scale.const_value is None:
            return result.fail(f"{scale.name} is not constant", scale)
        return result

    def rewrite(self, op, x, scale):
        doubled = op.initializer(script_ir.tensor(scale.const_value.numpy() * 2), name="doubled")
        halved = op.initializer(script_ir.tensor(np.float32(0.5)), name="w")
        return op.Mul(op.Max(op.Mul(x, doubled), op.Constant(value_float=0.0)), halved)


class GivesUp(RewriteRuleClassBase):
    """Builds half a replacement and then gives up."""

    def pattern(self, op, x):
        return op.Exp(x)

    def rewrite(self, op, x):
        op.Sin(x)
        return None


def _raises(op, x):
    raise RuntimeError("no idea")


RAISES = RewriteRule(lambda op, x: op.Exp(x), _raises, name="raises")
TO_FUNCTION = RewriteRule(
    lambda op, x: op.Exp(x), lambda op, x: op.MyExp(x, _domain="my"), name="extract", as_function=True
)
BOTH = RewriteRule(lambda op, x: (op.Exp(op.Neg(x)), op.Sin(x)), lambda op, x: (op.Exp(x), op.Cos(x)), name="both")
UNDO = [
    RewriteRule(lambda op, x: op.Exp(x), lambda op, x: op.Sin(x), name="ExpToSin"),
    RewriteRule(lambda op, x: op.Sin(x), lambda op, x: op.Exp(x), name="SinToExp"),
]
RULES = RewriteRuleSet([NEG_NEG])
NOTHING = 3


def rewritten(source: onnx.ModelProto, rules: object) -> tuple[ir.Model, Rewriting]:
    model = ir.load(source).model
    ir.infer_shapes(model)
    done = rewrite_model(model, adapt_rules(rules, model))
    assert ir.verify(model) == ()
    return model, done


def chain(*ops: str) -> onnx.ModelProto:
    names = ["x", *(f"v{i}" for i in range(len(ops) - 1)), "y"]
    nodes = [node(op, [names[i]], [names[i + 1]], name=f"n{i}") for i, op in enumerate(ops)]
    return build.proto(nodes, {"x": [3]}, {"y": [3]})


def assert_same(source: onnx.ModelProto, model: ir.Model) -> None:
    feed = {v.name: build.weights(*(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in source.graph.input}
    for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rules", [NEG_NEG, RULES, RewritePass(RULES), [RULES], (NEG_NEG,)])
def test_every_kind_of_rules_is_taken(rules: object) -> None:
    source = chain("Neg", "Neg", "Exp")
    model, done = rewritten(source, rules)
    assert done.stats == {"neg-neg": 1}
    assert build.operators(model) == ["Identity", "Exp"]
    assert_same(source, model)


def test_new_nodes_have_our_names_and_provenance() -> None:
    model, _ = rewritten(chain("Neg", "Neg", "Exp"), NEG_NEG)
    made = model.graph[0]
    assert made.metadata_props == {"sardonyx.rule": "neg-neg", "sardonyx.source": "n0,n1"}
    assert (made.name, made.outputs[0].name) == ("n1_neg-neg", "v1_neg-neg")


def test_initializers_of_one_name_stand_side_by_side() -> None:
    source = build.proto(
        [
            node("Mul", ["x", "w"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("Mul", ["b", "k"], ["c"]),
            node("Relu", ["c"], ["d"]),
            node("Add", ["d", "doubled"], ["e"]),
            node("Add", ["e", "w"], ["y"]),
        ],
        {"x": [4]},
        {"y": [4]},
        {"w": build.weights(4), "k": build.weights(4, seed=1), "doubled": build.weights(4, seed=2)},
    )
    model, done = rewritten(source, ScaleRelu)
    assert done.stats == {"scale-relu": 2}
    assert {"w", "doubled", "doubled_1", "doubled_2", "w_1", "w_2"} <= set(model.graph.initializers)
    assert_same(source, model)


def test_conditions_give_reasons() -> None:
    source = build.proto(
        [node("Mul", ["x", "z"], ["a"], name="mul"), node("Relu", ["a"], ["y"], name="relu")],
        {"x": [4], "z": [4]},
        {"y": [4]},
    )
    model, done = rewritten(source, ScaleRelu)
    assert not done.stats
    assert [(r.rule, r.reason, r.nodes) for r in done.refusals] == [
        ("scale-relu", "z is not constant", ("mul", "relu"))
    ]
    [(rule, reason)] = near_misses(model, adapt_rules(ScaleRelu, model), "relu")
    assert (rule.name, reason) == ("scale-relu", "z is not constant")


def test_a_replacement_that_fails_leaves_nothing_behind() -> None:
    source = chain("Exp", "Neg")
    model, done = rewritten(source, GivesUp)
    assert not done.stats
    assert done.refusals[0].reason == "it gave no replacement"
    assert len(model.graph.inputs[0].uses()) == 1
    assert_same(source, model)


def test_rules_with_several_outputs_keep_the_order() -> None:
    source = build.proto(
        [
            node("Sin", ["x"], ["s"]),
            node("Abs", ["s"], ["y"]),
            node("Neg", ["x"], ["n"]),
            node("Exp", ["n"], ["z"]),
        ],
        {"x": [3]},
        {"y": [3], "z": [3]},
    )
    model, done = rewritten(source, BOTH)
    assert done.stats == {"both": 1}
    assert sorted(build.operators(model)) == ["Abs", "Cos", "Exp"]
    feed = {"x": build.weights(3)}
    np.testing.assert_allclose(build.run(model, feed)[0], np.abs(np.cos(feed["x"])), rtol=1e-5)


def test_rules_reach_into_branches() -> None:
    def branch(name: str) -> onnx.GraphProto:
        nodes = [node("Neg", ["x"], [f"{name}_n"]), node("Neg", [f"{name}_n"], [name])]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3])])

    source = build.proto(
        [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Greater", ["m", "zero"], ["flag"]),
            node("If", ["flag"], ["y"], then_branch=branch("t"), else_branch=branch("e")),
        ],
        {"x": [3]},
        {"y": [3]},
        {"zero": np.float32(0)},
    )
    _, done = rewritten(source, NEG_NEG)
    assert done.stats == {"neg-neg": 2}


def test_rules_that_undo_each_other_are_named() -> None:
    with pytest.raises(PassError, match="exp-to-sin, sin-to-exp undo each other"):
        rewritten(chain("Exp"), UNDO)


def test_code_that_raises_is_named() -> None:
    with pytest.raises(PassError, match=r"rule raises raised RuntimeError at node 'n0': no idea"):
        rewritten(chain("Exp"), RAISES)


def test_what_cannot_run_here_is_refused() -> None:
    model = ir.load(chain("Exp")).model
    with pytest.raises(SpecError, match="extracts a function"):
        adapt_rules(TO_FUNCTION, model)
    with pytest.raises(SpecError, match="type int holds no onnxscript rules"):
        adapt_rules([NEG_NEG, NOTHING], model)


def test_without_onnxscript_the_remedy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript.rewriter", None)
    with pytest.raises(SpecError, match="need onnxscript") as caught:
        adapt_rules(NEG_NEG, ir.load(chain("Exp")).model)
    assert "sardonyx[onnxscript]" in caught.value.remedy


class CountsGraphs(RewriteRuleClassBase):
    """Keeps state for each graph, which its methods set up and clean up."""

    calls: ClassVar[list[str]] = []

    def setup(self):
        self.calls.append("setup")

    def cleanup(self):
        self.calls.append("cleanup")

    def pattern(self, op, x):
        return op.Exp(x)

    def rewrite(self, op, x):
        self.calls.append("rewrite")
        return op.Sin(x)


def test_rules_prepare_and_clean_up() -> None:
    CountsGraphs.calls.clear()
    rewritten(chain("Exp"), CountsGraphs)
    assert CountsGraphs.calls == ["setup", "rewrite", "cleanup"]


def test_rules_of_one_name_are_numbered() -> None:
    model = ir.load(chain("Exp")).model
    assert [rule.name for rule in adapt_rules([NEG_NEG, NEG_NEG, ScaleRelu], model)] == [
        "neg-neg",
        "neg-neg-2",
        "scale-relu",
    ]


def test_onnxscripts_own_rules_do_what_they_do_there() -> None:
    source = build.cnn()
    model, done = rewritten(source, [fuse_batchnorm_into_conv_rule, fuse_pad_into_conv_rule])
    assert sum(done.stats.values()) == 2
    assert {"BatchNormalization", "Pad"}.isdisjoint(build.operators(model))
    feed = build.images(1)[0]
    for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


class TestRewrite(PassContract):
    instance = Rewrite((f"{HERE}:RULES", "sardonyx.passes.fusion.padding:RULES"))

    def sources(self) -> list[onnx.ModelProto]:
        images = [
            node("Neg", ["image"], ["a"]),
            node("Neg", ["a"], ["b"]),
            node("Exp", ["b"], ["y"]),
        ]
        return [*super().sources(), build.proto(images, {"image": [1, 3, 16, 16]}, {"y": None})]


def applied(text: str) -> PassResult:
    [instance] = parse_pipeline(text, available_passes())
    assert format_pass(instance) == text
    result = instance(ir.load(chain("Neg", "Neg", "Exp")).model)
    assert isinstance(result, PassResult)
    return result


def test_rules_are_named_in_a_recipe() -> None:
    result = applied(f"rewrite{{rules=[{HERE}:RULES]}}")
    assert result.stats == {"neg-neg": 1}


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ((), SpecError, "names no rules"),
        (("nowhere",), DataError, "'nowhere' is not a path to a rule"),
        (("nowhere:RULES",), DataError, "there is no module 'nowhere'"),
        ((f"{HERE}:MISSING",), DataError, "has no 'MISSING'"),
        ((f"{HERE}:NOTHING",), SpecError, "type int holds no onnxscript rules"),
    ],
)
def test_unusable_rules_stop_the_compile(rules: tuple[str, ...], error: type[UsageError], message: str) -> None:
    with pytest.raises(error, match=message):
        Rewrite(rules).apply(ir.load(chain("Exp")).model, PassContext())
