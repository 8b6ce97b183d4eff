"""Compares the exact passes with other optimizers, file to file, on folders of models.

    pip install onnxsim==0.8.1 onnxslim==0.1.98 onnxscript
    python -m benchmarks.optimizer RESULTS.jsonl FOLDER [FOLDER ...] [--only TEXT] [--minutes 30] [--latency 0.5]
    python -m benchmarks.optimizer RESULTS.jsonl FOLDER [FOLDER ...] --nodes-only [--tools TOOL ...]
    python -m benchmarks.optimizer RESULTS.jsonl                      # the summary of what was measured so far

A FOLDER holds `NAME/model.onnx` beside feeds: `NAME/feeds_*.npz`, or `NAME/eval.py` with `calib()`. The torch exports
come from `python -m sardonyx.models.exports FOLDER`. Each model has a process of its own, in which the tools take turns
three times; per tool its least time counts, loading and saving included, importing left out. Peak memory is that of
one more process a tool. What RESULTS has already is left out, so a run can be taken up again. With --nodes-only nothing
is timed: each tool works once, and nodes and the outputs for one sample are compared.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.tasks import load_eval
from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.errors import BackendError, DataError
from sardonyx.measure import ErrorAccumulator, Session, SessionOptions, describe_machine, measure_peak, paired_latency
from sardonyx.passes.base import Pass, PassContext
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline

ROUNDS, FEEDS = 3, 3
EQUAL_DB = 90.0
"""Signal to noise above which float32 outputs are called equal: reassociated sums of deep networks reach 100 dB."""
NOISE = 0.02
"""Two sessions of one model differ by less than this where machines are shared."""
MODEL_SECONDS = 900.0
ORIGINAL = "original"
OURS, OURS_ON_TARGET = "sardonyx", "sardonyx-ort"
Row = dict[str, Any]


@cache
def _target() -> PassContext:
    return PassContext(backend("onnxruntime").capabilities(describe_machine()))


@cache
def _passes() -> tuple[Pass, ...]:
    return tuple(parse_pipeline(Recipe().optimize, available_passes()))


def _optimize(source: str, written: str, context: PassContext) -> None:
    ir.save(PassManager(_passes(), context=context).run(ir.load(source).model).model, written)


def with_sardonyx(source: str, written: str) -> None:
    """The default exact passes, for any target: operators of the standard domain."""
    _optimize(source, written, PassContext())


def with_sardonyx_on_target(source: str, written: str) -> None:
    """The default exact passes for ONNX Runtime: its own operators too, where its table admits them."""
    _optimize(source, written, _target())


def with_onnxsim(source: str, written: str) -> None:
    """onnxsim.simplify."""
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], written)


def with_onnxslim(source: str, written: str) -> None:
    """onnxslim.slim."""
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), written)


def with_onnxscript(source: str, written: str) -> None:
    """onnxscript.optimizer.optimize."""
    from onnxscript import optimizer

    onnx.save(optimizer.optimize(onnx.load(source)), written)


def with_onnxruntime(source: str, written: str) -> None:
    """ONNX Runtime's own EXTENDED level, written offline."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = written
    weights = Path(written).with_suffix(".data").name  # else they stay in the file of the source
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(1 << 20))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


Tool = Callable[[str, str], None]
TOOLS: Mapping[str, Tool] = {
    OURS: with_sardonyx,
    OURS_ON_TARGET: with_sardonyx_on_target,
    "onnxsim": with_onnxsim,
    "onnxslim": with_onnxslim,
    "onnxscript": with_onnxscript,
    "onnxruntime": with_onnxruntime,
}
PEERS = tuple(name for name in TOOLS if name not in (OURS, OURS_ON_TARGET))


def feeds_of(folder: Path) -> list[dict[str, Any]]:
    """The first feeds of a model."""
    stored = sorted(folder.glob("feeds_*.npz"))[:FEEDS]
    if stored:
        return [dict(np.load(path)) for path in stored]
    return list(load_eval(folder).calib()[:FEEDS])


def count(path: Path) -> dict[str, int]:
    """Nodes of a model in all its graphs, and those of them outside the standard domain; Constant nodes left out."""
    nodes = [node for graph in ir.all_graphs(ir.load(path).model) for node in graph if node.op_type != "Constant"]
    return {"nodes": len(nodes), "foreign": sum(bool(node.domain) for node in nodes)}


@dataclass(frozen=True)
class Plan:
    """What to measure of a model.

    Attributes:
        tools: Names of tools.
        latency: Seconds of timed runs a model and tool; None: neither tools nor models are timed.
    """

    tools: tuple[str, ...]
    latency: float | None


def measure_model(folder: Path, plan: Plan) -> Iterator[Row]:
    """Yields a row for the original and one a tool; a tool that fails is a result of this benchmark."""
    yield {"tool": ORIGINAL, **count(folder / "model.onnx")}
    with tempfile.TemporaryDirectory() as temporary:
        written = {tool: Path(temporary) / tool / "model.onnx" for tool in plan.tools}
        for path in written.values():
            path.parent.mkdir()
        measured = _counted(folder, written) if plan.latency is None else _timed(folder, written, plan.latency)
        yield from measured


def _counted(folder: Path, written: Mapping[str, Path]) -> Iterator[Row]:
    """Lets each tool work once, and counts and compares what it has written."""
    source = folder / "model.onnx"
    feeds = feeds_of(folder)[:1]
    for tool, path in written.items():
        try:
            TOOLS[tool](str(source), str(path))
        except Exception as error:  # whatever a peer raises is the result: that it fails, and how
            yield {"tool": tool, "failed": " ".join(f"{type(error).__name__}: {error}".split())[:160]}
            continue
        yield {"tool": tool, **count(path), **_compared(source, path, feeds)}


def _timed(folder: Path, written: Mapping[str, Path], latency: float) -> Iterator[Row]:
    source = folder / "model.onnx"
    feeds = feeds_of(folder)
    rows: dict[str, Row] = {}
    for tool, path in written.items():
        rows[tool] = {"tool": tool, **_peak(TOOLS[tool], source, path)}
    working = [tool for tool, row in rows.items() if "failed" not in row]
    for tool, seconds in _take_turns(working, source, written).items():
        rows[tool] |= {"seconds": round(seconds, 4), **count(written[tool])}
        rows[tool] |= _compared(source, written[tool], feeds, latency)
    yield from rows.values()


def _peak(tool: Tool, source: Path, path: Path) -> Row:
    try:
        return {"peak_mib": measure_peak(tool, str(source), str(path)) >> 20}
    except BackendError as error:
        return {"failed": " ".join(error.message.split())[:160]}


def _take_turns(tools: Sequence[str], source: Path, written: Mapping[str, Path]) -> dict[str, float]:
    """Returns the least seconds of each tool; the first round, which also imports, is not counted."""
    times: dict[str, list[float]] = {tool: [] for tool in tools}
    for _ in range(ROUNDS + 1):
        for tool in tools:
            start = time.perf_counter()
            TOOLS[tool](str(source), str(written[tool]))
            times[tool].append(time.perf_counter() - start)
    return {tool: min(taken[1:]) for tool, taken in times.items()}


def _compared(source: Path, written: Path, feeds: Sequence[dict[str, Any]], latency: float | None = None) -> Row:
    """Compares outputs, the runtime's optimizations off, and times both with all of them on, where a time is given."""
    try:
        with _plain(source) as original, _plain(written) as optimized:
            errors = ErrorAccumulator([output.name for output in original.outputs])
            for feed in feeds:
                errors.update(original.run(feed), optimized.run(feed))
            noise = min(min(error.sqnr_db, 999.0) if error.ok else -999.0 for error in errors.result())
        row: Row = {"sqnr_db": round(noise, 1)}
        if latency is not None:
            with Session(source) as original, Session(written) as optimized:
                timing = paired_latency(original, optimized, feeds[0], seconds=latency)
            row["speedup"] = [round(value, 3) for value in (timing.ratio, timing.low, timing.high)]
    except (BackendError, DataError) as error:
        return {"does_not_run": " ".join(error.message.split())[:160]}
    return row


def _plain(path: Path) -> Session:
    return Session(path, options=SessionOptions(optimization="disabled"))


def _work(sender: Connection, folder: Path, plan: Plan) -> None:
    for row in measure_model(folder, plan):
        sender.send(row)


def rows_of(folder: Path, plan: Plan) -> list[Row]:
    """Measures a model in a process of its own, which may die or be late; what it has told by then is kept."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, folder, plan))
    process.start()
    sender.close()
    rows: list[Row] = []
    deadline = time.monotonic() + MODEL_SECONDS
    try:
        while receiver.poll(max(0.0, deadline - time.monotonic())):
            rows.append(receiver.recv())
    except EOFError:
        pass
    if process.is_alive() and time.monotonic() >= deadline:
        process.kill()
    process.join()
    told = {row["tool"] for row in rows}
    ended = f"the model's process ended with {process.exitcode}"
    rows += [{"tool": tool, "failed": ended} for tool in plan.tools if tool not in told]
    return [{"set": folder.parent.name, "model": folder.name, **row} for row in rows]


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g}" if values else "-"


def _cell(row: Row | None) -> str:
    if row is None or "failed" in row:
        return "failed"
    nodes = f"{row['nodes']} ({row['foreign']})" if row["foreign"] else str(row["nodes"])
    if row["tool"] == ORIGINAL:
        return nodes
    wrong = "" if _equal(row) else " **differs**" if "sqnr_db" in row else " does not run"
    cost = f", {row['seconds']:.2f} s, {row['peak_mib']} MiB" if "seconds" in row else ""
    speed = f", {row['speedup'][0]:.2f}x" if "speedup" in row else ""
    return f"{nodes}{wrong}{cost}{speed}"


def _equal(row: Row | None) -> bool:
    return row is not None and row.get("sqnr_db", -999.0) >= EQUAL_DB


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Yields the lines of a Markdown report."""
    models: dict[str, dict[str, Row]] = {}
    for row in rows:
        models.setdefault(f"{row['set']}/{row['model']}", {})[row["tool"]] = row
    yield f"| model | original | {' | '.join(TOOLS)} |"
    yield f"|---|---|{'---|' * len(TOOLS)}"
    for name, tools in models.items():
        yield f"| {name} | {' | '.join(_cell(tools.get(tool)) for tool in (ORIGINAL, *TOOLS))} |"
    yield "\nNodes (outside the standard domain), seconds, peak memory, median paired speed-up over the original.\n"
    for ours in (OURS, OURS_ON_TARGET):
        yield from _verdict(ours, models)


def _verdict(ours: str, models: Mapping[str, Mapping[str, Row]]) -> Iterator[str]:
    """How one configuration of ours stands against the peers."""
    measured = {name: tools for name, tools in models.items() if "nodes" in tools.get(ours, {})}
    mine = {name: tools[ours] for name, tools in measured.items()}
    lost = {}
    for name, tools in measured.items():
        rivals = {
            peer: tools[peer]["nodes"] for peer in PEERS if _equal(tools.get(peer)) and not tools[peer]["foreign"]
        }
        if rivals and min(rivals.values()) < mine[name]["nodes"]:
            best = min(rivals, key=lambda peer: rivals[peer])
            lost[name] = f"{name} ({mine[name]['nodes']} against {rivals[best]} of {best})"
    slower = [
        f"{name} ({row['speedup'][0]:.2f}x)"
        for name, row in mine.items()
        if "speedup" in row and row["speedup"][2] < 1 and row["speedup"][0] < 1 - NOISE
    ]
    different = [name for name, row in mine.items() if not _equal(row)]
    share = (1 - len(lost) / len(mine)) * 100 if mine else 0.0
    yield f"**{ours}**: {len(mine)} of {len(models)} models; fewest nodes or as few as any peer's on {share:.0f} %"
    yield f"- more nodes than a peer: {', '.join(lost.values()) or 'none'}"
    yield f"- slower than the original beyond noise: {', '.join(slower) or 'none'}"
    yield f"- outputs not equal, or do not run: {', '.join(different) or 'none'}"
    yield f"- median speed-up: {_median([row['speedup'][0] for row in mine.values() if 'speedup' in row])}"
    for peer in PEERS:
        rows = {name: tools[peer] for name, tools in measured.items() if peer in tools}
        pairs = [(mine[name]["seconds"], row["seconds"]) for name, row in rows.items() if "seconds" in row]
        failed = sum("failed" in row for row in rows.values())
        wrong = sum("failed" not in row and not _equal(row) for row in rows.values())
        yield (
            f"- against {peer}: median seconds {_median([a for a, _ in pairs])} to {_median([b for _, b in pairs])}, "
            f"median ratio {_median([a / b for a, b in pairs])}; it fails on {failed} and differs on {wrong}"
        )
    yield ""


def main() -> None:
    """Appends rows to the results, then prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--minutes", type=float, default=30.0, help="begin no model after this long")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds of timed runs a model and tool")
    parser.add_argument("--nodes-only", action="store_true", help="time nothing")
    parser.add_argument("--tools", nargs="+", choices=[*TOOLS], default=[*TOOLS])
    arguments = parser.parse_args()
    latency = None if arguments.nodes_only else arguments.latency
    results: Path = arguments.results
    known = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    rows = [json.loads(line) for line in known]
    done = {(row["set"], row["model"], row["tool"]) for row in rows}
    deadline = time.monotonic() + 60 * arguments.minutes
    with results.open("a", encoding="utf-8") as file:
        for path in sorted(path for folder in arguments.folders for path in folder.resolve().glob("*/model.onnx")):
            key = (path.parent.parent.name, path.parent.name)
            missing = tuple(tool for tool in arguments.tools if (*key, tool) not in done)
            if not missing or arguments.only not in path.parent.name or time.monotonic() > deadline:
                continue
            fresh = rows_of(path.parent, Plan(missing, latency))
            rows += fresh
            file.writelines(json.dumps(row) + "\n" for row in fresh)
            file.flush()
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
