"""What pages say, without a browser: text, escaping, numbers, files."""

import re
from pathlib import Path

import pytest

from sardonyx.errors import SaveError
from sardonyx.report import render, write
from sardonyx.report.content import Column, Report, Section, Table, Verdict, names, numbers
from sardonyx.report.render import short, shown
from tests.report.pages import compile_page


def page_of(table: Table) -> Report:
    return Report("page", "test", Verdict("It works.", "good"), (Section("Section", (table,)),))


def test_the_page_holds_what_a_reader_asks_for() -> None:
    text = render(compile_page())
    for wanted in (
        "0.9000 → 0.8964", "95 % interval 2.400 to 2.600", "4.00 MB → 1.00 MB", "The fastest that keeps the budget",
        "relu has no integer kernel", "A warning about relu.", "sardonyx compile relu.onnx --recipe recipe.yaml --data "
        "calib.npz --metric module:relu -o out", "max_drop: 0.01", "ab" * 32, "version: onnx", "a CPU",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_the_page_names_no_other_place() -> None:
    text = render(compile_page())
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"//[^\n]*", "", text.split("<script>")[0])))
    assert addresses <= {"http://www.w3.org"}, "namespaces of SVG alone"
    assert not re.search(r"""(?:src|href)=["'](?!#|data:,)""", text)


def test_the_same_report_gives_the_same_page() -> None:
    assert render(compile_page()) == render(compile_page())


@pytest.mark.parametrize(
    ("cell", "form", "expected"),
    [
        (None, ",.4g", ""),
        (1234567, ",.4g", "1,234,567"),
        (0.5, ".3f", "0.500"),
        (float("inf"), ".1f", "∞"),
        (float("-inf"), ".1f", "-∞"),
        (float("nan"), ".1f", "NaN"),
        ("text", "", "text"),
    ],
)
def test_cells_are_shown(cell: str | float | None, form: str, expected: str) -> None:
    assert shown(cell, numbers("x", form)) == expected


def test_long_names_lose_their_middle_and_say_so() -> None:
    text = short("a" * 5000 + "b" * 5000)
    assert text.startswith("a" * 200)
    assert text.endswith("b" * 200 + " (10,000 characters)")
    assert len(text) < 450


def test_columns_in_which_nothing_stands_are_left_out() -> None:
    table = Table((names("a"), Column("b"), numbers("c")), [("x", "", 1), ("y", None, 2)])
    assert [column.title for column in table.trimmed().columns] == ["a", "c"]
    assert table.trimmed().rows == [("x", 1), ("y", 2)]


def test_rows_have_as_many_cells_as_columns() -> None:
    with pytest.raises(ValueError, match="1 cells"):
        Table((names("a"),), [("x", 1)], "t")


def test_numbers_that_json_lacks_are_sorted_as_numbers() -> None:
    text = render(page_of(Table((numbers("x"),), [(float("inf"),), (float("nan"),), (1.0,), (None,)])))
    assert '"numbers": {"0": [1e+300, null, 1.0, null]}' in text


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    report = page_of(Table((names("a"),), [("half a pair: \ud800",)]))
    written = write(report, tmp_path / "page.html")
    assert "half a pair: ?" in written.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(SaveError, match="cannot be written"):
        write(report, tmp_path / "missing" / "page.html")
