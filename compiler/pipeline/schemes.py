"""Presets of quantization: pipelines with names that people know, and which of them suits a model."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.errors import SpecError, UsageError
from sardonyx.passes.base import Pass
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
    """

    name: str
    pipeline: str
    needs: tuple[str, ...]
    samples: bool
    summary: str


_STATIC, _DYNAMIC, _WEIGHTS = "quantize-static", "quantize-dynamic", "quantize-weights"
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
        summary="weights as INT4 in blocks with offsets, activations in float: large language models",
    ),
    QuantizationScheme(
        "weight-int8",
        f"{_WEIGHTS}{{bits=8, method=rtn}}",
        (_WEIGHTS,),
        samples=False,
        summary="weights as INT8 in blocks, activations in float: large language models; no samples",
    ),
    QuantizationScheme(
        "weight-int8-smooth",
        f"smooth-quant, {_WEIGHTS}{{bits=8, method=rtn}}",
        ("smooth-quant", _WEIGHTS),
        samples=True,
        summary="the same, outlier channels moved into weights before: kernels round activations to 8 bits",
    ),
)

DEFAULTS: Mapping[ModelKind, tuple[str, ...]] = {
    ModelKind.CONVOLUTIONAL: ("static",),
    ModelKind.TRANSFORMER: ("dynamic", "static", "weight-int8"),
    ModelKind.RECURRENT: ("static-dynamic", "static"),
}
"""Schemes by kind of model, where samples were given: a compile tries them all, `quantize` takes the first."""


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


def default_schemes(model: ir.Model, *, samples: bool) -> tuple[QuantizationScheme, ...]:
    """Returns the schemes that suit a model, the first choice first; without samples, one that needs none."""
    schemes = tuple(scheme_named(name) for name in DEFAULTS[model_kind(model)])
    return schemes if samples else (scheme_named("dynamic"),)


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
