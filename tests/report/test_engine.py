"""The section on an engine."""

from sardonyx.backends import EngineReport
from sardonyx.backends.engine import Miss, Proof
from sardonyx.report import Report, render
from sardonyx.report.content import Verdict
from sardonyx.report.engine import engine_section


def test_an_engine_is_shown_with_what_misses() -> None:
    proof = Proof(
        {"Int8": 9, "Float": 1},
        {"correlation Int8": 9, "kgen Float": 4},
        10,
        9,
        (Miss("conv", "Conv", "Float", "no kernel"),),
        {"Int8": 12345},
    )
    engine = EngineReport("done", "model.engine", "builder", "1.0", ("8.6",), ("x=1:2:3",), 10, 5, 2.0, 7, proof)
    text = render(Report("page", "test", Verdict("", "plain"), (engine_section(engine),)))
    for wanted in ("9 of 10 planned", "no kernel", "8.6", "x=1:2:3", "builder 1.0 in 2.0 s", "kgen Float", "12,345"):
        assert wanted in text


def test_no_engine_says_why_and_how_to_build_one() -> None:
    engine = EngineReport("start", problems=("there is no builder",), commands={"trtexec": "trtexec --onnx=model.onnx"})
    section = engine_section(engine)
    assert section.summary == "No engine was built."
    text = render(Report("page", "test", Verdict("", "plain"), (section,)))
    assert "there is no builder" in text
    assert "trtexec --onnx=model.onnx" in text
    assert engine_section(None).blocks == ()
