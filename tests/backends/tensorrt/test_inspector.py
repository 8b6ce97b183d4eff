"""What the inspector of a loaded engine tells: its forms, and the way from the engine to the report."""

import dataclasses
import json
from pathlib import Path

import pytest

from sardonyx import ir
from sardonyx.backends import EngineReport, EngineRequest
from sardonyx.backends.tensorrt import TensorRTBackend
from sardonyx.backends.tensorrt.artefacts import FILES
from sardonyx.backends.tensorrt.inspector import NO_DEVICE, inspect_engine, parse_information, shown_layers
from sardonyx.passes.base import no_progress
from sardonyx.report import Report, render
from sardonyx.report.content import Verdict
from sardonyx.report.engine import engine_section
from tests.backends.tensorrt.graphs import convolutions
from tests.backends.tensorrt.information import ELEVEN, NAMES, TEN
from tests.backends.tensorrt.test_child import FAKE


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A runtime that loads engines; what their inspector tells stands in the file."""
    told = tmp_path / "told"
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("FAKE_INSPECTOR", str(told))
    return told


def reported(folder: Path) -> EngineReport:
    path = folder / "model.trt.onnx"
    proto = convolutions()
    for node in proto.graph.node:  # what the fake builder refuses
        node.op_type = node.op_type.replace("DequantizeLinear", "Foreign")
    path.write_bytes(proto.SerializeToString())
    request = EngineRequest(planned=(), progress=no_progress)
    return TensorRTBackend(timeout=30).build_engine(ir.load(path).model, path, request)


def test_the_form_of_tensorrt_10_is_read() -> None:
    conv, gemm, shuffle = parse_information(TEN)
    assert (conv.name, conv.kind, conv.nodes) == ("conv1 + relu1", "CaskConvolution", ("conv1", "relu1"))
    assert (conv.precision, conv.outputs[0].dtype) == ("Int8", "Half")
    assert conv.tactic == "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32"
    assert ([each.name for each in gemm.inputs], len(gemm.constants), gemm.precision) == (["y_q"], 2, "Int8")
    assert (shuffle.precision, shuffle.inputs[0].dims, shuffle.tactic) == ("", (-1, 10), "0x0000000000000000")


def test_the_form_of_tensorrt_11_is_read() -> None:
    (conv,) = parse_information(ELEVEN)
    assert (conv.kind, conv.precision, conv.tactic) == ("correlation", "Int8", "sm86_xmma_fprop_i8")
    assert [str(each) for each in conv.inputs] == ["Int8 1x8x16x16, (NHWC) Channel major format"]
    assert [each.name for each in conv.constants] == ["w"]
    assert conv.nodes[0] == "conv0"


def test_layers_may_be_names_alone() -> None:
    assert [(each.name, each.kind, each.nodes) for each in parse_information(NAMES)] == [
        ("conv1 + relu1", "", ()),
        ("fc", "", ()),
    ]


@pytest.mark.parametrize("text", ["", "Layers:", "[]", "{}", '{"Layers": "conv"}', '{"Layers": ['])
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|holds no list of layers"):
        parse_information(text)


def test_values_of_other_types_are_passed_over() -> None:
    layer = {"Name": 7, "LayerType": None, "Inputs": "none", "Outputs": [3, {"Dimensions": 4}], "Metadata": []}
    (read,) = parse_information(json.dumps({"Layers": [layer, 5, None]}))
    assert (read.name, read.kind, read.inputs, read.nodes) == ("", "", (), ())
    assert [str(each) for each in read.outputs] == [""]


def test_without_a_device_the_layers_are_those_that_the_builder_logged(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"no engine")
    inspection = inspect_engine(engine, "no_such_builder", 30)
    assert "No module named 'no_such_builder'" in inspection.problem
    logged = parse_information(ELEVEN)
    shown, source = shown_layers(logged, dataclasses.replace(inspection, problem=NO_DEVICE))
    assert [each.nodes for each in shown] == [logged[0].nodes]
    assert source == (
        "These are the layers that the builder logged. The engine's inspector told none: there is no NVIDIA device "
        "here that the engine was built for."
    )


def test_what_the_inspector_tells_lies_beside_the_engine_and_stands_on_the_page(tmp_path: Path, device: Path) -> None:
    device.write_text(ELEVEN)
    report = reported(tmp_path)
    written = tmp_path / f"{report.file}.layers.json"
    assert written.read_text() == ELEVEN
    assert any(written.match(pattern) for pattern in FILES)
    assert [each.tactic for each in report.layers] == ["sm86_xmma_fprop_i8"]
    assert "the inspector of the engine tells" in report.layers_source
    assert "layers" not in json.loads((tmp_path / f"{report.file}.json").read_text())
    text = render(Report("page", "test", Verdict("", "plain"), (engine_section(report),)))
    for wanted in ("Layers of the engine in order of execution", "sm86_xmma_fprop_i8", "conv0", "Int8 1x8x16x16"):
        assert wanted in text
    assert "<img" not in text


def test_dynamic_inputs_are_set_to_their_best_shapes(tmp_path: Path, device: Path) -> None:
    device.write_text(TEN)
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"dynamic")
    assert inspect_engine(engine, "tensorrt_rtx", 30).text.endswith('"shapes": {"x": [4, 3]}}')


@pytest.mark.parametrize(
    ("told", "engine", "problem"),
    [
        (None, b"for others", "the engine is for another device"),
        ("no JSON", b"fine", "what its inspector tells cannot be read: Expecting value: line 1 column 1 (char 0)"),
        (TEN, b"die", "The builder died with SIGSEGV"),
    ],
)
def test_an_engine_that_cannot_be_asked_is_an_engine_all_the_same(
    tmp_path: Path, device: Path, told: str | None, engine: bytes, problem: str
) -> None:
    if told is not None:
        device.write_text(told)
    path = tmp_path / "model.engine"
    path.write_bytes(engine)
    inspection = inspect_engine(path, "tensorrt_rtx", 30)
    assert (inspection.problem, inspection.layers) == (problem, ())
