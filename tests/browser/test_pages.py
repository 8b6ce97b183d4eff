"""The pages in a browser: they run, ask for nothing, and let a reader search, sort, fold and follow."""

import base64
import re
from collections.abc import Callable

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from sardonyx.report import Report, Section, diff_report
from sardonyx.report.content import Column, Table, Verdict, numbers
from sardonyx.report.drawing import DrawnGraph, DrawnNode, draw
from tests.browser.conftest import Page
from tests.report.pages import branching, compared, compile_page, evidence, long_graphs

pytestmark = pytest.mark.xdist_group("browser")

Opened = Callable[[Report], Page]

HOSTILE = [
    "<img src=x onerror=window.injected=1>",
    "</script><script>window.injected=1</script>",
    "\"><svg onload=window.injected=1>'`${window.injected=1}",
    "{{ 7 * 7 }}\u2028\u2029{% raw %}",
    "\u202egnp.\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "$\\frac{1}{0}$ &lt;b&gt; ]]> <!-- --> fill: #050607",
    "a" * 10_000,
]


def page_of(*blocks: object) -> Report:
    return Report("page", "test", Verdict("It works.", "good"), (Section("Section", tuple(blocks)),))  # type: ignore[arg-type]


def wait(page: Page, condition: Callable[[], object]) -> None:
    WebDriverWait(page.browser, 10).until(lambda _: condition())


def drawing(nodes: int, every: int) -> Report:
    graphs, links = long_graphs(nodes, every)
    drawn = draw(graphs, links)
    assert drawn is not None
    return page_of(drawn)


def test_the_page_of_a_compile_has_its_sections_in_order(opened: Opened) -> None:
    page = opened(compile_page())
    assert page.texts("main h2") == [
        "The quantized model was written for onnxruntime: 2.50 times as fast, 4.00 times smaller, "
        "within the accuracy budget.",
        *("To know", "What each pass did", "Choices", "Before and after", "Error along the depth", "Time by node"),
        *("Calibration", "Weights", "Candidates", "How to reproduce"),
    ]
    assert page.texts(".figure .label") == ["accuracy", "speed", "size"]
    assert len(page.all(".svg svg")) == 4
    assert all(each.size["height"] > 60 for each in page.all(".svg svg"))


def test_the_page_of_a_diff_opens(opened: Opened) -> None:
    compared = evidence().comparison
    assert compared is not None
    page = opened(diff_report(compared, "a.onnx and b.onnx"))
    assert "Exp" in page.texts(".node .op")
    assert "Neg" in page.texts(".node .op")


def test_tables_are_searched_sorted_and_paged(opened: Opened) -> None:
    rows = [(f"node_{i}", float((i * 7919) % 3001)) for i in range(3000)]
    page = opened(page_of(Table((Column("name"), numbers("value", ".1f")), rows)))
    assert page.texts("tbody tr td:first-child") == [f"node_{i}" for i in range(15)]
    assert page.texts(".pages")[0].startswith("1 to 15 of 3,000")
    page.click(page.all("th button")[1])
    assert page.texts("tbody tr:first-child td") == [max(rows, key=lambda row: row[1])[0], "3000.0"]
    page.click(page.all("th button")[1])
    assert page.texts("tbody tr:first-child td") == ["node_0", "0.0"]
    page.click(page.all(".pages button")[1])
    assert page.texts(".pages")[0].startswith("16 to 30")
    page.one("input").send_keys("node_299")
    assert page.texts(".pages")[0].startswith("1 to 11 of 11 found")
    page.click(page.all("th button")[0])
    assert page.texts("tbody td:first-child") == ["node_299", *(f"node_{i}" for i in range(2990, 3000))]


def test_runs_fold_and_unfold_on_both_sides(opened: Opened) -> None:
    page = opened(drawing(24, 12))
    runs = page.all("g.node.run")
    assert page.texts(".node.run .op") == ["11 equal nodes"] * 4
    assert len(page.all(".links path")) == 4
    page.click(runs[0])
    assert page.texts(".node.run .op") == ["11 equal nodes"] * 2
    assert len(page.all("g.node.equal")) == 22
    page.click(page.all("g.node.equal")[0])
    assert len(page.all("g.node.selected")) == 2, "the node and its partner"
    assert page.one(".details bdi").text == "block_0/node_0"
    page.click(page.all(".details button")[-1])
    assert page.texts(".node.run .op") == ["11 equal nodes"] * 4
    page.click(page.all("button[data-do]")[1])
    assert page.texts(".node.run .op") == []


def test_a_node_in_a_folded_run_is_found(opened: Opened) -> None:
    page = opened(drawing(2000, 50))
    assert "block_111/node_894" not in page.texts(".node title")
    page.one(".drawing input").send_keys("node_894")
    wait(page, lambda: page.texts(".found")[0] == "1 of 2")
    wait(page, lambda: len(page.all("g.node.selected")) == 2)
    assert {"Conv\nblock_111/node_894"} <= set(page.texts(".node.selected title"))
    page.one(".drawing input").send_keys(Keys.ENTER)
    assert page.texts(".found") == ["2 of 2"]
    assert "quantized" in page.one(".details").text


@pytest.mark.parametrize("every", [3, 40, 6000])
def test_of_5000_nodes_only_those_in_sight_are_in_the_document(opened: Opened, every: int) -> None:
    page = opened(drawing(5000, every))
    page.click(page.all("button[data-do]")[1])
    assert 10 < len(page.all("g.node")) < 200
    page.run("document.querySelector('.canvas').scrollTop = 1e9")
    wait(page, lambda: any(text.endswith("node_4999") for text in page.texts(".node title")))
    assert len(page.all("*")) < 2500


def test_pairs_that_cross_are_drawn_in_rows_of_their_own(opened: Opened) -> None:
    before = DrawnGraph("a", (DrawnNode("p", "Exp", (), "moved"), DrawnNode("q", "Neg", (0,), "moved")))
    after = DrawnGraph("b", (DrawnNode("q", "Neg", (), "moved"), DrawnNode("p", "Exp", (0,), "moved")))
    drawn = draw([before, after], [(0, 1), (1, 0)])
    assert drawn is not None
    page = opened(page_of(drawn))
    assert sorted(page.texts(".node .name")) == ["p", "p", "q", "q"]
    assert len(page.all(".links path")) == 2


@pytest.mark.parametrize("name", HOSTILE, ids=["img", "script", "quotes", "template", "rtl", "markup", "long"])
def test_hostile_names_inject_nothing(opened: Opened, name: str) -> None:
    page = opened(compile_page(name))
    assert page.run("return window.injected") is None
    assert page.all("img, iframe, object, svg[onload], [onerror], b") == []
    assert len(page.all("script:not([type])")) == 1
    page.one(".drawing input").send_keys("Relu")
    wait(page, lambda: page.texts(".found") != ["" for _ in page.all(".found")])
    shown = name if len(name) < 400 else name[:200]
    assert page.texts(".details bdi")[0].startswith(shown[:100])
    assert shown[:15] in page.run("return document.title")
    assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert page.run("return window.injected") is None


def test_bodies_are_drawn_when_they_are_opened(opened: Opened) -> None:
    page = opened(diff_report(compared(branching("choose"), branching("pick", last="Exp")), "a and b"))
    body = page.one("#body-2")
    assert page.texts("#body-2 g.node") == []
    owner = next(node for node in page.all(".drawing g.node") if "If" in node.text)
    page.click(owner)
    page.click(next(b for b in page.all(".details button") if b.text == "Open choose.then_branch"))
    assert body.get_attribute("open") is not None
    wait(page, lambda: page.texts("#body-2 .node .op"))
    assert sorted(page.texts("#body-2 .node .op")) == ["Exp", "Neg", *["outer value"] * 2, *["output"] * 2]
    assert len(page.all("#body-2 .links path")) >= 2
    page.click(page.one("#body-1 summary"))
    wait(page, lambda: page.texts("#body-1 .node .op"))
    page.one("#body-1 input").send_keys("Sqrt")
    wait(page, lambda: page.texts("#body-1 .found") == ["1 of 2"])


@pytest.mark.parametrize("name", HOSTILE[:3], ids=["img", "script", "quotes"])
def test_hostile_names_of_bodies_inject_nothing(opened: Opened, name: str) -> None:
    page = opened(diff_report(compared(branching(name), branching(name, last="Exp")), name))
    for summary in page.all("details.body > summary"):
        page.click(summary)
    wait(page, lambda: page.texts("#body-1 .node .op"))
    page.click(next(node for node in page.all(".drawing g.node") if "If" in node.text))
    assert any(name[:20] in text for text in page.texts(".details button"))
    assert page.run("return window.injected") is None
    assert page.all("img, iframe, object, svg[onload], [onerror], b") == []


PAPER = (210 / 25.4, 297 / 25.4)
"""Width and height of A4 in inches."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_prints_on_paper_without_clipping(opened: Opened, scheme: str) -> None:
    page = opened(compile_page())
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    margins = 2 * 14 / 25.4
    width = round((PAPER[0] - margins) * 96)
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    clipped = page.run(
        "return [...document.querySelectorAll('table, pre, figure, .drawing')]"
        ".filter((each) => each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.className)"
    )
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert clipped == []
    options = {"printBackground": True, "preferCSSPageSize": True, "paperWidth": PAPER[0], "paperHeight": PAPER[1]}
    document = base64.b64decode(page.browser.execute_cdp_cmd("Page.printToPDF", options)["data"])
    assert document.startswith(b"%PDF-")
    pages = len(re.findall(rb"/Type\s*/Page\b", document))
    assert 2 <= pages <= 20


def test_colours_follow_the_system_and_paper_is_white(opened: Opened) -> None:
    page = opened(compile_page())
    colour = "return getComputedStyle(document.body).backgroundColor"
    seen = {}
    for medium, scheme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})
        seen[medium, scheme] = page.run(colour)
        if medium == "print":
            assert page.run("return getComputedStyle(document.querySelector('nav')).display") == "none"
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert seen["screen", "light"] != seen["screen", "dark"]
    assert seen["print", "dark"] == "rgb(255, 255, 255)"


def test_every_text_stands_out_from_its_ground(opened: Opened, browser: webdriver.Chrome) -> None:
    """Contrast of at least 4.5 to 1 in light and dark (WCAG 2.2, 1.4.3), for all colours of text on all grounds."""
    page = opened(compile_page())
    inks = ("--ink", "--muted", "--accent", "--good", "--warn", "--bad")
    script = (
        "const s = getComputedStyle(document.documentElement); return arguments[0].map((n) => s.getPropertyValue(n))"
    )
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
        grounds = [luminance(c) for c in page.run(script, ["--paper", "--card", "--soft"])]
        boxes = [
            luminance(c)
            for c in page.run(script, [f"--{s}" for s in ("equal", "changed", "fused", "removed", "added")])
        ]
        for ink, colour in zip(inks, page.run(script, list(inks)), strict=True):
            for ground in grounds + (boxes if ink == "--ink" else []):
                assert contrast(luminance(colour), ground) >= 4.5, (scheme, ink)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, as WCAG defines it."""
    digits = colour.strip().lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: float, b: float) -> float:
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)
