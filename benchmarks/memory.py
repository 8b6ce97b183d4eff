"""Peak memory of what must not grow with the weights (`benchmarks/calibration.py` has that of calibration).

    python -m benchmarks.memory [GIGABYTES]

Makes a model whose weights lie in one sparse external file, takes it through the exact passes and saves it, in a
process of its own; what importing needs is printed beside it.
"""

import sys
import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from sardonyx import ir
from sardonyx.measure import measure_peak
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline

TENSOR_BYTES = 100 << 20
MB = 1 << 20


def imports_only() -> None:
    """Imports what the other functions use."""


def write_sparse_model(path: Path, tensors: int) -> None:
    """Writes a chain of MatMul whose weights of 100 MiB each lie in one sparse external file."""
    side = int((TENSOR_BYTES / 4) ** 0.5)
    nbytes = side * side * 4
    nodes, weights, last = [], [], "x"
    for i in range(tensors):
        weight = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[side, side])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "weights.bin", "offset": i * nbytes, "length": nbytes}.items():
            weight.external_data.add(key=key, value=str(value))
        weights.append(weight)
        nodes += [
            helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]),
            helper.make_node("Identity", [f"m{i}"], [f"i{i}"]),
            helper.make_node("Mul", ["k", "k"], [f"kk{i}"]),
            helper.make_node("Mul", [f"i{i}", f"kk{i}"], [f"y{i}"]),
        ]
        last = f"y{i}"
    constant = helper.make_tensor("k", TensorProto.FLOAT, [1], [0.5])
    shape = ["N", side]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "big", [info("x", 1, shape)], [info(last, 1, shape)], [*weights, constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with (path.parent / "weights.bin").open("wb") as file:
        file.truncate(tensors * nbytes)


def optimize(path: str, written: str) -> None:
    """Loads a model, runs the exact passes, and saves it."""
    passes = parse_pipeline(Recipe().optimize, available_passes())
    result = PassManager(passes).run(ir.load(path).model)
    assert all(r.status != "undone" for r in result.records), [r.reason for r in result.records]
    ir.save(result.model, written)


def main() -> None:
    """Prints peaks in MiB."""
    base = measure_peak(imports_only)
    print(f"imports alone: {base / MB:.0f} MiB")
    tensors = round(float(sys.argv[1] if len(sys.argv) > 1 else 3) * (1 << 30) / TENSOR_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in" / "model.onnx"
        written = Path(folder) / "out" / "model.onnx"
        for path in (source, written):
            path.parent.mkdir()
        write_sparse_model(source, tensors)
        peak = measure_peak(optimize, str(source), str(written))
        print(
            f"{tensors * TENSOR_BYTES / (1 << 30):.2f} GiB of weights: {(peak - base) / MB:.0f} MiB above the imports"
        )


if __name__ == "__main__":
    main()
