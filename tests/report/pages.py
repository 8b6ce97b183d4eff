"""Reports for tests: a compile with everything on its page, and graphs of any size."""

import numpy as np
from onnx import TensorProto, helper

from sardonyx import ir
from sardonyx.diff import compare, match
from sardonyx.diff.drift_schema import Drift, Error, Place
from sardonyx.diff.schema import NodeEntry
from sardonyx.diff.timing import Kernel, TimedRegion, Times
from sardonyx.passes.base import Refusal
from sardonyx.passes.quantization.evidence import EVIDENCE
from sardonyx.pipeline import Accuracy, Candidate, CompileRecord, FileEntry, Latency, PassRecord, Status
from sardonyx.report import Comparison, Evidence, Report, compile_report
from sardonyx.report.drawing import DrawnGraph, DrawnNode


def models(name: str = "relu") -> tuple[ir.Model, ir.Model]:
    """Two small models of which the second has a Neg in place of an Exp; all inner names start with `name`."""
    made = []
    for last in ("Exp", "Neg"):
        x = ir.val("x", ir.DataType.FLOAT, [2])
        first = ir.node("Relu", [x], outputs=[ir.val(f"{name}_1")], name=f"{name}_1")
        nodes = [first]
        for index in range(2, 6):
            nodes.append(
                ir.node("Abs", [nodes[-1].outputs[0]], outputs=[ir.val(f"{name}_{index}")], name=f"{name}_{index}")
            )
        nodes.append(
            ir.node(last, [nodes[-1].outputs[0]], outputs=[ir.val("y", ir.DataType.FLOAT, [2])], name=f"{name}_{last}")
        )
        made.append(
            ir.Model(ir.Graph([x], nodes[-1].outputs, nodes=nodes, opset_imports={"": 17}, name="g"), ir_version=9)
        )
    return made[0], made[1]


def branching(name: str | None, last: str = "Neg", weight: float = 1.0) -> ir.Model:
    """A model that calls a function, then has an If of a name, whose first branch ends with an operator; or no If."""

    def branch(label: str, nodes: list[object]) -> object:
        return helper.make_graph(nodes, label, [], [helper.make_tensor_value_info(label, TensorProto.FLOAT, [2])])

    operands = ["h", "w"] if last == "Add" else ["h"]
    then = branch("t", [helper.make_node(last, operands, ["t"], name="t_node")])
    other = branch(
        "e", [helper.make_node("Abs", ["h"], ["a"], name="a"), helper.make_node("Sqrt", ["a"], ["e"], name="e")]
    )
    nodes = [helper.make_node("Twice", ["x"], ["h"], name="call", domain="tests")]
    if name is not None:
        nodes.append(helper.make_node("If", ["p"], ["y"], name=name, then_branch=then, else_branch=other))
    else:
        nodes.append(helper.make_node("Relu", ["h"], ["y"], name="relu"))
    twice = helper.make_function(
        "tests", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"], name="sum")],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("p", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2], np.full(2, weight))] if last == "Add" else [],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("tests", 1)]
    return ir.load(helper.make_model(graph, functions=[twice], opset_imports=opsets, ir_version=9)).model


def compared(before: ir.Model, after: ir.Model) -> Comparison:
    """Two models and what a diff finds."""
    matching = match(before, after)
    return Comparison(before, after, matching, compare(before, after, matching))


def record(name: str = "relu") -> CompileRecord:
    """The record of a compile in which every text that a model decides holds `name`."""
    made = CompileRecord(
        created="2026-01-01T00:00:00+00:00",
        source=FileEntry(path=f"{name}.onnx", sha256="ab" * 32, digest="cd" * 32, nbytes=4_000_000),
        outputs=[FileEntry(path="model.onnx", sha256="ef" * 32, nbytes=1_000_000)],
        samples={"source": "calib.npz", "calibration": 30, "held_out": 10},
        tools={"sardonyx": "0", "onnx": "1"},
        machine={"cpu": "a CPU", "cores": 2},
        warnings=[f"A warning about {name}."],
        repairs=[f"named {name}"],
        chosen="quantized",
        met_budget=True,
        pipeline="fuse, quantize-static",
    )
    activation = {
        "value": name,
        "low": -1.0,
        "high": 2.0,
        "sqnr_db": 30.0,
        "edges": [-2.0, 3.0],
        "counts": [1, 5, 9, 2],
    }
    weight = {"weight": name, "dtype": "INT8", "channels": 4, "sqnr_db": None, "max_abs": 0.0, "scale_ratio": 2.0}
    made.note_passes(
        [
            PassRecord(
                "quantize-static", "quantize-static", Status.APPLIED, "", 0.25, (6, 9), (4_000_000, 1_000_000),
                {"weight": 1}, (Refusal("stay-in-float", f"{name} has no integer kernel", (name,)),),
                {EVIDENCE: {"activations": [activation], "weights": [weight]}},
            )
        ]
    )  # fmt: skip
    for candidate, speedup, drop in (("optimized", 1.1, 0.0), ("quantized", 2.5, 0.004)):
        made.candidates.append(
            Candidate(
                name=candidate,
                nbytes=1_000_000,
                accuracy=Accuracy(metric=f"module:{name}", original=0.9, candidate=0.9 * (1 - drop), drop=drop),
                latency=Latency(
                    speedup=speedup, low=speedup - 0.1, high=speedup + 0.1, pairs=1000, original_ms=2.0,
                    candidate_ms=2.0 / speedup, threads=1,
                ),
            )
        )  # fmt: skip
    made.decide("choose", "quantized", f"the fastest that keeps the budget of {name}")
    return made


def evidence(name: str = "relu") -> Evidence:
    """Everything that is measured for a page."""
    before, after = models(name)
    matching = match(before, after)
    compared = Comparison(before, after, matching, compare(before, after, matching), ("original", "quantized"))
    error = Error(
        relative=0.01,
        max_abs=0.1,
        mean_abs=0.05,
        max_rel=0.2,
        cosine=1.0,
        sqnr_db=40.0,
        equal=False,
        nonfinite=0,
        reason="",
    )
    node = NodeEntry(name=name, op_type="Abs", index=1)
    place = Place(
        kind="value", before=name, after=name, before_nodes=(node,), after_nodes=(node,), total=error, local=error,
        amplification=None, noise="rounding", allowed=0.001, parts=True, why=f"{name} is off",
    )  # fmt: skip
    kernels = (Kernel(name=name, op_type=f"{name} op", seconds=1e-3),)
    region = TimedRegion(
        before=(node,),
        after=(node,),
        before_kernels=kernels,
        after_kernels=kernels,
        before_seconds=1e-3,
        after_seconds=1e-3,
    )
    times = Times(
        regions=(region,), before_untraced=kernels, after_untraced=(), before_seconds=2e-3, after_seconds=1e-3, runs=20
    )
    return Evidence(
        comparison=compared,
        drift=Drift(samples=4, what="calib.npz", places=(place, place), first=0),
        times=times,
    )


def compile_page(name: str = "relu") -> Report:
    """The page of a compile with every section on it."""
    return compile_report(record(name), evidence(name))


def long_graphs(nodes: int, every: int) -> tuple[list[DrawnGraph], list[tuple[int, int]]]:
    """Two graphs of residual blocks that differ in one node out of `every`, and which nodes belong together."""
    before, after, links = [], [], []
    for index in range(nodes):
        inputs = (index - 1,) if index else ()
        if index % 8 == 7:
            inputs = (index - 1, index - 6)
        changed = index % every == every - 1
        state, op = ("fused", "Exp") if changed else ("equal", "Conv")
        before.append(DrawnNode(f"block_{index // 8}/node_{index}", op, inputs, state))
        after.append(DrawnNode(f"block_{index // 8}/node_{index}", "Neg" if changed else op, inputs, state))
        links.append((index, index))
    return [DrawnGraph("original", tuple(before)), DrawnGraph("quantized", tuple(after))], links
