"""From a report to one HTML file that needs nothing else: no network, no other file, no server.

Everything in a report is text that a stranger's model may have written. Jinja2 escapes it in HTML; data for the page's
script travels as JSON in an element that is never run; names are isolated, so that right-to-left text stays in its
cell; and the page forbids itself, by a content security policy, to load anything and to run any script but its own.
"""

import base64
import hashlib
import math
import os
import secrets
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sardonyx.errors import SaveError
from sardonyx.report.content import Cell, Column, Report, Table

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_ROWS = 15
"""Rows of a table in the document at a time."""
LONGEST_TEXT = 400
"""Characters of a text that are shown: a name may be a page long."""
_STYLE, _SCRIPTS, _TEMPLATE = "page.css", ("table.js", "drawing.js"), "page.html.jinja"


def render(report: Report) -> str:
    """Returns the report as an HTML document."""
    script = "\n".join(_resource(name) for name in _SCRIPTS)
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(report=report, style=_resource(_STYLE), script=script, script_hash=_hash(script), page_rows=PAGE_ROWS)
    )


def write(report: Report, path: str | os.PathLike[str]) -> Path:
    """Writes the report as an HTML file, all of it or nothing, and returns its path.

    Raises:
        SaveError: If it cannot be written.
    """
    target = Path(path)
    page = render(report).encode("utf-8", errors="replace")  # a name may hold half a surrogate pair
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        fresh.write_bytes(page)
        fresh.replace(target)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise SaveError(
            f"The report {target} cannot be written: {error.strerror or error}.",
            remedy="Name a file in a folder that exists and that you may write to.",
        ) from error
    return target


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sardonyx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "short": short, "table_data": _table_data}
    return environment


def _resource(name: str) -> str:
    return files("sardonyx.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """The script's hash as a content security policy names it (CSP Level 3, 'sha256-...')."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def short(text: str) -> str:
    """Returns a text with its middle left out where it is longer than a page should show."""
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]} […] {text[-half:]} ({len(text):,} characters)"


def shown(cell: Cell, column: Column) -> str:
    """Returns a cell as it is read: thousands separated, floats in the column's form, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return short(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    if not math.isfinite(cell):
        return "∞" if cell > 0 else "-∞" if cell < 0 else "NaN"
    return format(cell, column.form)


def _table_data(table: Table) -> dict[str, Any]:
    """What the script sorts and searches: what is shown, and for numbers the number itself."""
    rows = [[shown(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
    numbers = {
        index: [_sortable(row[index]) for row in table.rows]
        for index, column in enumerate(table.columns)
        if column.align == "number"
    }
    return {"rows": rows, "align": [column.align for column in table.columns], "numbers": numbers}


def _sortable(cell: Cell) -> float | None:
    """A number that JSON knows; None sorts last."""
    if cell is None or isinstance(cell, str) or math.isnan(cell):
        return None
    return max(min(float(cell), 1e300), -1e300)
