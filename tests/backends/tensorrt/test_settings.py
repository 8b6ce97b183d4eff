"""Settings of a build: shapes, targets, amounts of memory, and the words for what is wrong with them."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sardonyx import ir
from sardonyx.backends.tensorrt import TensorRTBackend
from sardonyx.backends.tensorrt.commands import build_commands
from sardonyx.backends.tensorrt.profiles import make_profile
from sardonyx.backends.tensorrt.settings import (
    AHEAD_OF_TIME,
    BuildSettings,
    ShapeRange,
    parse_bytes,
    parse_targets,
)
from sardonyx.errors import SardonyxError, SpecError, UsageError
from sardonyx.measure import load_samples
from tests.backends.tensorrt.graphs import convolutions

RANGE = "x=1x8x16x16:4x8x16x16:8x8x16x16"


def model(batch: int | str = "N") -> ir.Model:
    return ir.load(convolutions(batch)).model


def samples(*batches: int) -> object:
    return load_samples([{"x": np.zeros((batch, 8, 16, 16), np.float32)} for batch in batches])


def test_ranges_of_shapes_print_as_they_are_read() -> None:
    assert str(ShapeRange.parse(RANGE)) == RANGE
    assert ShapeRange.parse("a:0=2x3") == ShapeRange("a:0", (2, 3), (2, 3), (2, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "'x' is no range of shapes"),
        ("x=1x2:2x2", "no range of shapes"),
        ("x=1xa", "no range of shapes"),
        ("=1x2", "no range of shapes"),
        ("x=1x2:2x2:3", "The shapes of x differ in rank"),
        ("x=1x8:4x8:2x8", "Dimension 0 of x is 1:4:2, which is not in order"),
    ],
)
def test_ranges_that_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ShapeRange.parse(text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("batch", "given", "message"),
    [
        ("N", "y=1x8", "The model has no input 'y'"),
        ("N", "x=1x8x16", r"x=1x8x16:1x8x16:1x8x16 has 3 dimensions, and the input x \(Nx8x16x16\) has 4"),
        ("N", "x=1x8x16x16:1x8x32x16:1x8x32x16", r"Dimension 2 of the input x \(Nx8x16x16\) is 16; .* has 16:32 there"),
        (2, "x=1x8x16x16", r"Dimension 0 of the input x \(2x8x16x16\) is 2"),
        ("N", None, r"The shape of the input x \(Nx8x16x16\) is dynamic"),
    ],
)
def test_ranges_are_checked_against_the_model(batch: int | str, given: str | None, message: str) -> None:
    ranges = [] if given is None else [ShapeRange.parse(given)]
    with pytest.raises(UsageError, match=message) as caught:
        make_profile(model(batch), ranges, None)
    assert caught.value.remedy


def test_the_samples_give_the_range_that_is_not_given() -> None:
    found = make_profile(model(), [], samples(3, 1, 2))  # type: ignore[arg-type]
    assert [str(each) for each in found] == ["x=1x8x16x16:2x8x16x16:3x8x16x16"]
    given = ShapeRange.parse(RANGE)
    assert make_profile(model(), [given], samples(9)) == (given,)  # type: ignore[arg-type]


def test_an_input_of_fixed_shape_needs_no_range() -> None:
    assert make_profile(model(2), [], None) == ()
    assert make_profile(model(2), [ShapeRange.parse("x=2x8x16x16")], None) == ()


def test_targets_in_any_spelling() -> None:
    assert parse_targets(["sm89", "8.6", "120", "SM_86"]) == ("8.6", "8.9", "12.0")
    settings = BuildSettings(compute_capabilities=("86",))
    assert (settings.modules, settings.compute_capabilities) == ((AHEAD_OF_TIME,), ("8.6",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse_targets(["7.5", "8.6"]), "7.5 cannot be combined"),
        (lambda: parse_targets(["9.0"]), "no target for compute capability '9.0'"),
        (lambda: BuildSettings(profile=(ShapeRange.parse(RANGE),) * 2), "Shapes of x are given twice"),
        (lambda: parse_bytes("2 bananas"), "no amount of memory"),
        (lambda: parse_bytes("0"), "no amount of memory"),
        (lambda: TensorRTBackend(require_int8=95), "require_int8 is 95"),
        (lambda: TensorRTBackend(timeout=0), "timeout is 0"),
        (lambda: TensorRTBackend(workspace="x"), "no amount of memory"),
    ],
)
def test_settings_that_cannot_be_meant(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "nbytes"), [("512", 512), ("512M", 512 << 20), ("2GiB", 2 << 30), ("3 kb", 3 << 10), ("7B", 7)]
)
def test_amounts_of_memory(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


def test_an_option_that_the_target_does_not_have() -> None:
    with pytest.raises(SpecError, match="The target tensorrt has no option 'batch'") as caught:
        TensorRTBackend().configured({"batch": 4})
    assert "shapes" in caught.value.remedy
    assert isinstance(caught.value, SardonyxError)


def words(settings: BuildSettings) -> dict[str, Sequence[str]]:
    return {tool: command.split() for tool, command in build_commands("model.trt.onnx", settings).items()}


def test_commands_build_the_same_elsewhere() -> None:
    settings = BuildSettings(profile=(ShapeRange.parse(RANGE),), workspace_bytes=1 << 30)
    commands = words(settings)
    eleven, ten = commands["trtexec, TensorRT 11"], commands["trtexec, TensorRT 10"]
    assert set(ten) - set(eleven) == {"--stronglyTyped"}
    assert {"--minShapes=x:1x8x16x16", "--optShapes=x:4x8x16x16", "--maxShapes=x:8x8x16x16"} <= set(eleven)
    assert "--memPoolSize=workspace:1024M" in eleven
    assert not any("int8" in word.lower() for word in (*eleven, *ten))
    polygraphy = commands["polygraphy, TensorRT for RTX"]
    assert polygraphy[:4] == ["POLYGRAPHY_USE_TENSORRT_RTX=1", "polygraphy", "convert", "model.trt.onnx"]
    assert "x:[1,8,16,16]" in " ".join(polygraphy)


def test_targets_are_for_the_builder_that_knows_them() -> None:
    commands = words(BuildSettings(compute_capabilities=("8.6", "8.9")))
    assert list(commands) == ["polygraphy, TensorRT for RTX"]
    assert commands["polygraphy, TensorRT for RTX"][-3:] == ["--compute-capabilities", "8.6", "8.9"]
