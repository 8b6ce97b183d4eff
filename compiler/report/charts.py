"""Charts as SVG elements that follow the page: text stays text, colours are the page's variables, light or dark.

Drawn by Matplotlib with placeholder colours, which are then replaced by CSS variables. Matplotlib is imported where it
is used: it takes longer to import than most of the command line takes to answer. Texts are never read as mathematics,
and Matplotlib escapes them.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sardonyx.report.content import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, BEFORE, AFTER, BAD = "#010203", "#020304", "#030405", "#040506", "#050607", "#060708"
_VARIABLES: Final[Mapping[str, str]] = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    BEFORE: "--before",
    AFTER: "--after",
    BAD: "--bad",
}
_CLUTTER = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|(?<=<g) id=\"[^\"]*\"", re.DOTALL)
_SIZE = re.compile(r' (?:width|height)="[\d.]+pt"')
_STYLE: Final[dict[Any, Any]] = {
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "font.size": 9.0,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "sardonyx",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
MOST_BARS = 12
"""Operators in a chart of times; the others are one bar."""
DECIBEL_CEILING = 140.0
"""Signal-to-noise ratios above this, equal values among them, are drawn at this: FP32 rounding alone is near 140 dB."""


@dataclass(frozen=True)
class ParetoPoint:
    """A candidate in the plane of speed and accuracy.

    Attributes:
        name: The candidate.
        speedup: Original time / candidate time.
        low: Lower end of its 95 % interval.
        high: Upper end.
        drop: Relative loss of the metric.
        nbytes: Bytes of its tensors, drawn as area.
        chosen: Whether it was written.
    """

    name: str
    speedup: float
    low: float
    high: float
    drop: float
    nbytes: int
    chosen: bool


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple["Figure", "Axes"]]:
    """Yields a figure of a size in inches and its axes, in the page's style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: "Figure") -> str:
    """Returns a figure as an SVG element for a page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = _CLUTTER.sub("", text[text.index("<svg") :])
    head, rest = text.split(">", 1)
    text = f"{_SIZE.sub('', head)}>{rest}"
    for colour, variable in _VARIABLES.items():
        text = text.replace(f": {colour}", f": var({variable})")
    return text


def pareto(points: Sequence[ParetoPoint], budget: float) -> Chart:
    """Returns candidates as points: speed to the right, loss upwards, bytes as area.

    Args:
        points: At least one candidate.
        budget: The largest loss allowed, drawn as a line.
    """
    largest = max(point.nbytes for point in points) or 1
    with _figure(7.2, 3.4) as (figure, axes):
        axes.axhline(100 * budget, color=BAD, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"budget {budget:.2%}", (1, 100 * budget), xycoords=("axes fraction", "data"), xytext=(-2, 3),
            textcoords="offset points", ha="right", color=BAD, fontsize=8,
        )  # fmt: skip
        for point in points:
            colour = AFTER if point.chosen else MUTED
            spread = [[point.speedup - point.low], [point.high - point.speedup]]
            area = 40 + 360 * point.nbytes / largest
            axes.errorbar(point.speedup, 100 * point.drop, xerr=spread, color=colour, linewidth=1.2)
            axes.scatter(point.speedup, 100 * point.drop, s=area, color=colour, alpha=0.35, linewidth=0)
            axes.scatter(point.speedup, 100 * point.drop, s=9, color=colour)
            axes.annotate(
                point.name, (point.speedup, 100 * point.drop), xytext=(8, 8), textcoords="offset points",
                color=INK if point.chosen else MUTED, fontweight="bold" if point.chosen else "normal",
            )  # fmt: skip
        axes.margins(x=0.18, y=0.25)
        axes.set_xlabel("times as fast as the original")
        axes.set_ylabel("loss of the metric, %")
        return Chart(_svg(figure), "Candidates", "Right is faster, down is more accurate; area is size, bars are 95 %.")


@dataclass(frozen=True)
class DriftPoint:
    """The error at one matched value.

    Attributes:
        position: Its position in the order of computation.
        total_db: Signal-to-noise ratio when both models run by themselves, in dB; infinite where equal, None where
            unknown.
        own_db: The same when the second model's nodes are given the first model's values.
        parts: Whether more than rounding explains.
    """

    position: int
    total_db: float | None
    own_db: float | None
    parts: bool


def drift(points: Sequence[DriftPoint]) -> Chart:
    """Returns the error of values along the depth of the graph."""
    positions = np.array([point.position for point in points])
    total = np.array([_height(point.total_db) for point in points])
    own = np.array([_height(point.own_db) for point in points])
    parting = np.array([point.parts for point in points], bool)
    with _figure(9, 2.9) as (figure, axes):
        axes.scatter(positions, own, s=9, color=BEFORE, linewidth=0, label="made by its own nodes")
        axes.plot(positions, total, color=AFTER, linewidth=1.1, marker="o", markersize=2, label="in all")
        if parting.any():
            heights = np.where(np.isnan(own), total, own)[parting]
            axes.scatter(positions[parting], heights, s=42, facecolor="none", edgecolor=BAD, label="models part")
        axes.set_xlabel("position in the order of computation")
        axes.set_ylabel("signal to noise, dB")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        caption = f"Up is better: 20 dB more is a tenth of the error; {DECIBEL_CEILING:.0f} dB stands for equal."
        return Chart(_svg(figure), "Signal to noise of matched values", caption)


def _height(decibel: float | None) -> float:
    return math.nan if decibel is None else min(max(decibel, -20.0), DECIBEL_CEILING)


def times(before: Mapping[str, float], after: Mapping[str, float], names: tuple[str, str]) -> Chart:
    """Returns time by operator, before and after, the longest first.

    Args:
        before: Milliseconds by operator.
        after: Likewise.
        names: What the two models are called.
    """
    operators = sorted({*before, *after}, key=lambda op: -max(before.get(op, 0), after.get(op, 0)))
    rest = operators[MOST_BARS:]
    labels = operators[:MOST_BARS] + ([f"others ({len(rest)})"] if rest else [])
    with _figure(8, 0.9 + 0.34 * len(labels)) as (figure, axes):
        rows = np.arange(len(labels))
        for offset, colour, spent, name in ((-0.19, BEFORE, before, names[0]), (0.19, AFTER, after, names[1])):
            widths = [spent.get(op, 0.0) for op in operators[:MOST_BARS]]
            widths += [sum(spent.get(op, 0.0) for op in rest)] if rest else []
            axes.barh(rows + offset, widths, 0.34, color=colour, label=f"{name}, {sum(spent.values()):.3g} ms")
        axes.set_yticks(rows, [_clipped(label) for label in labels])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("milliseconds a run")
        axes.legend(loc="lower right")
        return Chart(
            _svg(figure), "Time by operator", "From the runtime's own profile, which slows each node a little."
        )


@dataclass(frozen=True)
class Histogram:
    """Counts of a value's elements over calibration, and the range that integers cover.

    Attributes:
        value: Name of the value.
        edges: Edges of bins of equal width, one more than counts.
        counts: Elements in each.
        low: Smallest real value represented.
        high: Largest.
        sqnr_db: Signal to noise of quantizing it so, in dB.
    """

    value: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    low: float
    high: float
    sqnr_db: float


def histogram(seen: Histogram) -> Chart:
    """Returns a value's histogram with the chosen range marked."""
    with _figure(3.4, 1.5) as (figure, axes):
        edges, counts = np.asarray(seen.edges), np.asarray(seen.counts)
        axes.stairs(np.log10(counts + 1), edges, fill=True, color=BEFORE, alpha=0.55)
        for end in (seen.low, seen.high):
            axes.axvline(end, color=AFTER, linewidth=1.2)
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(_whole_numbers())
        axes.yaxis.set_major_formatter(lambda exponent, _: f"1e{exponent:.0f}" if exponent else "0")
        chart = _svg(figure)
    quality = "exact" if math.isinf(seen.sqnr_db) else f"{seen.sqnr_db:.1f} dB"
    return Chart(chart, seen.value, f"{seen.low:.4g} to {seen.high:.4g}, {quality}")


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3, integer=True)


def _clipped(label: str) -> str:
    return label if len(label) <= 32 else f"{label[:31]}…"
