"""Presets of quantization: pipelines with names that people know, and which of them suits a model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.capabilities import Capabilities, Role
from sardonyx.errors import SpecError, UsageError
from sardonyx.passes.base import Pass
from sardonyx.passes.precision.widen import computes_in_half
from sardonyx.passes.quantization.methods.presets import ModelKind, model_kind
from sardonyx.pipeline.registry import available_passes

AUTO = "auto"


@dataclass(frozen=True)
class QuantizationScheme:
    """A preset.

    Attributes:
        name: What `--scheme` takes.
        pipeline: The pipeline text it stands for.
        needs: The passes it names; a scheme whose passes are not installed is not offered.
        samples: Whether it needs calibration samples.
        summary: What it does and where it is at its best.
        bits: Bits of weights in blocks, where it makes them.
    """

    name: str
    pipeline: str
    needs: tuple[str, ...]
    samples: bool
    summary: str
    bits: int | None = None

    def suits(self, capabilities: Capabilities) -> bool:
        """Whether a target has what each of the passes quantizes to."""
        return all(_SUITS[need](self, capabilities) for need in self.needs if need in _SUITS)


_STATIC, _DYNAMIC, _WEIGHTS = "quantize-static", "quantize-dynamic", "quantize-weights"
_HALF = "convert-float"
_WIDE = "widen-float, fuse, cleanup"
"""Before integers in an FP16 model, where the target runs FP16 in FP32 anyway and finds integer kernels only there."""
_MOVED = "equalize, smooth-quant"
"""Scales move between layers before ranges are chosen; the float function stays the same."""

_SCHEMES = (
    QuantizationScheme(
        "static",
        f"{_MOVED}, {_STATIC}",
        (_STATIC,),
        samples=True,
        summary="activations and weights as integers, in the types that the target prefers on this machine",
    ),
    QuantizationScheme(
        "static-gptq",
        f'{_MOVED}, {_STATIC}{{methods=["auto","gptq"]}}',
        (_STATIC,),
        samples=True,
        summary="the same with weights rounded to make up for each other's errors, which the samples have to bear out",
    ),
    QuantizationScheme(
        "static-u8s8",
        f"{_MOVED}, {_STATIC}{{activations=uint8}}",
        (_STATIC,),
        samples=True,
        summary="the same with UINT8 activations: what x86 processors multiply fastest",
    ),
    QuantizationScheme(
        "static-s8s8",
        f"{_MOVED}, {_STATIC}{{activations=int8}}",
        (_STATIC,),
        samples=True,
        summary="the same with INT8 activations: what ARM processors and accelerators multiply",
    ),
    QuantizationScheme(
        "dynamic",
        _DYNAMIC,
        (_DYNAMIC,),
        samples=False,
        summary="weights of MatMul, Gemm and LSTM as integers, activations quantized while running; no samples",
    ),
    QuantizationScheme(
        "static-dynamic",
        f"{_MOVED}, {_STATIC}, {_DYNAMIC}",
        (_STATIC, _DYNAMIC),
        samples=True,
        summary="static, then dynamic what static leaves in float: recurrent models",
    ),
    QuantizationScheme(
        "weight-int4",
        f"{_WEIGHTS}{{bits=4, offsets=true}}",
        (_WEIGHTS,),
        samples=True,
        summary="weights as INT4 in blocks with offsets where the target takes them: large language models",
        bits=4,
    ),
    QuantizationScheme(
        "weight-int8",
        f"{_WEIGHTS}{{bits=8, method=rtn}}",
        (_WEIGHTS,),
        samples=False,
        summary="weights as INT8 in blocks, activations in float: large language models; no samples",
        bits=8,
    ),
    QuantizationScheme(
        "weight-int8-smooth",
        f"smooth-quant, {_WEIGHTS}{{bits=8, method=rtn}}",
        ("smooth-quant", _WEIGHTS),
        samples=True,
        summary="the same, outlier channels moved into weights before: kernels round activations to 8 bits",
        bits=8,
    ),
    QuantizationScheme(
        "weight-int4-hqq",
        f"{_WEIGHTS}{{bits=4, method=hqq}}",
        (_WEIGHTS,),
        samples=False,
        summary="weights as INT4 in blocks without looking at samples, activations in float",
        bits=4,
    ),
    QuantizationScheme(
        "static-fp16",
        f"{_MOVED}, {_STATIC}, {_HALF}",
        (_STATIC, _HALF),
        samples=True,
        summary="static, and in FP16 what stays in float, where ranges on the samples allow it: GPUs",
    ),
)

_SUITS: Mapping[str, Callable[[QuantizationScheme, Capabilities], bool]] = {
    _STATIC: lambda scheme, table: any(row.role is Role.COMPUTE for row in table.operators.values()),
    _DYNAMIC: lambda scheme, table: bool(table.dynamic),
    _HALF: lambda scheme, table: any(row.around_integers for row in table.floats.values()),
    _WEIGHTS: lambda scheme, table: any(scheme.bits in row.bits for row in table.blocks.values()),
}
"""Whether a target has what a pass quantizes to."""

DEFAULTS: Mapping[ModelKind, tuple[tuple[str, ...], ...]] = {
    ModelKind.CONVOLUTIONAL: (("static",), ("static-gptq",)),
    ModelKind.TRANSFORMER: (("static",), ("dynamic",), ("weight-int8", "weight-int4")),
    ModelKind.RECURRENT: (("static-dynamic",), ("static",)),
}
"""Schemes by kind of model, where samples were given: a compile tries them all, `quantize` takes the first. Of several
in one place the first that the target suits is taken."""

WITHOUT_SAMPLES = ("dynamic", "weight-int8", "weight-int4-hqq")
"""Schemes without samples, of which the first that the target suits is taken."""


def available_schemes() -> Mapping[str, QuantizationScheme]:
    """Returns the schemes whose passes are installed, by name."""
    passes = available_passes()
    return {scheme.name: scheme for scheme in _SCHEMES if all(need in passes for need in scheme.needs)}


def scheme_named(name: str) -> QuantizationScheme:
    """Returns a scheme.

    Raises:
        SpecError: If there is none of that name.
    """
    schemes = available_schemes()
    if name not in schemes:
        raise SpecError(f"There is no scheme {name!r}.", remedy=f"Use one of: {', '.join(schemes)}.")
    return schemes[name]


def default_names(kind: ModelKind, capabilities: Capabilities, *, samples: bool = True) -> tuple[str, ...]:
    """Returns the names of the schemes that suit a kind of model on a target, the first choice first."""
    places = DEFAULTS[kind] if samples else (WITHOUT_SAMPLES,)
    suited = [[name for name in place if scheme_named(name).suits(capabilities)] for place in places]
    return tuple(names[0] for names in suited if names)


def default_schemes(model: ir.Model, capabilities: Capabilities, *, samples: bool) -> tuple[QuantizationScheme, ...]:
    """Returns the schemes that suit a model on a target, the first choice first; without samples, one that needs none.

    Raises:
        UsageError: If the target suits none.
    """
    names = default_names(model_kind(model), capabilities, samples=samples)
    if not names:
        raise UsageError(
            f"No scheme suits {capabilities.target} {'with' if samples else 'without'} samples.",
            remedy="Name one with --scheme." if samples else "Pass --data, or name a scheme with --scheme.",
        )
    return tuple(fitted_scheme(name, model, capabilities) for name in names)


def fitted_scheme(name: str, model: ir.Model, capabilities: Capabilities) -> QuantizationScheme:
    """Returns a scheme, behind FP32 instead of FP16 for a model and a target to which that makes no other difference.

    Raises:
        SpecError: If there is none of that name.
    """
    scheme = scheme_named(name)
    half = capabilities.floats.get(ir.DataType.FLOAT16)
    if half is None or not half.wraps_others or not computes_in_half(model):
        return scheme
    return dataclasses.replace(
        scheme,
        pipeline=f"{_WIDE}, {scheme.pipeline}",
        summary=f"{scheme.summary}; FP32 instead of FP16, which the target computes in FP32 anyway",
    )


def recipe_schemes(text: str, model: ir.Model, capabilities: Capabilities) -> tuple[QuantizationScheme, ...]:
    """Returns the schemes that a recipe's entry `quantize` names, the first choice first; none for a pipeline text.

    Raises:
        UsageError: If it says `auto`, and the target suits none.
    """
    if text == AUTO:
        return default_schemes(model, capabilities, samples=True)
    return (fitted_scheme(text, model, capabilities),) if text in available_schemes() else ()


def pipeline_text(text: str) -> str:
    """Returns the pipeline of a scheme's name, and any other text as it is."""
    schemes = available_schemes()
    return schemes[text].pipeline if text in schemes else text


def with_half_precision(pipeline: str, capabilities: Capabilities) -> str:
    """Returns a pipeline that ends with FP16 for what it leaves in FP32, where the target takes FP16 around integers.

    Raises:
        UsageError: If the target does not.
    """
    if not any(row.around_integers for row in capabilities.floats.values()):
        raise UsageError(
            f"The target {capabilities.target} gains nothing from FP16 around integers.",
            remedy="Leave out --fallback, or compile for a target that does, such as a GPU.",
        )
    return pipeline if _HALF in pipeline else ", ".join(filter(None, (pipeline, _HALF)))


def preferred_static(capabilities: Capabilities) -> str:
    """Returns the name of the scheme that `static` is on a machine, for people who read lists."""
    return "static-s8s8" if capabilities.activation.dtype is ir.DataType.INT8 else "static-u8s8"


def with_selection(passes: Sequence[Pass], exclude: Sequence[str], include: Sequence[str]) -> tuple[Pass, ...]:
    """Returns passes with more nodes excluded or included, those that have such options.

    Args:
        passes: Passes of a quantization pipeline.
        exclude: Patterns of nodes to keep in float.
        include: Patterns of the only nodes to quantize.

    Raises:
        UsageError: If patterns are given and no pass takes them.
    """
    given = {name: tuple(patterns) for name, patterns in (("exclude", exclude), ("include", include)) if patterns}
    chosen = []
    taken: set[str] = set()
    for each in passes:
        fields = given.keys() & {field.name for field in dataclasses.fields(each)}  # type: ignore[arg-type]
        taken |= fields
        more = {name: (*getattr(each, name), *given[name]) for name in fields}
        chosen.append(dataclasses.replace(each, **more) if more else each)  # type: ignore[type-var]
    unused = sorted(given.keys() - taken)
    if unused:
        raise UsageError(
            f"--{unused[0]} was given, but no pass of the pipeline takes it.",
            remedy="Quantize with a pass that does, such as quantize-static or quantize-dynamic.",
        )
    return tuple(chosen)
