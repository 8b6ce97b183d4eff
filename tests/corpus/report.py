"""Counts over the corpora: python -m tests.corpus.report [EXPORTS].

EXPORTS is a folder that `python -m sardonyx.models.exports EXPORTS` has written; without it, only the models of the
onnx package are counted. Exits with 1 if any model differs.
"""

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.corpus import cases
from tests.corpus.cases import Case
from tests.exactness import Outcome, judge

TRAINING = "computes a gradient: an operator of training, which no evaluator has"
EXCLUDED: Mapping[str, str] = {"test_gradient_of_add": TRAINING, "test_gradient_of_add_and_mul": TRAINING}
"""Models that nothing here can run, with the reason. That it still holds is checked in each run."""


@dataclass
class Tally:
    """Counts outcomes.

    Attributes:
        counts: Models by what became of them; `changed` counts those that a pass changed.
        rules: How often each rule was applied.
        failures: One line a model that is not as it should be.
        undone: Why passes were undone.
    """

    counts: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)

    def add(self, case: Case) -> None:
        """Judges one case and counts it; a crash is a failure like a difference."""
        self.counts["models"] += 1
        if case.random:
            self.counts[f"draws random numbers: {case.random}"] += 1
            return
        try:
            outcome = judge(case.model, [case.feed])
        except Exception as error:  # collected, so that one failure does not hide the others
            self.failures.append(f"{case.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return
        if case.name in EXCLUDED and outcome.verdict == "original does not run":
            self.counts[EXCLUDED[case.name]] += 1
            return
        self.count(case.name, outcome)

    def count(self, name: str, outcome: Outcome) -> None:
        """Counts an outcome; anything but `equal` is a failure."""
        self.rules.update(outcome.rules)
        self.counts["changed"] += bool(outcome.rules)
        self.undone += outcome.undone
        if outcome.verdict != "equal":
            self.failures.append(f"{name}: {outcome.verdict}: {outcome.reason}")
            return
        self.counts["equal"] += 1
        self.counts[f"equal in {outcome.evaluator}"] += 1


def tally_of(found: Iterable[Case]) -> Tally:
    """Judges all cases."""
    tally = Tally()
    for case in found:
        tally.add(case)
    return tally


def show(title: str, tally: Tally) -> None:
    """Prints a tally as a few lines."""
    print(f"\n{title}")
    for what, count in tally.counts.items():
        print(f"  {count:5d}  {what}")
    print(f"  {len(tally.failures):5d}  not equal, or crashed")
    print(f"  {len(tally.undone):5d}  passes undone, for {len(set(tally.undone))} reasons")
    for line in (*tally.failures, *sorted(set(tally.undone))):
        print(f"         {line}")
    print(f"  rules: {', '.join(f'{rule} {count}' for rule, count in tally.rules.most_common())}")


def main() -> None:
    """Prints the counts of every corpus."""
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    corpora = {
        "node tests": cases.node_tests(),
        **{kind: cases.data_set(kind) for kind in cases.SETS},
        "architectures, constant weights": cases.architectures(),
        "architectures, random weights": map(cases.filled_architecture, cases.FILLED),
    }
    tallies = {title: tally_of(found) for title, found in corpora.items()}
    if len(sys.argv) > 1:
        from tests.corpus.exports import tally_exports

        tallies["torch exports"] = tally_exports(Path(sys.argv[1]))
    for title, tally in tallies.items():
        show(title, tally)
    sys.exit(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    main()
