"""The quantization plan: what becomes an integer, how, and why. Decided before the graph is touched.

A plan is plain data: it is written to JSON, compared, edited by hand and read back; one pass
(`sardonyx.passes.quantization.insert`) writes the Q/DQ nodes from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
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
class _Kind:
    """What a field of a point may hold in a plan file."""

    what: str
    types: tuple[type, ...]
    many: bool = False

    def fits(self, value: Any) -> bool:
        """Whether a value, or each of a list, is of one of the types; true and false are no numbers."""
        items = value if self.many and isinstance(value, list | tuple) else [value]
        if self.many and not isinstance(value, list | tuple):
            return False
        return all(isinstance(item, self.types) and not isinstance(item, bool) for item in items)


_TEXT, _NUMBER = _Kind("a text", (str,)), _Kind("a number", (int, float))
_NUMBERS = _Kind("a list of numbers", (int, float), many=True)
_WHOLE_NUMBERS = _Kind("a list of whole numbers", (int,), many=True)
_KINDS = {
    **dict.fromkeys(("value", "kind", "dtype", "shared_with", "absorbs", "reason"), _TEXT),
    **dict.fromkeys(("low", "high"), _NUMBER),
    "axis": _Kind("a whole number", (int,)),
    "scale": _NUMBERS,
    "zero_point": _WHOLE_NUMBERS,
    "consumers": _Kind("a list of node names", (str,), many=True),
}


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
        for name, value in data.items():
            if value is not None and not _KINDS[name].fits(value):
                raise SpecError(
                    f"Quantization point {data['value']!r} has {name}={value!r}, which is not {_KINDS[name].what}.",
                    remedy="Mend the plan, or make it anew with --plan-out.",
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
        model: Digest of the float model that the plan was made from; empty where it was not written to a file.
        prepared: Pipeline text of the passes that changed that model before anything else here was decided.
        finished: Pipeline text of the passes that changed it once everything here was.
        moved_scales: How often the channels of a value are halved, and the weights behind it doubled, before anything
            is quantized: one number a channel, by value, by the pass that chose them.
        outliers: Indices of the channels of a value that are given products of their own, ascending, by value, once
            scales are moved.
        bias_shifts: What is added to the outputs of a node, one number a channel, by node: what its rounded weights
            lose on average. Of each node that gets a bias of its own for it.
        chosen_integers: How far the integers of a weight are from the nearest ones, by its name, as
            `sardonyx.passes.quantization.methods.chosen_integers` writes them; absent where they are the nearest.
    """

    target: str
    points: tuple[QuantPoint, ...]
    compute_nodes: tuple[str, ...] = ()
    float_nodes: Mapping[str, str] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    prepared: str = ""
    finished: str = ""
    moved_scales: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    outliers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bias_shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    chosen_integers: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-able data that `from_dict` reads back to an equal plan."""
        return {
            "version": PLAN_VERSION,
            "target": self.target,
            "model": self.model,
            "prepared": self.prepared,
            "finished": self.finished,
            "moved_scales": {name: _lists(moved) for name, moved in self.moved_scales.items()},
            "outliers": _lists(self.outliers),
            "bias_shifts": _lists(self.bias_shifts),
            "points": [{k: v for k, v in asdict(p).items() if v not in (None, "")} for p in self.points],
            "compute_nodes": list(self.compute_nodes),
            "float_nodes": dict(self.float_nodes),
            "calibration": dict(self.calibration),
            "chosen_integers": dict(self.chosen_integers),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads a plan.

        Raises:
            SpecError: If the version is unknown, or a point, a scale or a shift cannot be read.
        """
        if data.get("version") != PLAN_VERSION:
            raise SpecError(
                f"The quantization plan has version {data.get('version')!r}; this release reads {PLAN_VERSION}.",
                remedy="Write the plan again with this release.",
            )
        if not isinstance(data.get("points", []), list):
            raise SpecError("The quantization plan's points are not a list.", remedy="Make it anew with --plan-out.")
        return cls(
            target=str(data.get("target", "")),
            points=tuple(QuantPoint.from_dict(p) for p in data.get("points", ())),
            compute_nodes=tuple(data.get("compute_nodes", ())),
            float_nodes=dict(data.get("float_nodes", {})),
            calibration=dict(data.get("calibration", {})),
            model=str(data.get("model", "")),
            prepared=str(data.get("prepared", "")),
            finished=str(data.get("finished", "")),
            moved_scales={
                name: _tuples(f"moved_scales of {name!r}", moved, _WHOLE_NUMBERS)
                for name, moved in _object("moved_scales", data.get("moved_scales", {})).items()
            },
            outliers=_tuples("outliers", data.get("outliers", {}), _WHOLE_NUMBERS),
            bias_shifts=_tuples("bias_shifts", data.get("bias_shifts", {}), _NUMBERS),
            chosen_integers=_texts("chosen_integers", data.get("chosen_integers", {})),
        )

    @classmethod
    def joined(cls, plans: Sequence[Self]) -> Self:
        """Joins the plans of passes that ran one after the other on one model; there is at least one.

        Of a node that several left in float, the first one's reason is kept.
        """
        compute = tuple(dict.fromkeys(node for plan in plans for node in plan.compute_nodes))
        return replace(
            plans[-1],
            points=tuple(point for plan in plans for point in plan.points),
            compute_nodes=compute,
            float_nodes={n: why for plan in reversed(plans) for n, why in plan.float_nodes.items() if n not in compute},
            calibration={key: value for plan in reversed(plans) for key, value in plan.calibration.items()},
            moved_scales={name: moved for plan in plans for name, moved in plan.moved_scales.items()},
            outliers={value: split for plan in plans for value, split in plan.outliers.items()},
            bias_shifts={node: shift for plan in plans for node, shift in plan.bias_shifts.items()},
            chosen_integers={weight: text for plan in plans for weight, text in plan.chosen_integers.items()},
        )


def _lists(numbers: Mapping[str, tuple[float, ...]]) -> dict[str, list[float]]:
    return {name: list(each) for name, each in numbers.items()}


def _object(what: str, data: Any) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise SpecError(
            f"The quantization plan's {what} are not an object of names.", remedy="Make it anew with --plan-out."
        )
    return data


def _texts(what: str, data: Any) -> dict[str, str]:
    for name, text in _object(what, data).items():
        if not isinstance(text, str):
            raise SpecError(
                f"The quantization plan's {what} have {name}={text!r}, which is not text.",
                remedy="Mend the plan, or make it anew with --plan-out.",
            )
    return dict(data)


def _tuples(what: str, data: Any, kind: _Kind) -> dict[str, tuple[Any, ...]]:
    for name, numbers in _object(what, data).items():
        if not kind.fits(numbers):
            raise SpecError(
                f"The quantization plan's {what} have {name}={numbers!r}, which is not {kind.what}.",
                remedy="Mend the plan, or make it anew with --plan-out.",
            )
    return {name: tuple(numbers) for name, numbers in data.items()}
