"""How right the matching of two models is: precision and recall against editors whose edits are known.

    pip install onnxsim==0.8.1 onnxslim==0.1.98
    PYTHONPATH=FOLDER python -m benchmarks.diff_truth MODEL.onnx[=package.module:feeds] ... [--only TEXT]

Each editor makes a second model. Which values are the same quantity is told by numbers: both models compute all values
for two samples, and values that are equal for both are one quantity (constants are left out). Where the first model
has more equal values than the second, as where an added zero or a repeated computation is gone, as many partners are
wanted as there are. Which nodes belong together is told by the names that an editor kept, and for the passes by the
provenance that they write, which the matcher does not get to see; of nodes that compute constants, several accounts
are right, so these are left out. Every edit is matched a second time with all names of
the second model replaced (`+names`).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.diff_editors import EDITORS, Edited, renamed
from benchmarks.diff_kinds import (
    by_kind,
    changes_of_tool,
    constant_nodes,
    kept_nodes,
    reported_changes,
    reported_of_tool,
    without_nodes,
)
from sardonyx import ir
from sardonyx.diff import Matching, compare, match
from sardonyx.errors import SardonyxError
from sardonyx.measure import Session, samples_for

EQUAL = 1e-3
"""Largest difference, relative to the value's largest magnitude, of values that are the same but for rounding."""

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass
class Score:
    """Counts for precision and recall."""

    reported: int = 0
    right: int = 0
    wanted: int = 0
    found: int = 0
    wrong: list[object] = field(default_factory=list)
    missed: list[object] = field(default_factory=list)

    def add(self, other: "Score") -> None:
        """Adds the counts of another score."""
        for name in ("reported", "right", "wanted", "found"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        precision = self.right / self.reported if self.reported else 1.0
        recall = self.found / self.wanted if self.wanted else 1.0
        return f"{precision:6.3f} {recall:6.3f}"


def all_values(model: ir.Model, feeds: list[Mapping[str, Any]]) -> list[Arrays]:
    """Computes every named tensor of the main graph for each feed, without ONNX Runtime's optimizer."""
    tapped = ir.clone(model)
    made = [v for node in tapped.graph for v in node.outputs if v.name and isinstance(v.type, ir.TensorType)]
    tapped.graph.outputs.extend(v for v in made if not v.is_graph_output())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(ir.serialize(tapped), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(feed)), strict=True)) | dict(feed) for feed in feeds]


def close(first: Any, second: Any) -> bool:
    """Whether two arrays are equal but for rounding."""
    if not isinstance(first, np.ndarray) or not isinstance(second, np.ndarray) or first.shape != second.shape:
        return False
    if first.dtype.kind not in "fiub" or second.dtype.kind not in "fiub" or first.dtype.kind != second.dtype.kind:
        return False
    a, b = first.astype(np.float64), second.astype(np.float64)
    scale = max(np.abs(a, where=np.isfinite(a), out=np.zeros_like(a)).max(initial=0.0), 1e-6)
    return bool(np.allclose(a, b, rtol=EQUAL, atol=EQUAL * scale, equal_nan=True))


class Numeric:
    """The truth of values by numbers."""

    def __init__(self, before: list[Arrays], after: list[Arrays]) -> None:
        self.before, self.after = before, after
        self._by_print: dict[object, list[str]] = {}
        for name in after[0]:
            self._by_print.setdefault(self._print(after, name), []).append(name)

    @staticmethod
    def _print(runs: list[Arrays], name: str) -> object:
        array = runs[0][name]
        return getattr(array, "shape", None), getattr(getattr(array, "dtype", None), "kind", "")

    def equal(self, name: str, other: str) -> bool:
        """Whether two values are equal for all samples."""
        return all(close(a[name], b[other]) for a, b in zip(self.before, self.after, strict=True))

    def constant(self, name: str) -> bool:
        """Whether a value does not depend on the sample."""
        first, second = self.before[0][name], self.before[1][name]
        return not isinstance(first, np.ndarray) or close(first, second)

    def fixed(self, name: str | None) -> bool:
        """Whether a value was computed and does not depend on the sample."""
        return name in self.before[0] and self.constant(name or "")

    def partners(self, name: str) -> Iterator[str]:
        """Yields the values that are equal to one of the first model."""
        return (other for other in self._by_print.get(self._print(self.before, name), ()) if self.equal(name, other))


def score_values(matching: Matching, truth: Numeric, names: Mapping[str, str]) -> Score:
    """Scores the matching of values by numbers; `names` tells how the second model's values were renamed."""
    original = {new: old for old, new in names.items()}
    score, taken, open_names = Score(), set(), []
    for name in truth.before[0]:
        if truth.constant(name):
            continue
        given = matching.values.get(name)
        right = False
        if given is not None and (other := original.get(given, given)) in truth.after[0]:
            right = truth.equal(name, other)
            score.reported += 1
            score.right += right
            if not right:
                score.wrong.append((name, other))
        if right:
            score.wanted += 1
            score.found += 1
            taken.add(other)
        else:
            open_names.append(name)
    for name in open_names:
        partner = next((other for other in truth.partners(name) if other not in taken), None)
        if partner is not None:
            score.wanted += 1
            taken.add(partner)
            score.missed.append(name)
    return score


def score_known(matching: Matching, known: Mapping[str, Set[str]]) -> Score:
    """Scores the matching of values against known partners, of which any will do: they carry the same quantity."""
    score = Score(reported=len([v for v in known if v in matching.values]), wanted=len(known))
    for name, others in known.items():
        if matching.values.get(name) in others:
            score.right += 1
            score.found += 1
        else:
            score.missed.append((name, *others, matching.values.get(name)))
    return score


def score_sets(reported: set[Any], wanted: set[Any]) -> Score:
    """Scores a set against what it should be."""
    both = len(reported & wanted)
    return Score(len(reported), both, len(wanted), both, [*(reported - wanted)], [*(wanted - reported)])


def node_pairs(matching: Matching, counted: set[str] | None) -> set[tuple[str, str]]:
    """Pairs of nodes that are in one group; with `counted`, of those nodes of the second model."""
    return {
        (b.name, a.name)
        for group in matching.groups
        for b in group.before
        for a in group.after
        if counted is None or a.name in counted
    }


def evaluate(before: ir.Model, edited: Edited, truth: Numeric, *, hide_names: bool) -> dict[str, Score]:
    """Matches and scores values, nodes and reported changes."""
    after, names = renamed(edited.model) if hide_names else (edited.model, {})
    matching = match(before, after, provenance=False)
    fixed = {node.name or "" for node in before.graph if all(truth.fixed(v.name) for v in node.outputs)}
    fixed |= constant_nodes(before) | constant_nodes(edited.model)
    scores = {}
    if edited.values is None:
        scores["values"] = score_values(matching, truth, names)
    else:
        made = {value.name for graph in ir.all_graphs(edited.model) for value in ir.graph_values(graph)}
        kept = {a: others & made for a, others in edited.values.items() if not truth.constant(a)}
        known = {a: {names.get(b, b) for b in others} for a, others in kept.items() if others}
        scores["values"] = score_known(matching, known)
    if edited.nodes is not None:
        wanted = {(a, names.get(f"node {b}", b)) for a, b in edited.nodes}
        given = node_pairs(matching, {b for _, b in wanted})
        counted = [{pair for pair in pairs if pair[0] not in fixed} for pairs in (given, wanted)]
        scores["nodes"] = score_sets(*counted)
    if edited.changes is not None:
        diff = compare(before, after, matching)
        if edited.changes is changes_of_tool:
            said = reported_of_tool(diff, kept_nodes(before, edited.model))
        else:
            said = reported_changes(diff, names)
        reported = by_kind(without_nodes(said, fixed))
        wanted = by_kind(without_nodes(edited.changes(before, edited.model), fixed))
        for kind in sorted(reported.keys() | wanted.keys()):
            scores[kind] = score_sets(reported.get(kind, set()), wanted.get(kind, set()))
    return scores


def feeds_of(model: ir.Model, spec: str | None) -> list[Mapping[str, Any]]:
    """Two different samples."""
    with Session(ir.serialize(model)) as session:
        found: list[Mapping[str, Any]] = []
        for feed in samples_for(spec, session):
            found.append(feed)
            if len(found) == 2:
                break
    return found


def study(path: str, spec: str | None, only: str, verbose: bool, totals: dict[tuple[str, str], Score]) -> None:
    """Runs all editors on one model and prints a line for each."""
    loaded = ir.load(path).model
    feeds = feeds_of(loaded, spec)
    values = all_values(loaded, feeds)
    with tempfile.TemporaryDirectory() as folder:
        for name, editor in EDITORS.items():
            if only in name:
                _one(path, name, (loaded, feeds, values), editor, (Path(folder), verbose, totals))


def _one(
    path: str,
    name: str,
    source: tuple[ir.Model, list[Mapping[str, Any]], list[Arrays]],
    editor: Callable[[ir.Model, Path], Edited | None],
    output: tuple[Path, bool, dict[tuple[str, str], Score]],
) -> None:
    before, feeds, values = source
    folder, verbose, totals = output
    label = Path(path).parent.name if Path(path).stem == "model" else Path(path).stem
    try:
        edited = editor(before, folder)
        if edited is None:
            return
        truth = Numeric(values, all_values(edited.model, feeds) if edited.values is None else [{}])
    except (SardonyxError, RuntimeError, ValueError) as error:
        print(f"{label:22s} {name:22s} not made: {' '.join(str(error).split())[:100]}")
        return
    for hide in (False, True):
        scores = evaluate(before, edited, truth, hide_names=hide)
        row = name + ("+names" if hide else "")
        cells = [f"{kind} {score}" for kind, score in scores.items()]
        print(f"{label:22s} {row:22s} {'   '.join(cells)}", flush=True)
        for kind, score in scores.items():
            totals.setdefault((row, kind), Score()).add(score)
            if verbose and (score.wrong or score.missed):
                print(f"    {kind}: wrong {score.wrong[:6]}\n    {kind}: missed {score.missed[:6]}")


def main() -> None:
    """Prints a line a model and editor, then the sums by editor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    totals: dict[tuple[str, str], Score] = {}
    for model in arguments.models:
        path, _, spec = model.partition("=")
        study(path, spec or None, arguments.only, arguments.verbose, totals)
    print("\nall models; precision and recall")
    for row in dict.fromkeys(row for row, _ in totals):
        cells = [f"{kind} {score}" for (r, kind), score in totals.items() if r == row]
        print(f"{row:22s} {'   '.join(cells)}")


if __name__ == "__main__":
    sys.exit(main())
