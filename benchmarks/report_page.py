"""How long a page of 5,000 nodes on each side takes until it can be used, in headless Chromium.

The clock starts where the browser is asked for the page and stops when its script has laid out and drawn the graphs;
then the time of unfolding everything. Needs chromium and chromedriver: `python -m benchmarks.report_page`.
"""

import tempfile
from pathlib import Path
from statistics import median

from sardonyx.report import Report, Section, write
from sardonyx.report.content import Column, Table, Verdict, numbers
from sardonyx.report.drawing import draw
from tests.browser.conftest import chromium
from tests.report.pages import long_graphs

NODES, ROWS, REPEATS = 5000, 5000, 5
UNFOLD = """
const start = performance.now();
document.querySelector('[data-do="unfold"]').click();
document.body.getBoundingClientRect();
return performance.now() - start;
"""


def page(every: int) -> Report:
    """Returns a page with graphs that differ in one node out of `every`, and a table of as many rows."""
    graphs, links = long_graphs(NODES, every)
    drawing = draw(graphs, links)
    table = Table((Column("node"), numbers("value")), [(f"node_{i}", i / 7) for i in range(ROWS)], "Rows")
    blocks = (table,) if drawing is None else (drawing, table)
    return Report("page", "benchmark", Verdict("", "plain"), (Section("Section", blocks),))


def main() -> None:
    """Prints milliseconds until the page can be used, and for unfolding all runs."""
    with tempfile.TemporaryDirectory() as folder:
        browser = chromium(Path(folder) / "profile")
        try:
            for every in (3, 10, 100):
                url = write(page(every), Path(folder) / "page.html").as_uri()
                ready, unfold = [], []
                for _ in range(REPEATS):
                    browser.get(url)
                    ready.append(float(browser.execute_script("return document.documentElement.dataset.ready")))
                    unfold.append(float(browser.execute_script(UNFOLD)))
                size = (Path(folder) / "page.html").stat().st_size / 1e6
                print(
                    f"one node in {every} differs: {size:.1f} MB, usable after {median(ready):.0f} ms "
                    f"(at most {max(ready):.0f}), all unfolded in {median(unfold):.0f} ms"
                )
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
