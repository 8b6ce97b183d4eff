"""The compile for TensorRT: legalized candidates, judged on the CPU, chosen without timing, built and proven."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import helper
from onnxruntime import quantization

import sardonyx
from sardonyx.backends.tensorrt import backend as tensorrt
from sardonyx.backends.tensorrt.artefacts import COMMANDS_NAME, MODEL_NAME
from sardonyx.backends.tensorrt.settings import AHEAD_OF_TIME
from sardonyx.driver import CompileResult
from sardonyx.driver.choice import REWRITTEN
from sardonyx.errors import BackendError, SaveError, UsageError
from sardonyx.models import digits
from sardonyx.pipeline import CompileRecord, Recipe
from tests import models_for_tests as build
from tests.backends.tensorrt.graphs import convolutions
from tests.backends.tensorrt.information import ELEVEN
from tests.backends.tensorrt.test_foreign import Reader

pytest.importorskip(AHEAD_OF_TIME, reason="the ahead-of-time builder has no wheels for this system")

FAKE = Path(__file__).parents[1] / "backends" / "tensorrt" / "fake"
DATA = Path(digits.__file__).parent / "data"


def compiled(source: object, output: Path | None = None, *, data: object = None, **recipe: object) -> CompileResult:
    given = Recipe.from_data({"target": "tensorrt", "max_drop": 0.2, **recipe})
    return sardonyx.compile(source, data=data, recipe=given, output=output)  # type: ignore[arg-type]


def cnn(output: Path | None = None, **recipe: object) -> CompileResult:
    return compiled(build.cnn(), output, data=build.images(12), **recipe)


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "record.json"}


def test_a_network_becomes_a_proven_int8_engine(tmp_path: Path) -> None:
    result = cnn(tmp_path / "out")
    record = CompileRecord.read(tmp_path / "out" / "record.json")
    engine = record.engine
    assert engine is not None
    assert engine.proof is not None
    assert (record.chosen.startswith("quantized"), record.met_budget, engine.stage) == (True, True, "done")
    assert engine.proof.share == 1.0
    assert engine.proof.planned == 3
    assert result.path == tmp_path / "out" / engine.file
    assert {entry.path: entry.sha256 for entry in record.outputs} == hashes(tmp_path / "out")
    assert {MODEL_NAME, engine.file, f"{engine.file}.json", "plan.json", "report.html"} == set(hashes(tmp_path / "out"))
    assert all(candidate.latency is None for candidate in record.candidates)
    (choice,) = [d for d in record.decisions if d.stage == "choose"]
    assert "latency was not measured, because engines run on GPUs" in choice.reason


def test_two_compiles_give_the_same_files_also_over_the_first(tmp_path: Path) -> None:
    cnn(tmp_path / "out")
    first = hashes(tmp_path / "out")
    cnn(tmp_path / "out")
    second = hashes(tmp_path / "out")
    assert first.pop("report.html") != second.pop("report.html"), "the page holds the time, like the record"
    assert second == first


def test_a_folder_with_foreign_files_is_not_replaced(tmp_path: Path) -> None:
    cnn(tmp_path / "out", quantize="")
    (tmp_path / "out" / "notes.engine").write_text("mine")
    with pytest.raises(SaveError, match=r"notes\.engine, which is not from an earlier compile"):
        cnn(tmp_path / "out", quantize="")


def test_shapes_are_those_of_the_samples_unless_given() -> None:
    engine = cnn(quantize="").record.engine
    assert engine is not None
    assert engine.shapes == ("image=1x3x16x16:1x3x16x16:1x3x16x16",)
    assert engine.warnings[-1].startswith("The engine takes image as 1x3x16x16 only, which the model leaves open")
    given = "image=1x3x16x16:2x3x16x16:8x3x16x16"
    engine = cnn(quantize="", target_options={"shapes": [given]}).record.engine
    assert engine is not None
    assert engine.shapes == (given,)
    assert not any("only, which the model leaves open" in warning for warning in engine.warnings)


def test_dynamic_shapes_without_samples_are_asked_for_at_once() -> None:
    with pytest.raises(UsageError, match=r"The shape of the input image .* is dynamic"):
        compiled(build.cnn())


def test_a_requirement_that_is_not_met_is_no_success(tmp_path: Path) -> None:
    result = compiled(convolutions(), tmp_path / "out", target_options={"require_int8": 1.0, "sm": ["7.5"]})
    assert not result.record.met_budget
    assert result.record.engine is not None
    assert result.record.engine.proof is not None
    assert [miss.node for miss in result.record.engine.proof.misses] == ["conv0", "conv1"]
    assert (tmp_path / "out" / result.record.engine.file).is_file()
    assert any("100% are required" in warning for warning in result.record.warnings)


def test_without_a_builder_the_model_and_the_commands_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = cnn(tmp_path / "out")
    assert result.record.met_budget
    assert result.path == tmp_path / "out" / MODEL_NAME
    commands = (tmp_path / "out" / COMMANDS_NAME).read_text()
    assert "trtexec --onnx=model.trt.onnx" in commands
    assert "--minShapes=image:1x3x16x16" in commands
    assert any(tensorrt.NO_BUILDER in warning for warning in result.record.warnings)
    required = cnn(target_options={"require_int8": 0.9})
    assert not required.record.met_budget


def test_what_the_builder_refuses_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    result = cnn(tmp_path / "out")
    refused = result.record.candidate("quantized")
    assert refused is not None
    assert refused.rejected == "the builder does not take it: no tactics to implement the operation"
    assert result.record.chosen == "optimized"
    assert tensorrt.NO_TABLE in result.record.warnings  # it logs none, and nothing is claimed of it
    assert result.record.engine is not None
    assert result.record.engine.proof is None
    assert (tmp_path / "out" / "model.tensorrt_rtx-0.fake.engine").is_file()


def test_a_compile_shows_what_the_inspector_of_its_engine_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told").write_text(ELEVEN)
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("FAKE_INSPECTOR", str(tmp_path / "told"))
    record = cnn(tmp_path / "out", quantize="").record
    assert record.engine is not None
    told = f"{record.engine.file}.layers.json"
    assert (tmp_path / "out" / told).read_text() == ELEVEN
    assert told in {entry.path for entry in record.outputs}
    assert "sm86_xmma_fprop_i8" in (tmp_path / "out" / "report.html").read_text()
    assert record.engine.proof is not None  # the fake builder logs no layers: these are the inspector's
    assert record.engine.proof.layers == {"correlation Int8": 1}
    assert tensorrt.NO_TABLE not in record.warnings
    again = cnn(tmp_path / "out", quantize="").record
    assert again.engine is not None, "what an inspector told is ours to replace"


def test_what_the_target_cannot_express_is_refused_with_the_node() -> None:
    source = build.proto(
        [
            helper.make_node("NonZero", ["x"], ["n"], name="find"),
            helper.make_node("Cast", ["n"], ["y"], name="cast", to=1),
        ],
        {"x": [2, 3]},
        {"y": [2, "n"]},
    )
    with pytest.raises(BackendError, match=r"The target tensorrt does not take the model.*NonZero 'find'"):
        compiled(source)


def test_a_model_that_loses_too_much_gets_regions_back() -> None:
    result = cnn(max_drop=0.0, quantize="quantize-static{calibrator=minmax}")
    assert any(decision.stage == "give-back" for decision in result.record.decisions)
    assert result.record.candidate("quantized") is not None
    assert result.record.engine is not None
    assert result.record.engine.built
    assert result.record.chosen in ("mixed", "optimized")


def test_what_stays_in_float_may_be_fp16() -> None:
    data = DATA / "digits_transformer.onnx"
    result = compiled(
        data, data=digits.transformer_samples, max_drop=0.01, fallback="fp16", target_options={"sm": [8.6]}
    )
    engine = result.record.engine
    assert engine is not None
    assert engine.proof is not None
    assert set(engine.proof.nodes) == {"Int8", "Half"}
    assert engine.proof.share == 1.0


def test_fp16_around_integers_is_refused_where_it_gains_nothing() -> None:
    with pytest.raises(UsageError, match="The target onnxruntime gains nothing from FP16 around integers"):
        cnn(target="onnxruntime", fallback="fp16")


@pytest.mark.parametrize(
    ("name", "samples"), [("digits_cnn", digits.cnn_samples), ("digits_transformer", digits.transformer_samples)]
)
def test_shipped_models_become_int8_engines(name: str, samples: object) -> None:
    result = compiled(DATA / f"{name}.onnx", data=samples, max_drop=0.01)
    engine, chosen = result.record.engine, result.record.candidate(result.record.chosen)
    assert engine is not None
    assert engine.proof is not None
    assert chosen is not None
    assert chosen.accuracy is not None
    assert (engine.proof.planned > 5, engine.proof.share, engine.proof.misses) == (True, 1.0, ())
    assert chosen.accuracy.drop <= 0.01
    assert engine.nbytes > engine.weights_bytes > 0


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Models that ONNX Runtime quantized: symmetric ones TensorRT takes, by default they have zero points."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "float.onnx").write_bytes(build.cnn().SerializeToString())

    def quantized(symmetric: bool) -> Path:
        path = folder / f"symmetric-{symmetric}.onnx"
        options = {"ActivationSymmetric": symmetric}
        quantization.quantize_static(folder / "float.onnx", path, Reader(), extra_options=options)
        return path

    return quantized


def test_a_quantized_model_that_is_taken_as_it_is_stays_exact(foreign: Callable[[bool], Path]) -> None:
    record = compiled(foreign(True), data=build.images(12), max_drop=0.0).record
    assert (record.chosen, record.met_budget) == ("optimized", True)
    assert REWRITTEN.format("tensorrt") not in record.warnings


def test_a_quantized_model_that_is_rewritten_is_judged_by_the_budget(foreign: Callable[[bool], Path]) -> None:
    record = compiled(foreign(False), data=build.images(12), max_drop=0.2).record
    assert (record.chosen, record.met_budget) == ("optimized", True)
    assert REWRITTEN.format("tensorrt") in record.warnings
    optimized = record.candidate("optimized")
    assert optimized is not None
    assert optimized.legalized
    assert optimized.accuracy is not None
    assert 0 < optimized.accuracy.drop < 0.2


def test_one_that_loses_too_much_when_it_is_rewritten_is_no_success(foreign: Callable[[bool], Path]) -> None:
    record = compiled(foreign(False), data=build.images(12), max_drop=0.0).record
    assert (record.chosen, record.met_budget) == ("original", False)
    (choice,) = [d for d in record.decisions if d.stage == "choose"]
    assert "more than the budget of 0.00%" in choice.reason
    assert "exact passes" not in choice.reason
