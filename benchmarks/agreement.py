"""Does agreement without labels predict the loss of a real metric?

    python -m benchmarks.agreement ZOO [MODEL ...]

ZOO holds one folder a model, with `model.onnx` and an `eval.py` that has `calib()` (a list of feeds) and
`evaluate(run) -> float` (higher is better). Each model is quantized by ONNX Runtime and has its weights
rounded to ever fewer bits; for each variant the table shows the
measured relative drop of the metric on labelled data and the drop that `Agreement` predicts from a quarter of
the calibration samples, which the quantizer did not see.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.tasks import load_eval
from sardonyx.measure import Agreement, Feed, Session, load_samples

COMPUTE = ["Conv", "MatMul", "Gemm"]
QUANTIZED: dict[str, dict[str, Any]] = {
    "int8 all operators": {},
    "int8 compute only": {"op_types_to_quantize": COMPUTE},
    "int8 all, per tensor": {"per_channel": False},
    "int8 compute, per tensor": {"per_channel": False, "op_types_to_quantize": COMPUTE},
}
ROUNDED = [*((bits, True) for bits in (7, 6, 5, 4, 3)), *((bits, False) for bits in (8, 7, 6, 5, 4))]


class Reader(CalibrationDataReader):
    """Hands feeds to ONNX Runtime's quantizer."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        """Returns the next feed, or None at the end."""
        return next(self._feeds, None)


def prepare(source: Path, folder: Path) -> Path:
    """Raises the opset to 13 where it is older and runs ONNX Runtime's preprocessing."""
    model = onnx.load(source)
    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 13:
        model = version_converter.convert_version(model, 13)
    onnx.save(model, folder / "raised.onnx")
    quant_pre_process(str(folder / "raised.onnx"), str(folder / "ready.onnx"), skip_symbolic_shape=True)
    return folder / "ready.onnx"


def round_weights(model: onnx.ModelProto, bits: int, per_channel: bool) -> onnx.ModelProto:
    """Rounds the weights of convolutions and matrix products to so many bits, symmetric, kept in float."""
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    users = {name: node for node in rounded.graph.node if node.op_type in COMPUTE for name in node.input[:2]}
    for tensor in rounded.graph.initializer:
        node = users.get(tensor.name)
        if node is None or len(tensor.dims) < 2:
            continue
        weight = numpy_helper.to_array(tensor)
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        channel = 0 if node.op_type == "Conv" or transposed else weight.ndim - 1
        axes = tuple(i for i in range(weight.ndim) if i != channel) if per_channel else None
        scale = np.abs(weight).max(axis=axes, keepdims=True) / (2 ** (bits - 1) - 1)
        scale = np.where(scale == 0, 1, scale)
        tensor.CopyFrom(numpy_helper.from_array((np.round(weight / scale) * scale).astype(weight.dtype), tensor.name))
    return rounded


def variants(ready: Path, feeds: list[Feed], folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields name and path of each quantized or damaged variant."""
    for name, options in QUANTIZED.items():
        target = folder / "variant.onnx"
        quantize_static(
            str(ready),
            str(target),
            Reader(feeds),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            **{"per_channel": True, **options},
        )
        yield name, target
    model = onnx.load(ready)
    for bits, per_channel in ROUNDED:
        target = folder / "variant.onnx"
        onnx.save(round_weights(model, bits, per_channel), target)
        yield f"weights {bits} bits, {'per channel' if per_channel else 'per tensor'}", target


def agreement(original: Session, changed: Session, held_out: list[Feed]) -> tuple[float, str]:
    """Returns the agreement and what decided it."""
    total = Agreement([o.name for o in original.outputs])
    for feed in held_out:
        total.update(original.run(feed), changed.run(feed))
    result = total.result()
    worst = min(result.per_output, key=lambda o: o.value)
    return result.value, f"{worst.kind} {worst.name}"


def study(folder: Path) -> list[tuple[float, float]]:
    """Prints one model's table and returns its (measured, predicted) drops."""
    evaluation = load_eval(folder)
    evaluate: Callable[[Any], float] = evaluation.evaluate
    split = load_samples(evaluation.calib).split()
    calibration, held_out = list(split.calibration)[:100], list(split.held_out)[:60]
    original = Session(folder / "model.onnx")
    base = evaluate(original.run)
    print(f"\n{folder.name}: metric {base:.4f}, {len(held_out)} held-out samples")
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        ready = prepare(folder / "model.onnx", Path(scratch))
        for name, path in variants(ready, calibration, Path(scratch)):
            changed = Session(path)
            drop = (base - evaluate(changed.run)) / abs(base)
            value, worst = agreement(original, changed, held_out)
            pairs.append((drop, 1 - value))
            print(f"  {name:28s} measured {drop:+8.2%}   predicted {1 - value:7.2%}   ({worst})")
    return pairs


def main() -> None:
    """Studies the models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    names = arguments.models or sorted(p.parent.name for p in arguments.zoo.glob("*/model.onnx"))
    pairs = np.array([pair for name in names for pair in study(arguments.zoo / name)])
    measured, predicted = pairs.T
    print(
        f"\n{len(pairs)} variants: 1 % budget passed by agreement, although the metric lost more than 2 %: ",
        end="",
    )
    print(f"{((predicted <= 0.01) & (measured > 0.02)).sum()}; ", end="")
    print(f"refused although it lost less than 0.5 %: {((predicted > 0.01) & (measured < 0.005)).sum()}")


if __name__ == "__main__":
    sys.exit(main())
