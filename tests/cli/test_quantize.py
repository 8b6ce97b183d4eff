"""`sardonyx quantize`: schemes, plans that are edited, nodes that are chosen, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.measure import describe_machine
from sardonyx.pipeline import CompileRecord, available_schemes
from sardonyx.pipeline.schemes import DEFAULTS, default_schemes, model_kind
from tests import models_for_tests as build
from tests.cli import test_verbs
from tests.passes.precision.test_widen_float import halved
from tests.passes.quantization.methods.test_outliers import outlying
from tests.passes.quantization.test_dynamic import lstm, matmul

Run = Callable[[str], tuple[int, str, str]]
DIGITS = Path(__file__).parents[2] / "models" / "data" / "digits_cnn.onnx"
DATA = "--data verb_samples:feeds"
folder = test_verbs.folder


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda arguments: test_verbs.run(arguments, capsys, monkeypatch)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_a_convolutional_model_is_quantized_statically(folder: Path, run: Run) -> None:
    code, out, err = run(f"quantize model.onnx {DATA} -o out")
    assert code == 0
    assert "integers   3 products, 3 weights" in out
    assert "not judged" in err
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(folder / "out" / "model.onnx")
    record = CompileRecord.read(folder / "out" / "record.json")
    assert (record.chosen, record.pipeline.split(", ")[-1]) == ("quantized", "quantize-static")
    assert any(d.stage == "scheme" and d.choice == "static" for d in record.decisions)
    assert {entry.path for entry in record.outputs} == {"model.onnx", "plan.json"}
    plan = json.loads((folder / "out" / "plan.json").read_text())
    assert plan["model"] != record.source.digest, "the plan is made of the optimized model"


def test_without_samples_it_is_quantized_dynamically(folder: Path, run: Run) -> None:
    code, out, _ = run("quantize model.onnx -o out")
    assert code == 0
    assert "integers   1 product, 1 weight" in out
    assert "conv2_fuse-pad: convolutions are quantized with ranges from samples" in out
    assert {"DynamicQuantizeLinear", "Conv"} <= operators(folder / "out" / "model.onnx")


def test_json_is_the_record(folder: Path, run: Run) -> None:
    code, out, err = run("quantize model.onnx -o out --json")
    assert (code, err) == (0, "")
    assert json.loads(out)["chosen"] == "quantized"


def test_a_plan_is_written_edited_and_applied(folder: Path, run: Run) -> None:
    assert run(f"quantize model.onnx {DATA} --plan-out plan.json")[0] == 0
    assert not (folder / "out").exists()
    plan = json.loads((folder / "plan.json").read_text())
    plan["points"] = [p for p in plan["points"] if p["value"] not in ("w3", "b3", "f1")]
    (folder / "plan.json").write_text(json.dumps(plan))
    code, out, _ = run("quantize model.onnx --plan plan.json -o out")
    assert code == 0
    assert "integers   2 products, 2 weights" in out
    gemm = next(n for n in onnx.load(folder / "out" / "model.onnx").graph.node if n.op_type == "Gemm")
    assert gemm.input[1] == "w3"


def test_an_unedited_plan_makes_the_same_bytes(folder: Path, run: Run) -> None:
    run(f"quantize model.onnx {DATA} -o out --plan-out plan.json")
    first = (folder / "out" / "model.onnx").read_bytes()
    assert (folder / "out" / "plan.json").read_bytes() == (folder / "plan.json").read_bytes()
    run("quantize model.onnx --plan plan.json -o out")
    assert (folder / "out" / "model.onnx").read_bytes() == first


def test_the_plan_of_a_compile_can_be_applied(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    test_verbs.decree(monkeypatch, quantized=2.0)
    run(test_verbs.COMPILE)
    compiled = (folder / "out" / "model.onnx").read_bytes()
    assert run("quantize model.onnx --plan out/plan.json -o again")[0] == 0
    assert (folder / "again" / "model.onnx").read_bytes() == compiled


@pytest.mark.parametrize(
    ("options", "products"),
    [("--exclude gemm", 2), ("--include gemm", 1), ("--exclude op:Conv", 1), ("--exclude region:r2..f1", 3)],
)
def test_nodes_are_excluded_and_included(options: str, products: int, run: Run) -> None:
    code, out, _ = run(f"quantize model.onnx {DATA} --plan-out plan.json {options}")
    assert code == 0
    assert f"integers   {products} product" in out


def test_compile_takes_them_too(folder: Path, run: Run) -> None:
    code, out, _ = run(f"{test_verbs.COMPILE} --scheme static-s8s8 --exclude gemm --exclude op:Add --json")
    assert code == 0
    expected = "quantize-static{exclude=[gemm, op:Add], activations=int8}"
    assert json.loads(out)["pipeline"].endswith(expected)


def test_signed_activations(folder: Path, run: Run) -> None:
    run(f"quantize model.onnx {DATA} -o out --scheme static-s8s8")
    points = json.loads((folder / "out" / "plan.json").read_text())["points"]
    assert {p["dtype"] for p in points if p["kind"] == "activation"} == {"INT8"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("quantize model.onnx", "Pass -o OUT for the model, --plan-out for the plan."),
        ("quantize model.onnx -o out --scheme fast", "There is no scheme 'fast'."),
        ("quantize model.onnx -o out --scheme static", "The scheme 'static' needs samples."),
        ("quantize model.onnx -o out --scheme weight-int4", "The scheme 'weight-int4' needs samples."),
        (f"quantize model.onnx -o out {DATA} --exclude neck", "The pattern 'neck' matches no node"),
        ("quantize model.onnx -o out --plan no.json", "The plan no.json does not exist."),
        ("quantize model.onnx -o out --plan quick.yaml", "The plan quick.yaml cannot be read"),
        ("quantize model.onnx -o out --plan no.json --exclude gemm", "do not go with it"),
        ("quantize model.onnx --plan-out no/plan.json", "lies in no, which does not exist"),
        ("quantize model.onnx --plan-out .", "is a folder"),
        ("compile model.onnx -o out --scheme fast", "There is no scheme 'fast'."),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(arguments: str, message: str, folder: Path, run: Run) -> None:
    code, out, err = run(arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not (folder / "out").exists()


def test_a_selection_that_no_pass_takes(folder: Path, run: Run) -> None:
    (folder / "plain.yaml").write_text("quantize: convert-float\n")
    code, _, err = run("compile model.onnx -o out --recipe plain.yaml --include gemm")
    assert code == 2
    assert "--include was given, but no pass of the pipeline takes it" in err


def test_a_plan_of_another_model(folder: Path, run: Run) -> None:
    run("quantize model.onnx --plan-out plan.json")
    (folder / "other.onnx").write_bytes(build.cnn(batch_norm=False).SerializeToString())
    code, _, err = run("quantize other.onnx --plan plan.json -o out")
    assert code == 2
    assert "made from another model" in err


def test_nothing_to_quantize(folder: Path, run: Run) -> None:
    code, _, err = run("quantize model.onnx -o out --exclude op:Gemm")
    assert code == 3
    assert "Nothing in the model can be quantized this way. For instance" in err
    assert not (folder / "out").exists()


def test_schemes_are_listed(run: Run) -> None:
    code, out, _ = run("quantize --list-schemes")
    assert code == 0
    for name, scheme in available_schemes().items():
        assert f"{name}: {scheme.summary}" in out
    assert "for onnxruntime on this machine" in out
    assert "static-dynamic or static for recurrent models" in out


def test_targets_name_what_is_quantized_dynamically(run: Run) -> None:
    assert "dynamic: MatMul, Gemm, LSTM" in run("targets")[1]


@pytest.mark.parametrize(
    ("source", "kind", "without_samples"),
    [
        (build.cnn(), "convolutional", "dynamic"),
        (lstm()[0], "recurrent", "dynamic"),
        (matmul(build.weights(8, 4)), "transformer", "dynamic"),
    ],
)
def test_the_scheme_that_suits_a_model(source: onnx.ModelProto, kind: str, without_samples: str) -> None:
    model = ir.load(source).model
    assert model_kind(model) == kind
    table = capabilities(describe_machine())
    wanted = tuple(place[0] for place in DEFAULTS[model_kind(model)])
    assert tuple(scheme.name for scheme in default_schemes(model, table, samples=True)) == wanted
    assert [scheme.name for scheme in default_schemes(model, table, samples=False)] == [without_samples]


def test_a_plan_of_moved_scales_is_applied_again(folder: Path, run: Run) -> None:
    samples = "sardonyx.models.digits:cnn_samples"
    assert run(f"quantize {DIGITS} --data {samples} --plan-out plan.json -o one")[0] == 0
    assert run(f"quantize {DIGITS} --plan plan.json -o other")[0] == 0
    assert (folder / "one" / "model.onnx").read_bytes() == (folder / "other" / "model.onnx").read_bytes()


@pytest.fixture
def half(folder: Path) -> None:
    """An FP16 model and samples for it."""
    (folder / "half.onnx").write_bytes(halved(build.cnn()).SerializeToString())
    (folder / "half_samples.py").write_text(
        "from tests.passes.precision.test_widen_float import half_images\ndef feeds(): return half_images(12)\n"
    )


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("scheme", ["auto", "static", "static-s8s8"])
def test_fp16_models_become_fp32_before_any_scheme(folder: Path, run: Run, scheme: str) -> None:
    assert run(f"quantize half.onnx --data half_samples:feeds --scheme {scheme} -o out")[0] == 0
    plan = json.loads((folder / "out" / "plan.json").read_text())
    assert plan["prepared"].startswith("widen-float")
    assert len(plan["compute_nodes"]) == 3
    record = CompileRecord.read(folder / "out" / "record.json")
    (decision,) = [each for each in record.decisions if each.stage == "scheme"]
    assert decision.reason.endswith("FP32 instead of FP16, which the target computes in FP32 anyway")
    assert run("quantize half.onnx --plan out/plan.json -o again")[0] == 0
    assert (folder / "again" / "model.onnx").read_bytes() == (folder / "out" / "model.onnx").read_bytes()


@pytest.mark.usefixtures("half")
def test_compile_widens_before_a_scheme_that_is_named(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    test_verbs.decree(monkeypatch, quantized=2.0)
    command = "compile half.onnx --data half_samples:feeds --max-drop 20% -o out --scheme static-s8s8"
    assert run(command)[0] == 0
    record = CompileRecord.read(folder / "out" / "record.json")
    assert (record.recipe.quantize, record.chosen) == ("static-s8s8", "quantized")
    assert "widen-float" in record.pipeline
    assert run("quantize half.onnx --plan out/plan.json -o again")[0] == 0
    assert (folder / "again" / "model.onnx").read_bytes() == (folder / "out" / "model.onnx").read_bytes()


@pytest.fixture
def outliers(folder: Path) -> Path:
    """A model with outlier channels, samples for it, and the plan of a compile that split them off."""
    (folder / "wide.onnx").write_bytes(outlying(users=2).SerializeToString())
    (folder / "wide_samples.py").write_text(
        "from tests.passes.quantization.methods import test_outliers\ndef feeds(): return test_outliers.feeds(3, 5)\n"
    )
    (folder / "split.yaml").write_text("quantize: split-outliers, quantize-static\nmax_drop: 0.5\n")
    return folder / "out" / "plan.json"


def test_a_plan_of_outliers_is_applied_again(
    folder: Path, run: Run, outliers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_verbs.decree(monkeypatch, quantized=2.0)
    assert run("compile wide.onnx --data wide_samples:feeds --recipe split.yaml -o out")[0] == 0
    plan = json.loads(outliers.read_text())
    assert list(plan["outliers"].values()) == [[7, 42]]
    assert len(plan["compute_nodes"]) == 4
    assert run("quantize wide.onnx --plan out/plan.json -o again")[0] == 0
    assert (folder / "again" / "model.onnx").read_bytes() == (folder / "out" / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"b": [1]}, "unusable at 'b': the model has no value of that name whose products can be split"),
        ({"a": []}, "unusable at 'a': the channels are none, or not ascending"),
        ({"a": [42, 7]}, "unusable at 'a': the channels are none, or not ascending"),
        ({"a": [100]}, "unusable at 'a': [100] are not some of 100 channels"),
        ({"a": [-1, 7]}, "unusable at 'a': [-1, 7] are not some of 100 channels"),
        ({"a": ["7"]}, "outliers have a=['7'], which is not a list of whole numbers"),
        ([7], "outliers are not an object of names"),
    ],
)
def test_outliers_that_cannot_be_split_off_are_refused(
    folder: Path, run: Run, outliers: Path, split: object, message: str
) -> None:
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"version": 1, "target": "onnxruntime", "points": [], "outliers": split}))
    code, _, err = run("quantize wide.onnx --plan plan.json -o out")
    assert code == 2
    assert message in err
    assert not outliers.exists()


def test_what_follows_a_plan_is_done_again(folder: Path, run: Run) -> None:
    quantize = f"quantize model.onnx --target tensorrt {DATA}"
    assert run(f"{quantize} --scheme static-fp16 -o out")[0] == 0
    assert json.loads((folder / "out" / "plan.json").read_text())["finished"] == "convert-float"
    assert run(f"{quantize} --plan out/plan.json -o again")[0] == 0
    for name in ("model.trt.onnx", "plan.json"):
        assert (folder / "again" / name).read_bytes() == (folder / "out" / name).read_bytes()


@pytest.mark.parametrize("entry", ["prepared", "finished"])
def test_a_plan_that_names_no_passes_is_refused(folder: Path, run: Run, entry: str) -> None:
    (folder / "plan.json").write_text(json.dumps({"version": 1, "target": "", "points": [], entry: "no-such-pass"}))
    code, _, err = run("quantize model.onnx --plan plan.json -o out")
    assert code == 2
    assert "no-such-pass" in err
