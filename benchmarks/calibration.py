"""What calibration costs: time a sample over plain inference with the same outputs fetched, and peak memory.

    python -m benchmarks.calibration time [MODEL [SAMPLES [THINNING]]]   each calibrator, beside plain inference
    python -m benchmarks.calibration memory [MODEL] [COUNT ...]          peak with 32 and 300 samples, entropy

Without a model, a transformer with random weights is made: 6 layers of width 576, 24 million parameters. Samples are
standard normal unless SAMPLES names some. `time` runs plain inference and each calibrator in turn, several times over
the same samples, and prints medians of the ratios; computing the ranges, once at the end of a calibration, is printed
by itself. Observers run beside inference in a second thread: where other work keeps the cores busy, look at CPU time.

Finding the extremes of an element costs 0.2 to 0.4 ns, and counting it 1.3 to 2 ns in all, by how cold the caches are.
At 1.7 ns that is at most 1.3 times plain inference where a model spends 5.7 ns or more on each element that is
observed, as transformers do. Of small convolutional networks, which spend 0.6 to 0.9 ns, it is 4 to 6 times.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.measure import Feed, Samples, Session, SessionOptions, describe_machine, load_samples, measure_peak
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.calibration import CALIBRATORS, calibrate
from sardonyx.passes.quantization.calibration.bank import ObserverBank
from sardonyx.passes.quantization.calibration.taps import observe_samples, tapped_model
from sardonyx.passes.quantization.placement import place
from sardonyx.passes.quantization.scheme import Scheme

MB = 1 << 20
LAYERS, WIDTH, HEADS, TOKENS = 6, 576, 9, 128
TIMED = 300
"""Samples that are timed at most, as many as calibrations use; where there are fewer, they are repeated."""
SECONDS = 0.2
"""How long plain inference should take in each round; samples are as many as fit, at least `FEW`."""
FEW = 8
ROUNDS = 9


def write_transformer(path: Path) -> None:
    """Writes a transformer encoder with random weights: float32 of shape (N, 128, 576) in and out."""
    generator = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        array = generator.standard_normal(shape, np.float32) * np.float32(shape[0] ** -0.5)
        weights.append(numpy_helper.from_array(array, name))
        return name

    def add(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], name=f"n{len(nodes)}", **attributes))
        return f"t{len(nodes) - 1}"

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(values, name))
        return name

    ones, zeros = constant("ones", np.ones(WIDTH, np.float32)), constant("zeros", np.zeros(WIDTH, np.float32))
    split = constant("split", np.array([0, 0, HEADS, WIDTH // HEADS]))
    join = constant("join", np.array([0, 0, WIDTH]))
    root = constant("root", np.float32((WIDTH // HEADS) ** -0.5))
    x = "x"
    for layer in range(LAYERS):
        normed = add("LayerNormalization", x, ones, zeros, axis=-1)
        heads = {
            kind: add(
                "Transpose",
                add("Reshape", add("MatMul", normed, weight(f"{kind}{layer}", WIDTH, WIDTH)), split),
                perm=[0, 2, 3, 1] if kind == "k" else [0, 2, 1, 3],
            )
            for kind in "qkv"
        }
        scores = add("Softmax", add("Mul", add("MatMul", heads["q"], heads["k"]), root), axis=-1)
        mixed = add("Reshape", add("Transpose", add("MatMul", scores, heads["v"]), perm=[0, 2, 1, 3]), join)
        x = add("Add", x, add("MatMul", mixed, weight(f"o{layer}", WIDTH, WIDTH)))
        normed = add("LayerNormalization", x, ones, zeros, axis=-1)
        hidden = add("Relu", add("MatMul", normed, weight(f"up{layer}", WIDTH, 4 * WIDTH)))
        x = add("Add", x, add("MatMul", hidden, weight(f"down{layer}", 4 * WIDTH, WIDTH)))
    info = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT, shape=["N", TOKENS, WIDTH])
    graph = helper.make_graph(nodes, "transformer", [info("x")], [info(x)], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def normal_samples(path: str, count: int) -> Samples:
    """Standard normal samples for a model's inputs; symbolic dimensions are 1."""
    with Session(path) as session:
        specs = session.inputs

    def draw() -> Iterator[Feed]:
        generator = np.random.default_rng(0)
        for _ in range(count):
            yield {
                spec.name: generator.standard_normal([d if isinstance(d, int) else 1 for d in spec.shape]).astype(
                    spec.dtype
                )
                for spec in specs
            }

    return Samples(draw, "normal samples", count)


def observed_values(path: str) -> tuple[ir.Model, tuple[str, ...]]:
    """A model, and the values that static quantization observes."""
    model = ir.load(path).model
    ir.ensure_shapes(model)
    return model, tuple(place(model, backend("onnxruntime").capabilities(describe_machine())).observed())


def entropy(path: str, count: int) -> None:
    """Calibrates by entropy, as quantization does: observes and computes the ranges."""
    model, values = observed_values(path)
    result = calibrate(model, values, ["entropy"], PassContext(samples=normal_samples(path, count)))
    result.ranges("entropy", Scheme.parse("uint8"))


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Calls a function; returns wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def compute_ranges(name: str, bank: ObserverBank) -> None:
    """Computes the range of each value."""
    chosen = CALIBRATORS[name]
    for observers in bank.observers.values():
        chosen.range(observers[chosen.observer], Scheme.parse("uint8"), 99.99)


def compare_times(path: str, samples: Samples, thinning: int) -> None:
    """Prints, for each calibrator, the time of a sample over that of plain inference."""
    model, values = observed_values(path)
    inputs = {value.name for value in model.graph.inputs}
    tapped = [name for name in values if name not in inputs]
    feeds = list(islice(cycle(islice(samples, TIMED)), TIMED))
    with tempfile.TemporaryDirectory() as folder:
        ir.save(tapped_model(model, tapped), Path(folder) / "tapped.onnx")
        session = Session(Path(folder) / "tapped.onnx", options=SessionOptions(arena=False))
    once = min(timed(partial(session.run, feeds[0], tapped))[0] for _ in range(3))
    feeds = feeds[: max(FEW, int(SECONDS / once))]
    elements = sum(array.size for array in session.run(feeds[0], tapped))
    banks = {name: ObserverBank(values, [known.observer], thinning) for name, known in CALIBRATORS.items()}

    def plain() -> None:
        for feed in feeds:
            session.run(feed, tapped)

    def observe(bank: ObserverBank) -> None:
        observe_samples(session, bank, tapped, enumerate(feeds), lambda indices: None)

    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ("plain", *banks)}
    plain()
    for _ in range(ROUNDS):
        for name, bank in banks.items():
            runs["plain"].append(timed(plain))
            runs[name].append(timed(partial(observe, bank)))
    wall, cpu = (median(run[i] for run in runs["plain"]) / len(feeds) for i in (0, 1))
    print(f"{len(values)} values, {elements / 1e6:.2f} million elements; plain: {wall * 1e3:.2f} ms a sample")
    for position, name in enumerate(banks):
        beside = runs["plain"][position :: len(banks)]
        ratios = [median(mine[i] / theirs[i] for mine, theirs in zip(runs[name], beside, strict=True)) for i in (0, 1)]
        finish, _ = timed(partial(compute_ranges, name, banks[name]))
        print(
            f"{name:15} wall {ratios[0]:.2f}x, CPU {ratios[1]:.2f}x, observing "
            f"{(ratios[1] - 1) * cpu / elements * 1e9:.1f} ns an element; "
            f"ranges {finish / len(values) * 1e3:.1f} ms a value"
        )


def compare_memory(path: str, counts: list[int]) -> None:
    """Prints the peak memory of entropy calibration for each number of samples."""
    peaks = {count: measure_peak(entropy, path, count) for count in counts}
    for count, peak in peaks.items():
        print(f"{count} samples: {peak / MB:.0f} MiB, {peak / peaks[counts[0]]:.3f} of the first")


def main() -> None:
    """Runs what the arguments ask for."""
    what, *rest = sys.argv[1:] or ["time"]
    with tempfile.TemporaryDirectory() as folder:
        if rest and not rest[0].isdigit():
            path, *rest = rest
        else:
            path = str(Path(folder) / "transformer.onnx")
            write_transformer(Path(path))
        if what == "memory":
            compare_memory(path, [int(count) for count in rest] or [32, 300])
        else:
            samples = load_samples(rest[0]) if rest else normal_samples(path, FEW)
            compare_times(path, samples, int(rest[1]) if len(rest) > 1 else 1)


if __name__ == "__main__":
    main()
