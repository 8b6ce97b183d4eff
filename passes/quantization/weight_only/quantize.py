"""The pass `quantize-weights`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.errors import PassError, SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.quantization.plan import PointKind, QuantPlan, QuantPoint
from sardonyx.passes.quantization.selection import kept_float
from sardonyx.passes.quantization.weight_only.forms import Activations, Writer, without_offsets
from sardonyx.passes.quantization.weight_only.grid import BlockGrid
from sardonyx.passes.quantization.weight_only.jobs import (
    COMPENSATED,
    GPTQ,
    METHODS,
    HessianOptions,
    Job,
    WeightQuantizer,
    make_jobs,
)
from sardonyx.passes.quantization.weight_only.sites import LOOKUP, RULE, Grids, find_sites

INT8, FLOAT = "int8", "float"
KINDS = (INT8, FLOAT)
PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Stores the weights of MatMul and Gemm, and tables of embeddings, as small integers in blocks.

    A table of embeddings whose transpose is also multiplied with is stored once, with 8 bits for both, where the
    target's kernels can share it: that is smaller than a form for each.

    Attributes:
        bits: Bits of a weight of MatMul or Gemm: 4 or 8.
        block: Number of neighbours along the summed axis that share a scale.
        symmetric: Whether all zero points are the middle of the integers; so they are where the target takes no others.
        offsets: Whether blocks have offsets besides, so that zero points are real numbers: more accurate, about 6 %
            larger and somewhat slower. Not with `symmetric`.
        method: `rtn`: nearest integers, scales of least squared error; `hqq`: scales and zero points that tolerate
            outliers; `gptq`: rounding errors compensated by what the samples say about the layer's inputs; `gptq-hqq`:
            the same on the scales and zero points of `hqq`.
        activations: `int8`: kernels may round a product's other operand to 8 bits, which makes them several times as
            fast; `float`: they may not; `auto`: only kernels that the target's table calls slow in float may.
        embeddings: `int8` or `float`.
        damping: GPTQ: share of the Hessian's mean diagonal added to it.
        act_order: GPTQ: round columns with large inputs first.
        exclude: Patterns of nodes to keep in float, as `sardonyx.passes.quantization.selection` describes them.
        include: Patterns of the only nodes to quantize; empty for all.
    """

    name = RULE
    summary = "weights as 4- or 8-bit integers in blocks, activations in float"

    bits: int = 4
    block: int = 32
    symmetric: bool = False
    offsets: bool = False
    method: str = GPTQ
    activations: str = INT8
    embeddings: str = INT8
    damping: float = 0.01
    act_order: bool = True
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, value, known in (
            ("bits", self.bits, (4, 8)),
            ("method", self.method, METHODS),
            ("activations", self.activations, tuple(Activations)),
            ("embeddings", self.embeddings, KINDS),
        ):
            if value not in known:
                raise SpecError(
                    f"{self.name} does not take {option}={value}.", remedy=f"Use one of: {', '.join(map(str, known))}."
                )
        if self.block < 2 or self.block % 2:
            raise SpecError(f"Blocks of {self.block} cannot be packed.", remedy="16, 32, 64, 128 and 256 are usual.")
        if self.symmetric and self.offsets:
            raise SpecError("Symmetric blocks have no offsets.", remedy="Set symmetric=false or offsets=false.")
        if not 0 < self.damping <= 1:
            raise SpecError(f"A damping of {self.damping} is outside (0, 1].", remedy="0.01 is usual.")

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Quantizes the weights that the target's table takes.

        Raises:
            PassError: If the context has no target, or GPTQ no samples.
            DataError: If the samples do not fit the model.
            SaveError: If the folder of temporary files cannot hold the quantized weights.
            SpecError: If a pattern of `exclude` or `include` selects nothing.
        """
        if context.capabilities is None:
            raise PassError("Weights in blocks need a target's table.", remedy="Name one with --target.")
        grids = self._grids(context)
        kept_opset = _raise_opset(model, context.capabilities, grids)
        ir.ensure_shapes(model)
        sites, reasons = find_sites(model, context.capabilities, grids, kept_float(model, self.exclude, self.include))
        jobs = make_jobs(sites, grids, self.method)
        quantizer = WeightQuantizer(context, HessianOptions(self.damping, self.act_order))
        quantizer.compensate(model, [job for job in jobs if job.method in COMPENSATED])
        writer = Writer(model, Activations(self.activations))
        done: list[Job] = []
        for count, job in enumerate(jobs):
            context.progress(count, len(jobs), "quantize weights")
            stored = quantizer.stored(job)
            if isinstance(stored, str):
                reasons[job.site.node.name or ""] = stored
            else:
                writer.write(job.site, stored)
                done.append(job)
        model.graph.sort()
        plan = self._plan(context.capabilities.target, done, reasons, quantizer)
        refusals = [Refusal("raise-opset", kept_opset)] if kept_opset is not None else []
        refusals += [Refusal("stay-in-float", why, (node,)) for node, why in reasons.items()]
        refusals += self._refused_offsets(done)
        return PassResult(model, bool(done), _counts(done), (*refusals, *quantizer.refusals), {"plan": plan.to_dict()})

    def _plan(
        self, target: str, done: Sequence[Job], reasons: Mapping[str, str], quantizer: WeightQuantizer
    ) -> QuantPlan:
        by_point: dict[tuple[str, str], list[Job]] = {}
        for job in done:
            by_point.setdefault((job.site.weight.value.name or "", job.dtype), []).append(job)
        return QuantPlan(
            target=target,
            points=tuple(_point(value, dtype, jobs) for (value, dtype), jobs in by_point.items()),
            compute_nodes=tuple(job.site.node.name or "" for job in done),
            float_nodes=reasons,
            calibration={"method": self.method, "samples": quantizer.samples},
        )

    def _refused_offsets(self, done: Sequence[Job]) -> list[Refusal]:
        jobs = [job for job in done if self.offsets and not (job.grid.offsets or job.tied or job.site.is_lookup)]
        reasons = {job.site.node.name or "": without_offsets(job.site, job.grid) or "" for job in jobs}
        return [Refusal("offsets", why, (node,)) for node, why in reasons.items()]

    def _grids(self, context: PassContext) -> Grids:
        blocks = context.capabilities.blocks if context.capabilities is not None else {}
        grids = {}
        for op_type in PRODUCTS:
            symmetric = self.symmetric or (op_type in blocks and not blocks[op_type].zero_points)
            grids[op_type] = BlockGrid(self.bits, self.block, symmetric, offsets=self.offsets and not symmetric)
        if self.embeddings == INT8:
            grids[LOOKUP] = BlockGrid(8, self.block, symmetric=True)
        return {
            op_type: replace(grid, negative_scales=op_type not in blocks or blocks[op_type].negative_scales)
            for op_type, grid in grids.items()
        }


def _raise_opset(model: ir.Model, capabilities: Capabilities, grids: Grids) -> str | None:
    """Raises the opset to what the target needs for the weights that the model has; returns why it stays, if so."""
    rows = [
        row
        for op_type in {node.op_type for graph in ir.all_graphs(model) for node in graph} & grids.keys()
        if (row := capabilities.blocks.get(op_type)) is not None and grids[op_type].bits in row.bits
    ]
    return ir.ensure_opset(model, max((row.min_opset for row in rows), default=1))


def _point(value: str, dtype: str, jobs: Sequence[Job]) -> QuantPoint:
    consumers = tuple(job.site.node.name or "" for job in jobs)
    return QuantPoint(value, PointKind.WEIGHT, dtype, consumers=consumers, reason=jobs[0].reason)


def _counts(done: Sequence[Job]) -> dict[str, int]:
    return dict(Counter(f"{job.site.node.op_type.lower()}-{job.grid.bits}-bit" for job in done))
