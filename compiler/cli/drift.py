"""What `sardonyx diff --data` prints: where two models part, and where the time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sardonyx.cli.console import progress_bar, say, say_table

if TYPE_CHECKING:
    from sardonyx.diff.drift_schema import Drift, Place
    from sardonyx.diff.matching import Matching
    from sardonyx.diff.schema import NodeEntry
    from sardonyx.diff.timing import TimedRegion, Times
    from sardonyx.ir import Model

_SHOWN = 10
"""Places and regions that are listed."""


def measured(
    paths: tuple[Path, Path], models: "tuple[Model, Model]", matching: "Matching", data: str, *, quiet: bool
) -> "tuple[Drift, Times]":
    """Compares two models on samples and times their nodes on the first one.

    Raises:
        UsageError: If the samples or the inputs of the second model do not fit.
        BackendError: If the runtime refuses a model.
    """
    from sardonyx.cli.sessions import opened
    from sardonyx.diff.drift import drift
    from sardonyx.diff.measuring import DriftOptions
    from sardonyx.diff.timing import node_times
    from sardonyx.measure import samples_for

    with opened(*paths, threads=1) as (first, _):
        samples = samples_for(data, first)
    with progress_bar(quiet=quiet) as progress:
        found = drift(*models, matching, samples, DriftOptions(progress=progress))
        times = node_times(paths, models, matching, next(iter(samples)))
    return found, times


def print_drift(drift: "Drift") -> None:
    """Prints the first place that parts, all that do, and the largest errors of nodes."""
    say(f"drift on {drift.what}, {drift.samples} sample(s), {len(drift.places)} places compared")
    parting = drift.parting
    if parting:
        place = parting[0]
        say(f"  first parts at {names_text(place)}")
        say(f"    {nodes_text(place.before_nodes)} -> {nodes_text(place.after_nodes)}")
        if place.why:
            say(f"    {place.why}")
    else:
        say("  no node adds more than rounding or the grid of its quantizers explains")
    if harmless := drift.harmless:
        say(f"  {len(harmless)} quantizers leave out what makes no difference behind them, the first of")
        say(f"    {harmless[0].before}: {harmless[0].why}")
    if rescaled := [place for place in drift.places if place.rescaled is not None]:
        say(f"  {len(rescaled)} places compared without factors that their readers take up again, first of them")
        say(f"    {rescaled[0].before}: {rescaled[0].rescaled}")
    for name, reason in list(drift.not_compared.items())[:_SHOWN]:
        say(f"  not compared: {name}: {reason}")
    if all(place.total.equal for place in drift.places):
        say("  all of them are equal, bit for bit")
    else:
        _print_places(parting[:_SHOWN] or drift.largest[:_SHOWN])


def print_times(times: "Times") -> None:
    """Prints the regions whose time changed most."""
    from rich.table import Table
    from rich.text import Text

    change = f"{times.before_seconds * 1e3:.3f} ms -> {times.after_seconds * 1e3:.3f} ms"
    say(f"time of all nodes: {change}, median of {times.runs} runs in alternation")
    table = Table(box=None)
    for column in ("before ms", "after ms", "nodes before", "nodes after"):
        table.add_column(column, justify="right" if column.endswith("ms") else "left", overflow="fold")

    def changed(region: "TimedRegion") -> float:
        return -abs(region.after_seconds - region.before_seconds)

    for region in sorted(times.regions, key=changed)[:_SHOWN]:
        seconds = (f"{region.before_seconds * 1e3:.3f}", f"{region.after_seconds * 1e3:.3f}")
        table.add_row(*seconds, Text(nodes_text(region.before, 1)), Text(nodes_text(region.after, 1)))
    loose = [sum(kernel.seconds for kernel in side) for side in (times.before_untraced, times.after_untraced)]
    if any(loose):
        table.add_row(*(f"{seconds * 1e3:.3f}" for seconds in loose), "traced to no node", "")
    say_table(table)


def names_text(place: "Place") -> str:
    """Returns what a value is called: in both models where they differ."""
    return place.before if place.before == place.after else f"{place.before}, {place.after} in the second model"


def nodes_text(nodes: "Sequence[NodeEntry]", limit: int = 3) -> str:
    """Returns nodes by name and operator, the first few."""
    shown = ", ".join(f"{node.name} ({node.op_type})" for node in nodes[:limit]) or "nothing"
    return shown if len(nodes) <= limit else f"{shown} and {len(nodes) - limit} more"


def _print_places(places: "Sequence[Place]") -> None:
    from rich.table import Table
    from rich.text import Text

    if not places:
        return
    table = Table(box=None)
    for column in ("value", "by its nodes", "explained", "in all", "SQNR dB", "nodes"):
        table.add_column(column, justify="left" if column in ("value", "nodes") else "right", overflow="fold")
    for place in places:
        local = None if place.local is None else place.local.relative
        sqnr = "" if place.total.sqnr_db is None else f"{place.total.sqnr_db:.1f}"
        numbers = (_number(local), _number(place.allowed), _number(place.total.relative), sqnr)
        table.add_row(Text(place.before), *numbers, Text(nodes_text(place.after_nodes)))
    say_table(table)


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2g}"
