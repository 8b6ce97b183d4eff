"""The document of a diff on samples."""

from sardonyx.diff.drift_schema import Drift
from sardonyx.diff.schema import Diff
from sardonyx.diff.timing import Times


class MeasuredDiff(Diff):
    """A diff with what it does to samples.

    Attributes:
        drift: The errors along the models.
        times: The time of their nodes.
    """

    drift: Drift
    times: Times
