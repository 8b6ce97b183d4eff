"""Integers of weights that are not the nearest ones, as a plan keeps them: so that applying it makes the same model."""

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.errors import SpecError
from sardonyx.passes.quantization.arithmetic import IntegerRange
from sardonyx.passes.quantization.methods.refine import weight_integers
from sardonyx.passes.quantization.plan import PointKind, QuantPlan, QuantPoint

_DTYPE = np.dtype("<i2")  # far enough from one end of 8 bits to the other
_UNUSABLE = "Remove the entry, which leaves the nearest integers, or make the plan anew with --plan-out."


def chosen_integers(
    points: Iterable[QuantPoint],
    floats: Mapping[str, ir.TensorProtocol],
    rounded: Mapping[str, ir.TensorProtocol],
    capabilities: Capabilities,
) -> dict[str, str]:
    """Returns how far the integers of each weight are from the nearest ones; weights that have those are left out.

    Args:
        points: The points of a plan.
        floats: Weights as they were, by name.
        rounded: The same after methods that choose integers.
        capabilities: The target's table, which says what integers there are.

    Returns:
        By name of the weight, the differences as base64 of zlib's compression of 16-bit integers, little endian, in
        the order of its elements.
    """
    integers = weight_integers(capabilities)
    found = {}
    for point in points:
        name = point.value
        if point.kind is PointKind.WEIGHT and name in floats and floats[name] is not rounded.get(name, floats[name]):
            before, after = (_integers(each[name].numpy(), point, integers) for each in (floats, rounded))
            if (before != after).any():
                found[name] = base64.b64encode(zlib.compress((after - before).astype(_DTYPE).tobytes())).decode()
    return found


def repeat_integers(model: ir.Model, plan: QuantPlan, capabilities: Capabilities) -> None:
    """Gives weights the integers that a plan says; those that it does not quantize any more are left alone.

    Args:
        model: The float model that the plan was made from, its scales moved; its weights are changed in place.
        plan: The plan, perhaps edited, whose points fit the model.
        capabilities: The target's table, which says what integers there are.

    Raises:
        SpecError: If the model has no such weight, or the integers cannot be read or do not fit it.
    """
    points = {point.value: point for point in plan.points if point.kind is PointKind.WEIGHT}
    integers = weight_integers(capabilities)
    for name, text in plan.chosen_integers.items():
        value = model.graph.initializers.get(name)
        if value is None or value.const_value is None:
            raise SpecError(f"The plan has chosen_integers for {name!r}, no weight of the model.", remedy=_UNUSABLE)
        if name not in points:
            continue
        array, steps = value.const_value.numpy(), _steps(points[name], value.const_value.shape.rank())
        differences = _decoded(name, text, array.shape)
        chosen = np.clip(_integers(array, points[name], integers) + differences, integers.low, integers.high)
        value.const_value = ir.tensor((chosen * steps).astype(array.dtype), name=name)


def _decoded(name: str, text: str, shape: tuple[int, ...]) -> npt.NDArray[np.int16]:
    try:
        flat = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), _DTYPE)
        return flat.reshape(shape).astype(np.int16)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise SpecError(
            f"The plan's chosen_integers of {name!r} are not {' x '.join(map(str, shape))} of them: {error}.",
            remedy=_UNUSABLE,
        ) from error


def _integers(weight: npt.NDArray[np.floating], point: QuantPoint, integers: IntegerRange) -> npt.NDArray[np.float64]:
    nearest: npt.NDArray[np.float64] = np.rint(weight.astype(np.float64) / _steps(point, weight.ndim))
    return np.clip(nearest, integers.low, integers.high)


def _steps(point: QuantPoint, rank: int) -> npt.NDArray[np.float64]:
    """The scales, in a shape that broadcasts to the weight's."""
    scales = np.asarray(point.scale, np.float64)
    return scales if point.axis is None else scales.reshape([-1 if axis == point.axis else 1 for axis in range(rank)])
