"""What a compile knows beyond its record, for the page: the models, and what was measured of their insides."""

from dataclasses import dataclass

from sardonyx.report.comparison import Comparison


@dataclass(frozen=True)
class DriftPoint:
    """The error of one value that both models compute.

    Attributes:
        before: Its name in the original.
        after: Its name in the other model.
        depth: Its position in the original's order of computation.
        sqnr_db: Signal-to-noise ratio in dB over the samples; infinite where equal to the bit.
        max_abs: Largest absolute difference.
        producer: Name of the original's node that computes it.
    """

    before: str
    after: str
    depth: int
    sqnr_db: float
    max_abs: float
    producer: str = ""


@dataclass(frozen=True)
class Drift:
    """The error along the depth.

    Attributes:
        points: The matched values.
        summary: Where the models part first, or why nothing was measured.
    """

    points: tuple[DriftPoint, ...] = ()
    summary: str = ""


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
        drift: Error along the depth.
        times: Time by node.
    """

    comparison: Comparison | None = None
    no_comparison: str = ""
    drift: Drift = Drift()
    times: NodeTimes = NodeTimes()
