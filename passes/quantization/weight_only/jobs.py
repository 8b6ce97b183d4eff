"""The work on weights: which grid and method for each site, in what order, and what is remembered between passes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.passes.base import PassContext, Refusal
from sardonyx.passes.quantization.weight_only.forms import PACKED, Parts, layout_of, store, without_offsets
from sardonyx.passes.quantization.weight_only.gptq import Compensation, compensated_rounding, compensation
from sardonyx.passes.quantization.weight_only.gram import gram_matrices, groups
from sardonyx.passes.quantization.weight_only.grid import BlockGrid, BlockWeight, Float32Array
from sardonyx.passes.quantization.weight_only.hqq import fit_half_quadratic, half_quadratic
from sardonyx.passes.quantization.weight_only.rounding import Choose, round_to_nearest
from sardonyx.passes.quantization.weight_only.sites import Grids, Site, finite

RTN, HQQ, GPTQ, GPTQ_HQQ = "rtn", "hqq", "gptq", "gptq-hqq"
METHODS = (RTN, HQQ, GPTQ, GPTQ_HQQ)
COMPENSATED: Mapping[str, Choose | None] = {GPTQ: None, GPTQ_HQQ: fit_half_quadratic}
"""Methods that need samples, and what chooses their scales and zero points; None for GPTQ itself."""
KEY = "sardonyx.weights"

_DATA_FREE = {RTN: round_to_nearest, HQQ: half_quadratic}

JobKey = tuple[tuple[int, bool], BlockGrid, str, str]


@dataclass(frozen=True)
class Job:
    """One weight to quantize.

    Attributes:
        site: Where it is used.
        grid: The integers.
        method: One of `METHODS`.
        layout: The layout to store it in.
        tied: Whether it is stored once for a lookup and a product.
    """

    site: Site
    grid: BlockGrid
    method: str
    layout: str
    tied: bool = False

    @property
    def key(self) -> JobKey:
        """Jobs of one key have one result."""
        return self.site.weight.key, self.grid, self.method, self.layout

    @property
    def dtype(self) -> str:
        """Name of the integers' type."""
        signed = self.layout != PACKED and self.grid.symmetric
        return f"{'INT' if signed else 'UINT'}{self.grid.bits}"

    @property
    def reason(self) -> str:
        """What was done and why, for the plan."""
        shared = "; one table for lookup and product, smaller than a form for each" if self.tied else ""
        offsets = " with offsets" if self.grid.offsets else ""
        return f"blocks of {self.grid.block} along the summed axis{offsets}, {self.method}{shared}"


@dataclass(frozen=True)
class HessianOptions:
    """What GPTQ makes of the layers' inputs; see `gptq.compensation`.

    Attributes:
        damping: Added to the diagonal, relative to its mean.
        act_order: Whether columns with large inputs come first.
    """

    damping: float
    act_order: bool


def make_jobs(sites: Sequence[Site], grids: Grids, method: str) -> list[Job]:
    """Gives each site its grid and method.

    Tables of embeddings are rounded to nearest, since no sum follows in which errors could be compensated. So are the
    products that share one: they take its grid where their kernel reads the same layout and takes that grid.
    """
    jobs = []
    lookups = [site for site in sites if site.is_lookup and layout_of(site) == PACKED]
    tables = {site.weight.key: grids[site.node.op_type] for site in lookups}
    sharing = [s for s in sites if not s.is_lookup and _can_share(s, tables.get(s.weight.key))]
    shared = {site.weight.key for site in sharing}
    for site in sites:
        tied = site in sharing or (site.is_lookup and site.weight.key in shared)
        grid = tables[site.weight.key] if tied else grids[site.node.op_type]
        if grid.offsets and without_offsets(site, grid) is not None:
            grid = replace(grid, offsets=False)
        jobs.append(Job(site, grid, RTN if tied or site.is_lookup else method, layout_of(site), tied))
    return jobs


def _can_share(site: Site, table: BlockGrid | None) -> bool:
    """Whether a product's kernel takes the packed table of a lookup."""
    support = site.support
    if table is None or layout_of(site) != PACKED:
        return False
    return table.bits in support.bits and (support.negative_scales or not table.negative_scales)


@dataclass(frozen=True)
class _Stored:
    """A result, or why there is none; holds what the key identifies, so that its identity stays its own."""

    tensor: ir.TensorProtocol
    result: Parts | str


class WeightQuantizer:
    """Quantizes weights, each once, and remembers the results in the context for variants of the model.

    Args:
        context: Samples, progress and memory.
        hessians: How GPTQ treats the layers' inputs.

    Attributes:
        samples: Number of samples that were observed; None where none were asked for.
        refusals: Jobs that GPTQ could not do, which were done by rounding to nearest.
    """

    def __init__(self, context: PassContext, hessians: HessianOptions) -> None:
        self.samples: int | None = None
        self.refusals: list[Refusal] = []
        self._context = context
        self._hessians = hessians
        self._scratch = ir.ScratchFile()
        self._known: dict[JobKey, _Stored] = context.memory.setdefault((KEY, hessians), {})

    def compensate(self, model: ir.Model, jobs: Iterable[Job]) -> None:
        """Runs GPTQ for jobs that were not done before, in groups whose Hessians fit the memory.

        A weight that several nodes use is rounded for the inputs of the first.

        Args:
            model: The float model.
            jobs: Jobs whose method is one of `COMPENSATED`.

        Raises:
            PassError: If the context has no samples.
            DataError: If there are zero samples, or they do not fit the model.
        """
        observable = {value.name for node in model.graph for value in node.outputs}
        observable |= {value.name for value in model.graph.inputs}
        waiting: dict[str, dict[JobKey, Job]] = {}
        for job in jobs:
            name = job.site.activation.name or ""
            if job.key in self._known or any(job.key in others for others in waiting.values()):
                continue
            if job.site.graph is model.graph and name in observable:
                waiting.setdefault(name, {})[job.key] = job
            else:
                self._nearest(job, f"{name!r} is inside a subgraph, where samples cannot be observed")
        columns = {name: next(iter(found.values())).site.weight.columns for name, found in waiting.items()}
        for names in groups(columns):
            observed = gram_matrices(model, columns, names, self._context)
            self.samples = observed.samples
            for name in names:
                self._compensate(list(waiting[name].values()), observed.matrices.pop(name))

    def _compensate(self, jobs: Sequence[Job], gram: Float32Array) -> None:
        try:
            known = compensation(gram, damping=self._hessians.damping, act_order=self._hessians.act_order)
        except PassError as error:
            for job in jobs:
                self._nearest(job, error.message)
            return
        for job in jobs:
            self._context.progress(len(self._known), None, "quantize weights")
            self._do(job, known)

    def _nearest(self, job: Job, why: str) -> None:
        node = job.site.node.name or ""
        self.refusals.append(Refusal(GPTQ, f"rounded to nearest: {why}", (node,)))
        self._do(job, None)

    def stored(self, job: Job) -> Parts | str:
        """Returns the stored tensors of a job, or why there are none; does it where it was not done before.

        Raises:
            SaveError: If the folder of temporary files cannot hold them.
            LoadError: If external data can no longer be read.
        """
        if job.key not in self._known:
            self._do(job, None)
        return self._known[job.key].result

    def _do(self, job: Job, known: Compensation | None) -> None:
        weight = job.site.weight
        values = weight.read()
        name = weight.value.name or ""
        result: Parts | str = f"the weight {name!r} has values that are not finite"
        if finite(values):
            result = store(_quantize(values, job, known), job.layout, name, self._scratch)
        self._known[job.key] = _Stored(weight.tensor, result)


def _quantize(values: Float32Array, job: Job, known: Compensation | None) -> BlockWeight:
    if known is not None:
        return compensated_rounding(values, job.grid, known, COMPENSATED[job.method])
    return _DATA_FREE.get(job.method, round_to_nearest)(values, job.grid)
