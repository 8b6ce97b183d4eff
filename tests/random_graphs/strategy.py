"""The strategy: random models of any opset and float type, and feeds for them at several sizes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.printer
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.random_graphs import control, elementwise, linear, movement, sizes
from tests.random_graphs.scope import FLAG, IDS, IMAGE, SEQUENCE, Maker, Scope

MAKERS: tuple[Maker, ...] = (
    *elementwise.MAKERS,
    *linear.MAKERS,
    *movement.MAKERS,
    *sizes.MAKERS,
    *control.MAKERS,
)
SIZES = ((2, 3), (1, 5), (3, 1))
"""N and L of the feeds. None is empty: some kernels of the runtime then divide by zero and end the process."""
IR_VERSIONS = {11: 8, 19: 9, 21: 10}
"""The IR version of an opset and those above it; local functions need 8."""


@dataclass(frozen=True)
class Drawn:
    """A random model, its float type, and the seed of its feeds."""

    model: onnx.ModelProto
    dtype: np.dtype[Any]
    seed: int

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Shows hypothesis' smallest failing example as text."""
        printer.text(f"seed {self.seed}\n{onnx.printer.to_text(self.model)}")

    def feeds(self) -> list[dict[str, Any]]:
        """Draws arrays for all inputs, once a pair of sizes."""
        return [_feed(self.seed, self.dtype, *pair) for pair in SIZES]


@st.composite
def models(draw: st.DrawFn, opset: int, dtype: type[np.floating[Any]]) -> Drawn:
    """A valid model with branches, shared values and weights, subgraphs, and outputs in mid-pattern."""
    scope = Scope(draw, opset, np.dtype(dtype))
    inputs = {"image": IMAGE, "other": IMAGE, "sequence": SEQUENCE, "ids": IDS}
    for name, kind in inputs.items():
        scope.give(kind, name)
    for _ in range(draw(st.integers(1, 7))):
        draw(st.sampled_from(MAKERS))(scope)
    outputs = _outputs(draw, scope)
    elements = {IMAGE: scope.element, SEQUENCE: scope.element, IDS: int(TensorProto.INT64)}
    declared = {name: (elements[kind], kind.value) for name, kind in inputs.items()}
    graph = scope.graph({**declared, FLAG: (int(TensorProto.BOOL), ())}, outputs)
    imports = {"": opset} | ({control.DOMAIN: 1} if scope.functions else {})
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in imports.items()],
        functions=list(scope.functions.values()),
        ir_version=max(version for lowest, version in IR_VERSIONS.items() if lowest <= opset),
    )
    return Drawn(model, np.dtype(dtype), draw(st.integers(0, 99)))


def _outputs(draw: st.DrawFn, scope: Scope) -> dict[str, int]:
    """The last value of each kind that was made, and some of what stands before."""
    last = [names[-1] for names in scope.values.values() if names[-1] in scope.made]
    others = draw(st.lists(st.sampled_from(sorted(scope.made)), max_size=2))
    return {name: scope.made[name] for name in (*last, *others)}


def _feed(seed: int, dtype: np.dtype[Any], batch: int, length: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "image": generator.standard_normal((batch, 4, length, 6)).astype(dtype),
        "other": generator.standard_normal((batch, 4, length, 6)).astype(dtype),
        "sequence": generator.standard_normal((batch, length, 8)).astype(dtype),
        "ids": generator.integers(0, 5, (batch, length)),
        FLAG: np.array(bool(seed % 2)),
    }
