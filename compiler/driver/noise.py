"""How much noise each quantized node adds at a model's outputs, from one pass over few samples.

Two models of the same value names are compared: a float one, prepared as the quantized one was, and the quantized one.
What a quantized node makes of the float model's values, less what the float model has there, is the node's own error.
Added to the float model at that place alone, it shows what it does to the outputs: the same as if this node alone were
quantized, without a model to make, write and load for each.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import Capabilities, Role
from sardonyx.diff.measuring import DriftOptions, aligned, fitting, opened_part
from sardonyx.diff.segments import Wiring, cut_model
from sardonyx.measure import Array, ErrorAccumulator, Feed, Session
from sardonyx.passes.quantization.calibration.taps import group_values


@dataclass(frozen=True)
class Noise:
    """What quantizing one node adds.

    Attributes:
        node: Name of the node.
        own: Power of the error at the node's output over the power of the signal there, when the node is given float
            values; None where it is not known.
        output: The same at the model's outputs, the worst of them, when this node alone is quantized.
        neighbours: With how many nodes `output` was measured; it is shared out in proportion to their own errors.
    """

    node: str
    own: float | None
    output: float
    neighbours: int = 1


@dataclass(frozen=True)
class NoiseOptions:
    """How noise is measured.

    Attributes:
        seconds: Wall time for the effects on the outputs; with too many nodes for that, neighbours are measured
            together.
        threads: Threads of the runtime within an operator.
        budget_bytes: Bytes of intermediate values held at a time; one node's may be more.
        progress: Called as progress(nodes done, nodes).
    """

    seconds: float
    threads: int = 1
    budget_bytes: int = 256 << 20
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Pair:
    """Two models of which values of the same name are the same quantity.

    Attributes:
        floats: The float model, prepared as the quantized one was.
        quantized: The quantized model.
        table: The target's table by which it was quantized.
    """

    floats: ir.Model
    quantized: ir.Model
    table: Capabilities


def measure_noise(models: Pair, nodes: Sequence[str], feeds: Sequence[Feed], options: NoiseOptions) -> list[Noise]:
    """Measures what each node adds, and returns it with the worst first.

    A node whose output is not in the main graph of both models, such as one in the body of a Loop, cannot be measured
    alone; it is taken to add the median of what the others do.

    Args:
        models: The float and the quantized model.
        nodes: Names of the quantized nodes, in graph order.
        feeds: Samples, of which as many are used as time allows, at least one.
        options: How.

    Raises:
        BackendError: If the runtime refuses a model.
        DataError: If a sample does not fit.
    """
    places = _places(models, nodes)
    known: dict[str, Noise] = {}
    if places and feeds:
        measuring = _Measuring(models, places, options)
        with measuring.injecting(feeds) as injection:
            for chunk in measuring.chunks(injection.feeds):
                known |= {noise.node: noise for noise in measuring.measure(chunk, injection)}
                if options.progress is not None:
                    options.progress(len(known), len(nodes))
    usual = median(noise.output for noise in known.values()) if known else 0.0
    found = [known.get(name, Noise(name, None, usual)) for name in nodes]
    return sorted(found, key=lambda noise: (-noise.output, -(noise.own or 0.0)))


def decibels(power: float) -> str:
    """Returns noise over signal as the signal-to-noise ratio that a reader knows, as `12 dB`."""
    if not power:
        return "no noise"
    return f"{-10 * math.log10(power):.0f} dB" if math.isfinite(power) else "no finite signal"


@dataclass(frozen=True)
class _Place:
    """A node, the float model's value that it is judged at, and how the quantized model computes that.

    Attributes:
        node: Name of the node.
        output: Name of the float model's value: the node's output, or that of the clamp behind it.
        computed: Name of the quantized model's.
        reads: Names of the values that it is computed from, which both models have.
        inner: Names of the values on the way to it from the node's own output.
    """

    node: str
    output: str
    computed: str
    reads: tuple[str, ...]
    inner: frozenset[str]

    def disturbs(self, other: "_Place") -> bool:
        """Whether two places cannot be computed in one model, because one is given what the other computes."""
        return not (self.inner.isdisjoint(other.reads) and other.inner.isdisjoint(self.reads))


def _places(models: Pair, nodes: Sequence[str]) -> list[_Place]:
    """The nodes of the main graph whose output goes by the same name in both models."""
    wiring = Wiring(models.quantized.graph)
    known = {v.name: v for v in ir.graph_values(models.floats.graph) if not v.is_initializer() and v.name}
    common = {v for name, v in wiring.values.items() if name in known and known[name].dtype == v.dtype}
    before = {node.name: node for node in models.floats.graph}
    after = {node.name: node for node in models.quantized.graph}
    found = []
    for name in nodes:
        if name not in before:
            continue
        output = computed = before[name].outputs[0].name or ""
        inner: list[ir.Value] = []
        rounding = _rounding(after[name], models.table) if name in after else []
        if rounding:
            output = next((each for each in ir.sources(rounding[-1]) if each in known), "")
            inner = [node.outputs[0] for node in (after[name], *rounding)]
            computed = inner.pop().name or ""
        value = wiring.values.get(computed)
        if value is None or value.producer() is None or output not in known or known[output].producer() is None:
            continue
        reads = wiring.segment((value,), common - {value, *inner}).reads
        names = frozenset(each.name or "" for each in inner)
        found.append(_Place(name, output, computed, tuple(read.name or "" for read in reads), names))
    return found


def _rounding(node: ir.Node, table: Capabilities) -> list[ir.Node]:
    """Returns the nodes up to DequantizeLinear behind one whose integer kernel rounds its output; none for others."""
    row = table.support(node.domain, node.op_type)
    if row is None or not row.needs_quantized_output:
        return []
    found: list[ir.Node] = []
    while len(users := {use.node for use in node.outputs[0].uses()}) == 1:
        (node,) = users
        found.append(node)
        if node.op_type == "DequantizeLinear":
            return found
        row = table.support(node.domain, node.op_type)
        if node.op_type != "QuantizeLinear" and (row is None or row.role is not Role.ACTIVATION):
            break
    return []


def _computable_together(places: Sequence[_Place]) -> list[list[_Place]]:
    """Splits places into groups that do not disturb each other."""
    groups: list[list[_Place]] = []
    for place in places:
        fitting_group = next((g for g in groups if not any(place.disturbs(other) for other in g)), None)
        if fitting_group is None:
            groups.append([place])
        else:
            fitting_group.append(place)
    return groups


@dataclass
class _Error:
    """The error of one node, sample by sample, and its power."""

    place: _Place
    signal: float = 0.0
    noise: float = 0.0
    arrays: list[Array] = field(default_factory=list)

    def take_in(self, reference: Array, candidate: Array) -> None:
        reference, candidate = (array.astype(np.float64) for array in aligned(reference, candidate))
        with np.errstate(invalid="ignore", over="ignore"):
            error = candidate - reference
            self.signal += float(np.square(reference).sum())
            self.noise += float(np.square(error).sum())
            self.arrays.append(error)

    @property
    def relative(self) -> float:
        if self.noise == 0.0:
            return 0.0
        return self.noise / self.signal if self.signal and math.isfinite(self.noise) else math.inf


@dataclass
class _Injection:
    """The float model with an input for each node that is added to what the node computes."""

    session: Session
    feeds: list[Feed]
    group: int
    inputs: dict[str, str]
    zeros: dict[str, Array]
    reference: list[list[Array]]

    def outputs(self, sample: int, errors: Sequence[_Error] = ()) -> list[Array]:
        """Runs a sample with the errors of some nodes and none elsewhere."""
        added = {self.inputs[error.place.output]: error.arrays[sample] for error in errors}
        cast = {name: array.astype(self.zeros[name].dtype) for name, array in added.items()}
        return self.session.run({**self.zeros, **self.feeds[sample], **cast})

    def noise(self, errors: Sequence[_Error]) -> float:
        """Returns noise over signal at the worst output with the errors of some nodes."""
        total = ErrorAccumulator([spec.name for spec in self.session.outputs])
        for sample, reference in enumerate(self.reference):
            total.update(reference, self.outputs(sample, errors))
        return max((10 ** (-each.sqnr_db / 10) if each.finite else math.inf for each in total.result()), default=0.0)


class _Measuring:
    def __init__(self, models: Pair, places: Sequence[_Place], options: NoiseOptions) -> None:
        self._floats, self._quantized = models.floats, models.quantized
        self._places = {place.output: place for place in places}
        self._options = options
        self._running = DriftOptions(options.threads)

    def chunks(self, feeds: Sequence[Feed]) -> Iterator[list[_Place]]:
        """Yields nodes of which the values of all samples fit into the budget."""
        budget = self._options.budget_bytes // len(feeds)
        for group in group_values(self._floats, list(self._places), feeds[0], budget):
            yield [self._places[name] for name in group]

    @contextmanager
    def injecting(self, feeds: Sequence[Feed]) -> Iterator[_Injection]:
        """Yields the model to inject errors into; runs it, and takes as many samples as time allows for all nodes."""
        model, inputs = _with_errors(self._floats, list(self._places))
        with opened_part(model, self._running) as session:
            added = set(inputs.values())
            zeros = {spec.name: np.zeros((), spec.dtype) for spec in session.inputs if spec.name in added}
            injection = _Injection(session, [dict(feed) for feed in feeds], 1, inputs, zeros, [])
            start = time.monotonic()
            injection.reference.append(injection.outputs(0))
            runs = self._options.seconds / max(time.monotonic() - start, 1e-9)
            count = len(self._places)
            injection.group = min(count, max(1, math.ceil(count / max(runs, 1.0))))
            injection.feeds = injection.feeds[: max(1, int(runs / count))]
            injection.reference += [injection.outputs(sample) for sample in range(1, len(injection.feeds))]
            yield injection

    def measure(self, chunk: Sequence[_Place], injection: _Injection) -> Iterator[Noise]:
        """Measures nodes' own errors, then what they do to the outputs."""
        errors = self._own_errors(chunk, injection.feeds)
        broken = [error for error in errors if math.isinf(error.relative)]
        yield from (Noise(error.place.node, math.inf, math.inf) for error in broken)
        sound = [error for error in errors if math.isfinite(error.relative)]
        for start in range(0, len(sound), injection.group):
            group = sound[start : start + injection.group]
            together, own = injection.noise(group), sum(error.relative for error in group)
            for error in group:
                share = error.relative / own if own else 0.0
                yield Noise(error.place.node, error.relative, together * share if share else 0.0, len(group))

    def _own_errors(self, chunk: Sequence[_Place], feeds: Sequence[Feed]) -> list[_Error]:
        """Returns the nodes' errors on float values, in the order given."""
        inputs = {value.name for value in self._floats.graph.inputs}
        needed = dict.fromkeys(name for place in chunk for name in (place.output, *place.reads))
        taps = [name for name in needed if name not in inputs]
        found = {place: _Error(place) for place in chunk}
        with opened_part(cut_model(self._floats, taps)[0], self._running) as before:
            known = [{**f, **dict(zip(taps, before.run(fitting(before, f), taps), strict=True))} for f in feeds]
        for places in _computable_together(chunk):
            computed = list(dict.fromkeys(place.computed for place in places))
            reads = list(dict.fromkeys(name for place in places for name in place.reads))
            part, names = cut_model(self._quantized, computed, reads)
            with opened_part(part, self._running) as after:
                for values in known:
                    given = {inner: values[name] for name, inner in names.items() if name in values}
                    arrays = dict(zip(computed, after.run(fitting(after, given), computed), strict=True))
                    for place in places:
                        found[place].take_in(values[place.output], arrays[place.computed])
        return list(found.values())


def _with_errors(model: ir.Model, outputs: Sequence[str]) -> tuple[ir.Model, dict[str, str]]:
    """Returns a copy of a model that adds an input to each of some values, and the inputs' names by the values'."""
    copy = ir.clone(model)
    names = ir.NameAuthority(copy)
    values = {value.name: value for value in ir.graph_values(copy.graph)}
    inputs = {}
    for output in outputs:
        value = values[output]
        producer = value.producer()
        assert producer is not None, "checked where places were found"
        error = ir.Value(name=names.value(f"{output}_error"), type=value.type)
        add = ir.node("Add", [value, error], name=names.node(f"{output}_with_error"))
        total = add.outputs[0]
        total.name, total.type, total.shape = names.value(f"{output}_with_error"), value.type, value.shape
        ir.replace_all_uses_with(value, total, replace_graph_outputs=True)
        add.replace_input_with(0, value)
        copy.graph.insert_after(producer, add)
        copy.graph.inputs.append(error)
        inputs[output] = error.name or ""
    return copy, inputs
