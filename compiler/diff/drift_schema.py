"""What a comparison of two models on samples says, as data: the schema of `drift` in `sardonyx diff --data --json`."""

from typing import Final, Literal, Self

from pydantic import Field

from sardonyx.diff.channel_factors import Sums
from sardonyx.diff.checkpoints import Noise
from sardonyx.diff.schema import NodeEntry, Part
from sardonyx.measure import OutputError

DRIFT_VERSION: Final = 1


class Error(Part):
    """How far a value of the second model is from the first's, over all samples.

    Attributes:
        relative: Root mean square of the difference over that of the first model's value; None where the values cannot
            be compared or the first model's is 0 throughout and the other is not.
        max_abs: Largest absolute difference.
        mean_abs: Mean absolute difference.
        max_rel: Largest difference relative to the element, of elements that are not 0.
        cosine: Cosine similarity; None where it is not finite.
        sqnr_db: Power of the value over that of the difference, in dB; None where there is no difference or no signal.
        equal: Whether all bits agree.
        nonfinite: Elements that are NaN or infinite in one model only.
        reason: Why the values cannot be compared, or what is wrong with them; else empty.
    """

    relative: float | None
    max_abs: float
    mean_abs: float
    max_rel: float
    cosine: float | None
    sqnr_db: float | None
    equal: bool
    nonfinite: int
    reason: str

    @classmethod
    def of(cls, error: OutputError) -> Self:
        """Takes over what was accumulated."""
        noise = 10 ** (-error.sqnr_db / 20)  # 0 where equal, infinite where there is no signal
        comparable = error.ok or bool(error.nonfinite)
        return cls(
            relative=noise if comparable and noise != float("inf") else None,
            max_abs=error.max_abs,
            mean_abs=error.mean_abs,
            max_rel=error.max_rel,
            cosine=error.cosine if error.cosine == error.cosine else None,
            sqnr_db=error.sqnr_db if abs(error.sqnr_db) != float("inf") else None,
            equal=error.equal,
            nonfinite=error.nonfinite,
            reason=error.reason,
        )


class ChannelFactors(Part):
    """Positive factors by channel that the second model's value has and its readers take up again.

    Attributes:
        axis: The axis of the channels; None where they lie along several, and for a constant.
        axes: All axes of the channels; none for a constant, which may have factors of several kinds.
        smallest: The smallest factor.
        largest: The largest.
    """

    axis: int | None
    axes: tuple[int, ...] = ()
    smallest: float
    largest: float

    @classmethod
    def of(cls, factors: Sums, axes: tuple[int, ...] = ()) -> Self:
        """Says what of factors is told."""
        axis = axes[0] if len(axes) == 1 else None
        return cls(axis=axis, axes=axes, smallest=float(factors.min()), largest=float(factors.max()))

    def __str__(self) -> str:
        named = " and ".join(map(str, self.axes))
        along = f" along {'axis' if len(self.axes) == 1 else 'axes'} {named}" if self.axes else ""
        return f"rescaled by channel{along}, by {self.smallest:.3g} to {self.largest:.3g}"


class Place(Part):
    """A quantity at which the models were compared, and the nodes that compute it from the quantities before it.

    Attributes:
        kind: `value`, or `constant` for a constant that nodes in both models read at the same place.
        before: Name of the value in the first model.
        after: Name in the second.
        before_nodes: Nodes of the first model that compute it (of a constant: that read it); may be empty.
        after_nodes: Nodes of the second that compute it (of a constant: that restore or read it).
        total: The error when both models run by themselves.
        local: The error that the second model's nodes make when they are given the first model's values; None where
            that could not be measured.
        amplification: Relative error here over the largest relative error of what it is computed from; None where
            that is 0.
        noise: What these nodes may add although nothing is wrong.
        allowed: Largest relative local error that such noise explains; None where it explains any.
        parts: Whether the local error is more than that.
        rescaled: The factors that the errors leave out; None where the value is not rescaled by channel.
        why: What was found, or why the local error could not be measured; else empty.
    """

    kind: Literal["value", "constant"]
    before: str
    after: str
    before_nodes: tuple[NodeEntry, ...]
    after_nodes: tuple[NodeEntry, ...]
    total: Error
    local: Error | None
    amplification: float | None
    noise: Noise
    allowed: float | None
    parts: bool
    rescaled: ChannelFactors | None = None
    why: str = ""


class Drift(Part):
    """The errors along two models.

    Attributes:
        version: Version of this schema.
        samples: Number of samples compared.
        what: Where they come from.
        places: In the order of the second model.
        first: Index of the first place that parts; None where no place does.
        not_compared: Matched values that could not be compared, with the reason.
    """

    version: Literal[1] = DRIFT_VERSION
    samples: int
    what: str
    places: tuple[Place, ...]
    first: int | None
    not_compared: dict[str, str] = Field(default_factory=dict)

    @property
    def parting(self) -> tuple[Place, ...]:
        """The places that part, in the order of the second model."""
        return tuple(place for place in self.places if place.parts)

    @property
    def harmless(self) -> tuple[Place, ...]:
        """The quantizers that make more error than is explained, which makes no difference to what is behind them."""
        return tuple(
            place
            for place in self.places
            if place.noise == "step" and place.why and not place.parts and place.local is not None
        )

    @property
    def largest(self) -> tuple[Place, ...]:
        """The places by local error, largest first, those without one left out."""
        measured = [p for p in self.places if p.local is not None and p.local.relative is not None]
        return tuple(sorted(measured, key=lambda p: -(p.local.relative or 0.0) if p.local else 0.0))
