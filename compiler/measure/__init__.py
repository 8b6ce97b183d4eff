"""The measure room: runs models, compares outputs, times models, loads samples, describes the machine.

Importing it costs little: onnxruntime, psutil and archspec are imported where they are used.
"""

from sardonyx.measure.agreement import Agreement, AgreementResult, OutputAgreement, OutputKind
from sardonyx.measure.compare import ErrorAccumulator, OutputError, compare
from sardonyx.measure.feeds import Array, Feed, TensorSpec, check_feed
from sardonyx.measure.latency import PairedLatency, median_interval, paired_latency, paired_timing
from sardonyx.measure.machine import Machine, describe_machine, tool_versions
from sardonyx.measure.memory import measure_command_peak, measure_peak, peak_rss
from sardonyx.measure.metric import Metric, Runner, load_metric
from sardonyx.measure.samples import Samples, SampleSpec, Split, load_samples
from sardonyx.measure.session import Session, SessionOptions
from sardonyx.measure.synthetic import samples_for, synthetic_samples

__all__ = [
    "Agreement",
    "AgreementResult",
    "Array",
    "ErrorAccumulator",
    "Feed",
    "Machine",
    "Metric",
    "OutputAgreement",
    "OutputError",
    "OutputKind",
    "PairedLatency",
    "Runner",
    "SampleSpec",
    "Samples",
    "Session",
    "SessionOptions",
    "Split",
    "TensorSpec",
    "check_feed",
    "compare",
    "describe_machine",
    "load_metric",
    "load_samples",
    "measure_command_peak",
    "measure_peak",
    "median_interval",
    "paired_latency",
    "paired_timing",
    "peak_rss",
    "samples_for",
    "synthetic_samples",
    "tool_versions",
]
