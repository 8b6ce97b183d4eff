"""Attention: what is found, that the function stays, what is refused and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

from sardonyx import ir
from sardonyx.capabilities import FusedSupport
from sardonyx.passes.base import PassContext
from sardonyx.passes.cleanup.cleanup import Cleanup
from sardonyx.passes.fusion.attention.fuse import FuseTransformer, admitted
from sardonyx.passes.rewriting.driver import near_misses
from tests import models_for_tests as build
from tests.passes.fusion_attention import graphs
from tests.passes.fusion_attention.graphs import (
    assert_same_function,
    assert_same_outputs,
    cached_attention,
    cross_attention,
    feed,
    fused,
    self_attention,
)

MHA = "multi-head-attention"
FORMS = {
    "scores divided": self_attention(),
    "scores multiplied": self_attention(scale="mul"),
    "queries scaled": self_attention(scale="query"),
    "keys scaled": self_attention(scale="key"),
    "both scaled": self_attention(scale="both"),
    "not scaled": self_attention(scale="none"),
    "split": self_attention(packed="split"),
    "packed, gathered": self_attention(packed="gather"),
    "packed, sliced": self_attention(packed="slice"),
    "cross": cross_attention(),
    "repeated keys": self_attention(groups=2),
    **{f"mask {shape}": self_attention(mask=shape) for shape in graphs.MASK_SHAPES if shape != "strange"},
    **{f"mask {kind}": self_attention(mask=kind) for kind in ("causal", "where", "where not", "lowest", "finite")},
    "finite mask, guarded": self_attention(mask="finite", guard=True),
    "cache": cached_attention(),
    "cache, repeated keys": cached_attention(groups=2),
    "cache that others read": cached_attention(shared=True),
}


def core(model: object) -> Counter[str]:
    """What is left of the products and the Softmax of attention."""
    kinds = ("Softmax", "MultiHeadAttention", "GroupQueryAttention", "Attention")
    return Counter(op for op in build.operators(model) if op in kinds)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_multi_head_attention_keeps_the_function(form: str) -> None:
    source = FORMS[form]
    model, result = fused(source, MHA)
    assert result.stats == {MHA: 1}
    assert core(model) == {"MultiHeadAttention": 1}
    assert_same_function(source, model)


MASKED_WHOLE_ROWS = {f"mask {kind}" for kind in (*graphs.MASK_SHAPES, "where", "where not", "lowest", "finite")}
"""Forms that may mask a whole row, for which the runtime's kernel of the standard operator gives zeros."""


@pytest.mark.parametrize("form", [form for form in FORMS if "mask" not in form or form == "mask causal"])
def test_standard_attention_keeps_the_function(form: str) -> None:
    source = at_opset(FORMS[form], 23)
    model, result = fused(source, "attention")
    assert result.stats == {"attention": 1}
    assert core(model) == {"Attention": 1}
    assert_same_function(source, model)


@pytest.mark.parametrize("form", sorted(MASKED_WHOLE_ROWS & set(FORMS)))
def test_standard_attention_refuses_masks_of_whole_rows(form: str) -> None:
    _, result = fused(at_opset(FORMS[form], 23), "attention")
    assert not result.modified
    assert "may give zeros instead of what Softmax gives" in result.refusals[0].reason


def test_standard_attention_takes_any_mask_where_the_kernel_follows_softmax() -> None:
    target = graphs.capabilities()
    row = FusedSupport("Attention", domain="", opset_version=23, masked_rows_as_softmax=True)
    source = at_opset(FORMS["mask padding"], 23)
    model, result = fused(source, "attention", target=replace(target, fused={("", "Attention"): row}))
    assert result.stats == {"attention": 1}
    assert_same_function(source, model)


def test_without_a_table_standard_attention_is_made_and_nothing_else() -> None:
    for opset, made in ((22, {}), (23, {"Attention": 1})):
        model = ir.load(at_opset(FORMS["scores divided"], opset)).model
        FuseTransformer().apply(model, PassContext())
        assert core(model) == (made or {"Softmax": 1})


@pytest.mark.parametrize("value", [-np.inf, np.finfo(np.float32).min, -1e4])
@pytest.mark.parametrize("form", ["mask full", "mask square", "mask padding"])
def test_a_row_that_is_masked_everywhere_stays_what_it_was(form: str, value: float) -> None:
    """NaN for -inf, the mean of the values for the lowest float."""
    source = FORMS[form]
    model, _ = fused(source, MHA)
    arrays = feed(source, {"N": 2, "S": 4})
    mask = np.where(arrays["mask"] > 0, np.float32(0), np.float32(value))
    mask[..., -1 if form == "mask square" else slice(None), :] = value
    assert_same_outputs(source, model, {**arrays, "mask": mask})


@pytest.mark.parametrize("form", ["repeated keys", "repeated keys, masked", "repeated keys, packed cache of one"])
def test_group_query_attention_keeps_the_function(form: str) -> None:
    sources = {
        "repeated keys": self_attention(groups=2),
        "repeated keys, masked": self_attention(groups=4, mask="padding", scale="both"),
        "repeated keys, packed cache of one": cached_attention(groups=2, batch=1),
    }
    source = sources[form]
    model, result = fused(source, "group-query-attention", MHA)
    assert result.stats == {"group-query-attention": 1}
    assert core(model) == {"GroupQueryAttention": 1}
    assert_same_function(source, model)


PACKED = ("scores divided", "split", "packed, gathered", "packed, sliced", "mask padding", "queries scaled")


@pytest.mark.parametrize("form", PACKED)
def test_packed_attention_keeps_the_function(form: str) -> None:
    source = FORMS[form]
    model, result = fused(source, MHA, "packed-attention")
    assert result.stats == {MHA: 1, "packed-attention": 1}
    assert core(model) == {"Attention": 1}
    assert Counter(build.operators(model))["MatMul"] == 1  # the output's projection
    assert_same_function(source, model)


def test_present_keys_and_values_stay_outputs() -> None:
    source = cached_attention()
    model, _ = fused(source, MHA)
    assert [v.name for v in model.graph.outputs] == [v.name for v in source.graph.output]
    assert Counter(build.operators(model))["Concat"] == 0
    assert_same_outputs(source, model, feed(source, {"N": 2, "S": 1, "P": 0}))


def test_a_cache_that_others_read_is_still_concatenated() -> None:
    model, _ = fused(cached_attention(shared=True), MHA)
    assert Counter(build.operators(model))["Concat"] == 2


def test_layers_share_the_expansion_of_a_mask() -> None:
    w = graphs.Writer()
    value = "x"
    for _ in range(2):
        heads = [w.split_heads(w.linear(value)) for _ in range(3)]
        score = w.op("Add", graphs.scores(w, heads[0], heads[1]), "mask")
        value = w.merge_heads(w.op("MatMul", w.op("Softmax", score), heads[2]))
    source = w.model({"x": ["N", "S", 32], "mask": ["N", 1, 1, "S"]}, value)
    model, result = fused(source, MHA)
    assert result.stats == {MHA: 2}
    cleaned = Cleanup().apply(model, PassContext()).model
    assert Counter(build.operators(cleaned))["Expand"] == 1
    assert_same_function(source, cleaned)


def _refusal(name: str) -> tuple[onnx.ModelProto, str]:
    w = graphs.Writer()
    query, key, value = (w.split_heads(w.linear("x")) for _ in range(3))
    inputs: dict[str, Sequence[int | str]] = {"x": ["N", "S", 32]}
    extra: tuple[str, ...] = ()
    if name == "scaled after the mask":
        inputs["mask"] = ["N", 1, 1, "S"]
        score = w.op("Mul", w.op("Add", graphs.scores(w, query, key), "mask"), w.const(2))
    elif name == "softmax over queries":
        score = graphs.scores(w, query, key)
    elif name == "no transposition":
        inputs["kt"] = ["N", graphs.HEADS, graphs.SIZE, "S"]
        score = w.op("MatMul", query, "kt")
    else:
        score = graphs.scores(w, query, key)
    probabilities = w.op("Softmax", score, axis=2 if name == "softmax over queries" else -1)
    if name == "probabilities are read":
        extra = (probabilities,)
    if name == "guard without a mask of constants":
        inputs["mask"] = ["N", 1, 1, "S"]
        probabilities = w.op("Softmax", w.op("Add", score, "mask"))
        probabilities = w.op("Where", w.op("IsNaN", probabilities), w.const(0), probabilities)
    return w.model(inputs, w.merge_heads(w.op("MatMul", probabilities, value)), *extra)


REFUSED = {
    "scaled after the mask": "are scaled after the mask mask is added",
    "softmax over queries": "is not over the keys alone",
    "no transposition": "kt are not transposed keys",
    "guard without a mask of constants": "the mask is not known to be finite",
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    _, result = fused(_refusal(case), MHA)
    assert not result.modified
    assert [refusal.reason for refusal in result.refusals if REFUSED[case] in refusal.reason]
    assert all(refusal.nodes for refusal in result.refusals)


@pytest.mark.parametrize(
    ("form", "reason"),
    [("weak", "where a whole row is masked"), ("strange", "is not known to fit the scores")],
)
def test_masks_that_do_not_fit_are_refused(form: str, reason: str) -> None:
    _, result = fused(self_attention(mask=form), MHA)
    assert not result.modified
    assert reason in result.refusals[0].reason


def test_probabilities_that_others_read_are_kept() -> None:
    source = _refusal("probabilities are read")
    model, result = fused(source, MHA)
    assert not result.modified
    root = next(n.name for n in model.graph if n.op_type == "Transpose" and n.inputs[0].producer().op_type == "MatMul")
    reasons = {rule.name: reason for rule, reason in near_misses(model, admitted(graphs.capabilities()), root or "")}
    assert "is used outside the pattern too" in reasons[MHA]


def test_unknown_numbers_of_heads_are_refused() -> None:
    w = graphs.Writer()
    heads = [w.op("Transpose", w.op("Reshape", w.linear("x"), "shape"), perm=[0, 2, 1, 3]) for _ in range(3)]
    merged = w.merge_heads(w.op("MatMul", w.op("Softmax", graphs.scores(w, *heads[:2])), heads[2]))
    source = w.model({"x": ["N", "S", 32]}, merged)
    source.graph.input.append(onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [4]))
    _, result = fused(source, MHA)
    assert "the number and size of the heads" in result.refusals[0].reason


def test_other_types_than_the_target_has_kernels_for_are_refused() -> None:
    source = FORMS["scores divided"]
    half = onnx.ModelProto()
    half.CopyFrom(source)
    for tensor in half.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    _, result = fused(half, MHA)
    assert "is FLOAT16; MultiHeadAttention takes FLOAT" in result.refusals[0].reason


@pytest.mark.parametrize("groups", [2, 4])
def test_group_query_attention_with_a_cache_needs_one_sequence(groups: int) -> None:
    _, result = fused(cached_attention(groups=groups), "group-query-attention")
    assert "one sequence or one step at a time" in result.refusals[0].reason


def test_group_query_attention_takes_multiples_of_eight() -> None:
    _, result = fused(self_attention(groups=2, size=6), "group-query-attention")
    assert "the sizes of the heads, [6], are not one multiple of 8" in result.refusals[0].reason


@pytest.mark.parametrize("size", [3, 6])
def test_heads_of_any_size_keep_the_function(size: int) -> None:
    source = self_attention(size=size, mask="padding", scale="query")
    model, result = fused(source, MHA, "packed-attention")
    assert result.stats == {MHA: 1, "packed-attention": 1}
    assert_same_function(source, model)


def at_opset(source: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same nodes in another opset: none of those used here changed its meaning between 18 and 23."""
    copy = onnx.ModelProto()
    copy.CopyFrom(source)
    copy.opset_import[0].version, copy.ir_version = opset, 10
    return copy
