"""The page: what a compile, a diff or an inspection found, as one HTML file that a person can read.

    write(compile_report(record, Evidence(comparison=Comparison(before, after, matching, diff))), "report.html")

A page is first content, `Report`: plain values, without a word on how they look. `compilation`, `comparison` and
`measured` make content of records, diffs and measurements; `charts`, `drawing` and `graphs` make its pictures; `render`
makes the file.
"""

from sardonyx.report.comparison import diff_report
from sardonyx.report.compilation import compile_report
from sardonyx.report.content import Report, Section
from sardonyx.report.evidence import Evidence
from sardonyx.report.graphs import Comparison, model_drawings
from sardonyx.report.measured import drift_section, times_section
from sardonyx.report.render import render, write

__all__ = [
    "Comparison",
    "Evidence",
    "Report",
    "Section",
    "compile_report",
    "diff_report",
    "drift_section",
    "model_drawings",
    "render",
    "times_section",
    "write",
]
