"""Judging: what a candidate loses on data it was not tuned on, and how fast it is beside the original."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sardonyx import ir
from sardonyx.backends import Backend
from sardonyx.errors import BackendError
from sardonyx.measure import (
    Agreement,
    AgreementResult,
    ErrorAccumulator,
    Feed,
    Metric,
    Samples,
    Session,
    paired_latency,
)
from sardonyx.passes.base import Progress
from sardonyx.pipeline import Accuracy, Candidate, Latency, Recipe

AGREEMENT = "agreement with the original on held-out samples"
AGREEMENT_OF_FEW = "least agreement with the original that so few outputs, of all samples, leave likely"
CALIBRATION_SAMPLES = 100
"""Most calibration samples that are judged with too, where the held-out ones say too little."""
ROUNDING = 1e-6
"""What rounding alone may cost: with a budget of 0, a model that only reassociates sums is still within it."""
EXACT_SQNR_DB = 60.0
"""Rewrites that only reassociate FP32 sums stay far above this signal-to-noise ratio; a mistake does not."""


@dataclass(frozen=True)
class Judge:
    """Measures candidates against one original.

    Attributes:
        backend: The target that loads the candidates.
        original: The original model, loaded in the target.
        metric: The user's metric of a `run` function, higher is better; None for agreement.
        metric_name: What to call it.
        original_metric: The metric of the original; 1.0 for agreement.
        held_out: Samples to judge with; None where there are none that the original runs on.
        calibration: The user's samples that candidates are tuned on; None where the held-out ones are not the
            user's, so that agreement on them says nothing about accuracy.
        feed: The feed that is timed; None where there are no samples.
        recipe: Budget, threads and timing.
        progress: Told what is being measured.
    """

    backend: Backend
    original: Session
    metric: Metric | None
    metric_name: str
    original_metric: float
    held_out: Samples | None
    calibration: Samples | None
    feed: Feed | None
    recipe: Recipe
    progress: Progress

    def measure(self, name: str, model: ir.Model, path: Path) -> Candidate:
        """Loads a candidate, written at `path`, and measures it.

        One that does not load, or does not run where the original does, is rejected with the reason.

        Raises:
            DataError: If the metric fails.
            BackendError: If the original does not run on the samples.
        """
        candidate = Candidate(name=name, nbytes=ir.nbytes(model), operators=ir.operator_counts(model))
        try:
            session = self.backend.load(path, threads=self.recipe.threads)
        except BackendError as error:
            candidate.rejected = f"the target does not load it: {error.message}"
            return candidate
        with session:
            try:
                self._accuracy(candidate, session)
                self._latency(candidate, session)
            except _FailedToRunError as failure:
                candidate.rejected = f"the target does not run it: {failure}"
                candidate.accuracy = None  # of a model that fails on some samples, those it runs on say nothing
        return candidate

    def _accuracy(self, candidate: Candidate, session: Session) -> None:
        agreement = None if self.held_out is None else self._compare(candidate, session, self.held_out)
        if self.metric is not None:
            self.progress(0, None, f"evaluate {candidate.name}")
            self._note_accuracy(candidate, self.metric_name, self.metric(partial(_run, session)))
        elif agreement is not None and self.calibration is not None:
            self._note_agreement(candidate, session, agreement)

    def _note_agreement(self, candidate: Candidate, session: Session, held_out: AgreementResult) -> None:
        """Notes the agreement on held-out samples, or what all samples leave likely where the held-out ones are few.

        What a candidate loses where it was tuned it loses elsewhere too, however lucky a few held-out numbers are.
        """
        if held_out.doubtful and self.held_out is not None and self.calibration is not None:
            everything = self._agreement(session, chain(self.held_out, islice(self.calibration, CALIBRATION_SAMPLES)))
            if everything.least < held_out.value - ROUNDING:
                self._note_accuracy(candidate, AGREEMENT_OF_FEW, everything.least, everything.samples)
                return
        self._note_accuracy(candidate, self.metric_name, held_out.value, held_out.samples)

    def _agreement(self, session: Session, samples: Iterable[Feed]) -> AgreementResult:
        agreement = Agreement([output.name for output in self.original.outputs])
        for done, feed in enumerate(samples, start=1):
            agreement.update(self.original.run(feed), _run(session, feed))
            self.progress(done, None, "judge with all samples")
        return agreement.result()

    def _compare(self, candidate: Candidate, session: Session, samples: Samples) -> AgreementResult:
        """Compares all outputs on all samples; notes and returns the agreement."""
        names = [output.name for output in self.original.outputs]
        agreement, errors = Agreement(names), ErrorAccumulator(names)
        for done, feed in enumerate(samples, start=1):
            reference, outputs = self.original.run(feed), _run(session, feed)
            agreement.update(reference, outputs)
            errors.update(reference, outputs)
            self.progress(done, samples.len_hint, f"judge {candidate.name}")
        candidate.outputs = [asdict(error) for error in errors.result()]
        result = agreement.result()
        candidate.agreement = asdict(result)
        return result

    def _note_accuracy(self, candidate: Candidate, metric: str, value: float, samples: int | None = None) -> None:
        candidate.accuracy = Accuracy(
            metric=metric,
            original=self.original_metric,
            candidate=value,
            drop=relative_drop(self.original_metric, value),
            samples=samples,
        )

    def _latency(self, candidate: Candidate, session: Session) -> None:
        if self.feed is None:
            return
        self.progress(0, None, f"time {candidate.name}")
        _run(session, self.feed)
        timing = paired_latency(self.original, session, self.feed, seconds=self.recipe.timing_seconds)
        candidate.latency = Latency(
            speedup=timing.ratio,
            low=timing.low,
            high=timing.high,
            pairs=timing.pairs,
            original_ms=timing.a_seconds * 1e3,
            candidate_ms=timing.b_seconds * 1e3,
            threads=self.recipe.threads,
        )


class _FailedToRunError(BackendError):
    """A candidate that loaded and then failed; never leaves this module."""


def _run(session: Session, feed: Feed) -> list[Any]:
    """Runs a candidate, whose failures are told from those of the original."""
    try:
        return session.run(feed)
    except BackendError as error:
        raise _FailedToRunError(error.message) from error


def metric_name(metric: str | Metric | None) -> str:
    """Returns what to call a metric: its name, or agreement where there is none."""
    if metric is None:
        return AGREEMENT
    return metric if isinstance(metric, str) else str(getattr(metric, "__qualname__", metric))


def relative_drop(original: float, candidate: float) -> float:
    """Returns (original - candidate) / |original|; where the original is 0, the plain difference."""
    return (original - candidate) / (abs(original) or 1.0)


def inexact_output(candidate: Candidate) -> str | None:
    """Why outputs that should be equal within rounding are not, or None."""
    for output in candidate.outputs:
        if not output["ok"]:
            return f"output {output['name']}: {output['reason']}"
        if output["sqnr_db"] < EXACT_SQNR_DB:
            return f"output {output['name']} differs beyond rounding (SQNR {output['sqnr_db']:.0f} dB)"
    return None
