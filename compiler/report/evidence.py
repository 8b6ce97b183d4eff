"""What a compile knows beyond its record, for the page: the models, and what was measured of their insides."""

from dataclasses import dataclass

from sardonyx.diff.drift_schema import Drift
from sardonyx.diff.timing import Times
from sardonyx.report.graphs import Comparison


@dataclass(frozen=True)
class Evidence:
    """All of it; what is missing has a sentence that says why.

    Attributes:
        comparison: The original and the chosen model; None where they were not compared.
        no_comparison: Why not.
        drift: Error of matched values; None where it was not measured.
        no_drift: Why not.
        times: Time by node; None where it was not measured.
        no_times: Why not.
    """

    comparison: Comparison | None = None
    no_comparison: str = ""
    drift: Drift | None = None
    no_drift: str = ""
    times: Times | None = None
    no_times: str = ""
