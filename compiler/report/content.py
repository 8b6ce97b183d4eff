"""What a page says: a verdict, then sections of blocks. Values only; how they look is the templates' matter.

All texts are plain: names of a model's nodes and values may stand in any of them, and are escaped where a page is made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Tone = Literal["good", "warn", "bad", "plain"]
"""Whether a statement is good news: it decides a colour and a mark, never the words."""

Align = Literal["text", "name", "number"]
"""How a column is set: running text, a name from a model (isolated, monospaced), or a number."""

Cell = str | int | float | None
"""A cell of a table; None where there is nothing to say."""


@dataclass(frozen=True)
class Figure:
    """One number that a reader looks for first.

    Attributes:
        label: What it is of.
        value: The number with its unit, as text.
        detail: Interval, budget or conditions.
        tone: Whether it is good news.
    """

    label: str
    value: str
    detail: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Verdict:
    """What the page comes to.

    Attributes:
        headline: One sentence.
        tone: Whether it is good news.
        reason: Why, as a sentence.
        figures: The numbers behind it.
    """

    headline: str
    tone: Tone
    reason: str = ""
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Pairs of a label and a text."""

    kind: ClassVar[str] = "facts"

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Notes:
    """Sentences, one a line."""

    kind: ClassVar[str] = "notes"

    lines: tuple[str, ...]
    tone: Tone = "plain"


@dataclass(frozen=True)
class Code:
    """Text to copy: a command, a recipe.

    Attributes:
        text: The text; its line breaks stay.
        title: What it is.
    """

    kind: ClassVar[str] = "code"

    text: str
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: What stands in it.
        align: How it is set.
        form: Format of its floats, in Python's notation, so that their points stand in one line.
    """

    title: str
    align: Align = "text"
    form: str = ",.4g"


def numbers(title: str, form: str = ",.4g") -> Column:
    """Returns a column of numbers."""
    return Column(title, "number", form)


def names(title: str) -> Column:
    """Returns a column of names from a model."""
    return Column(title, "name")


@dataclass(frozen=True)
class Table:
    """Rows that a reader searches and sorts; thousands of them stay quick, because few are in the document at a time.

    Attributes:
        columns: What stands in the rows.
        rows: As many cells a row as columns.
        title: What the rows are.
    """

    kind: ClassVar[str] = "table"

    columns: tuple[Column, ...]
    rows: Sequence[tuple[Cell, ...]]
    title: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"A row of the table {self.title!r} does not have {len(self.columns)} cells.")

    def trimmed(self) -> "Table":
        """Returns the table without the columns in which nothing stands."""
        kept = [i for i in range(len(self.columns)) if any(row[i] not in (None, "") for row in self.rows)]
        rows = [tuple(row[i] for i in kept) for row in self.rows]
        return Table(tuple(self.columns[i] for i in kept), rows, self.title) if self.rows else self


@dataclass(frozen=True)
class Chart:
    """A drawing made by `sardonyx.report.charts`.

    Attributes:
        svg: An SVG element, safe to stand in a page.
        title: What it shows; also its text for those who do not see it.
        caption: How to read it.
    """

    kind: ClassVar[str] = "chart"

    svg: str
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Charts:
    """Small charts side by side."""

    kind: ClassVar[str] = "charts"

    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Drawing:
    """One graph, or two side by side, that a reader folds, unfolds and searches.

    Attributes:
        data: What `sardonyx.report.drawing` made of the graphs, as JSON.
        title: What it shows.
        caption: How to read it.
        legend: Style and meaning of each state of a node that occurs.
        anchor: By what other drawings refer to this one, which is then shown when it is asked for; else empty.
        extent: What there is to see, where it has to be asked for.
    """

    kind: ClassVar[str] = "drawing"

    data: Mapping[str, Any]
    title: str
    caption: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    anchor: str = ""
    extent: str = ""


Block = Facts | Notes | Code | Table | Chart | Charts | Drawing


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        title: The heading.
        blocks: What stands under it.
        summary: One sentence on what there is to see, or why there is nothing.
    """

    title: str
    blocks: tuple[Block, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Report:
    """A page.

    Attributes:
        title: The page's title: what was compiled, compared or inspected.
        kind: What the page is, in two or three words, over the title.
        verdict: What it comes to.
        sections: In the order of reading.
        footer: With what and when it was made.
    """

    title: str
    kind: str
    verdict: Verdict
    sections: tuple[Section, ...] = field(default=())
    footer: str = ""
