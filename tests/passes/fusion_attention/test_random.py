"""Property: whatever the graph and whichever rules are enabled, the function stays and a second run changes nothing."""

import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.attention.fuse import RULES, FuseTransformer
from tests import models_for_tests as build
from tests.passes.fusion_attention import graphs
from tests.passes.fusion_attention.graphs import assert_same_outputs, feed
from tests.passes.test_random_graphs import SHAPE
from tests.passes.test_random_graphs import graphs as any_graphs

TARGET = graphs.capabilities()
MASKS = ("", "full", "bias", "square", "padding", "keys", "causal", "where", "where not", "lowest", "finite", "weak")


@st.composite
def attentions(draw: st.DrawFn) -> onnx.ModelProto:
    """Self-attention with any scale, mask and packing that exporters write."""
    mask = draw(st.sampled_from(MASKS))
    packed = draw(st.sampled_from(("", "split", "gather", "slice")))
    return graphs.self_attention(
        scale=draw(st.sampled_from(("div", "mul", "query", "key", "both", "none"))),
        mask=mask,
        guard=draw(st.booleans()),
        packed=packed,
        groups=1 if packed else draw(st.sampled_from((1, 2, 4))),
        opset=draw(st.sampled_from((18, 23))) if not packed else 18,
    )


RULE_SETS = st.sets(st.sampled_from([rule.name for rule in RULES]), min_size=1)


def check(source: onnx.ModelProto, enable: set[str], arrays: dict[str, "graphs.np.ndarray"]) -> None:
    model = ir.load(source).model
    fuse = FuseTransformer(enable=tuple(sorted(enable)))
    fuse.apply(model, PassContext(TARGET))
    assert ir.verify(model) == ()
    assert_same_outputs(source, model, arrays)
    digest = ir.digest(model)
    assert not fuse.apply(model, PassContext(TARGET)).modified
    assert ir.digest(model) == digest


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(attentions(), RULE_SETS | st.just({"multi-head-attention", "packed-attention"}), st.integers(0, 99))
def test_attention_keeps_its_function(source: onnx.ModelProto, enable: set[str], seed: int) -> None:
    check(source, enable, feed(source, {"N": 1 + seed % 3, "S": 1 + seed % 7}, seed))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(any_graphs(), RULE_SETS, st.integers(0, 99))
def test_other_graphs_keep_their_function(source: onnx.ModelProto, enable: set[str], seed: int) -> None:
    check(source, enable, {"x": build.weights(*SHAPE, seed=seed, scale=1.0)})
