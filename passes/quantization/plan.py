"""The quantization plan: what becomes an integer, how, and why. Decided before the graph is touched.

A plan is plain data: it is written to JSON, compared, edited by hand and read back; one pass
(`sardonyx.passes.quantization.insert`) writes the Q/DQ nodes from it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from sardonyx.errors import SpecError

PLAN_VERSION = 1


class PointKind(StrEnum):
    """What a point quantizes."""

    ACTIVATION = "activation"
    WEIGHT = "weight"
    BIAS = "bias"
    DYNAMIC_WEIGHT = "dynamic-weight"
    """A weight whose nodes quantize their activation themselves, while they run."""


@dataclass(frozen=True)
class QuantPoint:
    """One value that is quantized.

    Attributes:
        value: Name of the float value (an activation or an initializer).
        kind: Activation, weight or bias.
        dtype: Integer type, as onnx names it: UINT8, INT8, INT32.
        scale: One scale, or one a channel.
        zero_point: As many zero points as scales.
        axis: Channel axis of the scales; None for one scale a tensor.
        consumers: Names of the nodes that take the quantized value; None for all of them.
        shared_with: The value whose scale and zero point this one shares, if any.
        absorbs: Name of the clamping node (Relu, Clip) between the producer and this value that the
            quantization makes redundant, if any.
        low: Smallest real value to represent, before rounding to integers.
        high: Largest real value to represent.
        reason: Why this point is quantized, and so.
    """

    value: str
    kind: PointKind
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int | None = None
    consumers: tuple[str, ...] | None = None
    shared_with: str | None = None
    absorbs: str | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads a point; raises SpecError on unknown or missing fields."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown or not {"value", "kind", "dtype"} <= set(data):
            raise SpecError(
                f"Quantization point {data.get('value', '?')!r} has unknown or missing fields {unknown}.",
                remedy=f"Known fields: {', '.join(sorted(known))}; value, kind and dtype are required.",
            )
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        try:
            values["kind"] = PointKind(values["kind"])
        except ValueError as error:
            raise SpecError(
                f"Quantization point {data['value']!r} has kind {data['kind']!r}.",
                remedy=f"Use one of: {', '.join(PointKind)}.",
            ) from error
        return cls(**values)


@dataclass(frozen=True)
class QuantPlan:
    """All points of a model, with what was left in float and why.

    Attributes:
        target: Name of the target whose table the plan was made from.
        points: The quantized values, in graph order.
        compute_nodes: Names of the nodes whose products are computed with integers, in graph order.
        float_nodes: Reason by name of each node that the target could run as integers and that stays in float.
        calibration: How ranges were observed, for the record.
    """

    target: str
    points: tuple[QuantPoint, ...]
    compute_nodes: tuple[str, ...] = ()
    float_nodes: Mapping[str, str] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-able data that `from_dict` reads back to an equal plan."""
        return {
            "version": PLAN_VERSION,
            "target": self.target,
            "points": [{k: v for k, v in asdict(p).items() if v not in (None, "")} for p in self.points],
            "compute_nodes": list(self.compute_nodes),
            "float_nodes": dict(self.float_nodes),
            "calibration": dict(self.calibration),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads a plan.

        Raises:
            SpecError: If the version is unknown or a point cannot be read.
        """
        if data.get("version") != PLAN_VERSION:
            raise SpecError(
                f"The quantization plan has version {data.get('version')!r}; this release reads {PLAN_VERSION}.",
                remedy="Write the plan again with this release.",
            )
        return cls(
            target=str(data.get("target", "")),
            points=tuple(QuantPoint.from_dict(p) for p in data.get("points", ())),
            compute_nodes=tuple(data.get("compute_nodes", ())),
            float_nodes=dict(data.get("float_nodes", {})),
            calibration=dict(data.get("calibration", {})),
        )
