"""Which accuracy methods a quantization uses, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sardonyx.errors import SpecError


@dataclass(frozen=True)
class Methods:
    """One choice for each thing that can be chosen better.

    Attributes:
        ranges: Activations: `calibrated` as the calibrator says; `response`: of least error for their users where
            those apply a function such as SiLU, else as the calibrator says; `mse`: of least error everywhere.
        weights: Scales of weights: `reach` covers the largest, `mse` is of least error, `output-mse` of least error
            weighted by the squares of the inputs.
        rounding: Weights: `nearest`, `gptq` or `adaround`.
        bias: `kept`; `corrected` for the mean error of the weights; `sequential`, corrected for the mean error that is
            measured with all layers before already quantized and corrected.
    """

    ranges: str = "calibrated"
    weights: str = "reach"
    rounding: str = "nearest"
    bias: str = "kept"


AUTO = "auto"
NAMES: Mapping[str, tuple[str, str]] = {
    "response-ranges": ("ranges", "response"),
    "mse-ranges": ("ranges", "mse"),
    "mse-weights": ("weights", "mse"),
    "output-mse-weights": ("weights", "output-mse"),
    "gptq": ("rounding", "gptq"),
    "adaround": ("rounding", "adaround"),
    "bias-correction": ("bias", "corrected"),
    "sequential-bias-correction": ("bias", "sequential"),
}
"""Field of `Methods` and its value, by the name of the method."""


def resolved(names: Sequence[str], suited: Sequence[str]) -> tuple[str, ...]:
    """Replaces `auto` by the methods that suit a model, but for those that choose what another name chooses."""
    named = [name for name in names if name != AUTO]
    fields = {NAMES[name][0] for name in named if name in NAMES}
    usual = tuple(name for name in suited if NAMES[name][0] not in fields)
    return (*usual, *named) if AUTO in names else tuple(named)


def select_methods(names: Sequence[str]) -> Methods:
    """Returns the methods that go by names, other than `auto`.

    Raises:
        SpecError: If there is no such method, or two choose the same thing.
    """
    methods = Methods()
    chosen: dict[str, str] = {}
    for name in names:
        if name not in NAMES:
            raise SpecError(
                f"There is no accuracy method {name!r}.", remedy=f"Use {AUTO} or some of: {', '.join(NAMES)}."
            )
        field, value = NAMES[name]
        if field in chosen:
            raise SpecError(f"The methods {chosen[field]} and {name} both choose {field}.", remedy="Name one of them.")
        chosen[field] = name
        methods = replace(methods, **{field: value})
    return methods
