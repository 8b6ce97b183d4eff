"""A user's own metric of how good a model is."""

import math
from collections.abc import Callable
from typing import SupportsFloat

from sardonyx.errors import DataError, SardonyxError
from sardonyx.measure.feeds import Array, Feed
from sardonyx.measure.importing import import_function

Runner = Callable[[Feed], list[Array]]
"""Runs a model on one feed and returns its outputs in order."""

Metric = Callable[[Runner], float]
"""Rates a model by running it; higher is better."""


def load_metric(spec: str | Callable[[Runner], SupportsFloat]) -> Metric:
    """Returns a user's metric, checked: its result is a finite float or an error that says why not.

    Args:
        spec: `package.module:function`, or the function itself. It takes a `Runner` and returns a number,
            higher is better.

    Returns:
        The metric. Calling it raises DataError if the function raises (the cause is chained; errors of the
        model's run pass through) or returns no finite number.

    Raises:
        DataError: If the function cannot be imported or is not callable.
    """
    function = import_function(spec) if isinstance(spec, str) else spec
    if not callable(function):
        raise DataError(
            f"The metric is of type {type(spec).__name__}, not a function.", remedy="Pass a function: run -> float."
        )
    name = spec if isinstance(spec, str) else getattr(spec, "__qualname__", repr(spec))

    def metric(run: Runner) -> float:
        try:
            value = function(run)
        except SardonyxError:
            raise
        except Exception as error:
            raise DataError(
                f"The metric {name} raised {type(error).__name__}: {error}",
                remedy="It is called with a function that takes a feed (arrays by input name) and returns "
                "the outputs as a list.",
            ) from error
        return _finite(value, name)

    return metric


def _finite(value: SupportsFloat, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The metric {name} returned {type(value).__name__}, not a number.",
            remedy="Return one float, higher is better.",
        ) from error
    if not math.isfinite(number):
        raise DataError(
            f"The metric {name} returned {number}.",
            remedy="Return a finite number; an empty data set gives NaN.",
        )
    return number
