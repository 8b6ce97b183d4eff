"""Calibration: observing a model's values over samples, and choosing the ranges that their integers cover.

    result = calibrate(model, values, ["percentile", "entropy"], context, CalibrationOptions(workers=4))
    ranges = result.ranges("entropy", Scheme.parse("int8/symmetric"))

`extremes` and `histogram` are the observers, `calibrators` turns what they know into ranges, `taps` fetches inner
values, `workers` splits the samples over processes, `storage` keeps the state of an interrupted run.
"""

from sardonyx.passes.quantization.calibration.calibrate import CalibrationOptions, CalibrationResult, calibrate
from sardonyx.passes.quantization.calibration.calibrators import CALIBRATORS, OBSERVERS, Calibrator, calibrator
from sardonyx.passes.quantization.calibration.extremes import Extremes, MovingExtremes, ObservedRange, Observer
from sardonyx.passes.quantization.calibration.histogram import Histogram

__all__ = [
    "CALIBRATORS",
    "OBSERVERS",
    "CalibrationOptions",
    "CalibrationResult",
    "Calibrator",
    "Extremes",
    "Histogram",
    "MovingExtremes",
    "ObservedRange",
    "Observer",
    "calibrate",
    "calibrator",
]
