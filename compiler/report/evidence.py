"""What a compile knows beyond its record, for the page: the models, and what was measured of their insides."""

from dataclasses import dataclass

from sardonyx.diff.drift_schema import Drift
from sardonyx.report.comparison import Comparison


@dataclass(frozen=True)
class NodeTime:
    """The time of one node, as the runtime names it.

    Attributes:
        node: Its name in the runtime's graph.
        op_type: Its operator there.
        milliseconds: Mean time a run.
        source: Nodes of the original that it stands for, where known.
    """

    node: str
    op_type: str
    milliseconds: float
    source: str = ""


@dataclass(frozen=True)
class NodeTimes:
    """Time by node of both models.

    Attributes:
        before: The original's nodes.
        after: The other model's.
        summary: What was measured, or why nothing was.
    """

    before: tuple[NodeTime, ...] = ()
    after: tuple[NodeTime, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Evidence:
    """All of it; what is missing has a sentence that says why.

    Attributes:
        comparison: The original and the chosen model; None where they were not compared.
        no_comparison: Why not.
        drift: Error of matched values; None where it was not measured.
        no_drift: Why not.
        times: Time by node.
    """

    comparison: Comparison | None = None
    no_comparison: str = ""
    drift: Drift | None = None
    no_drift: str = ""
    times: NodeTimes = NodeTimes()
