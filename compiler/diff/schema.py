"""What a diff says, as data: the schema of `sardonyx diff --json`.

Every object refuses fields it does not know; `version` grows when a field changes its meaning or goes.
"""

from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from sardonyx.diff.correspondence import How, NodeRef

DIFF_VERSION: Final = 1

TensorChange = Literal["renamed", "type", "shape", "values", "quantized", "dequantized", "added", "removed"]
"""What became of an initializer.

`renamed` has equal content; `type` the values within the rounding of the narrower type; `shape` the same elements in
another shape or order; `values` other values; `quantized` is integers with scales in place of floats, `dequantized`
the reverse.
"""


class Part(BaseModel):
    """Base of all objects of a diff."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeEntry(Part):
    """A node; `scope` is the path from the main graph to its graph, empty for the main graph itself."""

    name: str
    op_type: str
    domain: str = ""
    scope: tuple[str, ...] = ()
    index: int

    @classmethod
    def of(cls, ref: NodeRef) -> Self:
        """Takes over a reference of the matching."""
        return cls(name=ref.name, op_type=ref.op_type, domain=ref.domain, scope=ref.scope, index=ref.index)


class Cost(Part):
    """What nodes cost.

    Attributes:
        nodes: Their number, those in subgraphs and functions included.
        parameters: Elements of the constants that they read; a constant counts where it is read first.
        weight_bytes: Bytes of those constants.
        macs: Multiply-accumulates with symbolic dimensions at 1.
        unknown_macs: Convolutions and matrix products whose shapes are not known.
        activation_bytes: Bytes of what they compute, symbolic dimensions at 1; unknown shapes count nothing.
    """

    nodes: int = 0
    parameters: int = 0
    weight_bytes: int = 0
    macs: int = 0
    unknown_macs: int = 0
    activation_bytes: int = 0


class FieldChange(Part):
    """A named fact that differs; `before` or `after` is None where one model lacks it."""

    name: str
    before: str | None
    after: str | None


class Region(Part):
    """Nodes of one model that together do what nodes of the other do.

    Attributes:
        how: What became of them, see `correspondence.How`.
        before: Nodes of the first model.
        after: Nodes of the second.
        evidence: Why they belong together.
        attributes: Attributes that differ, of one node in place of one of the same operator, others fused with it or
            not.
        inputs: Operands that differ, of one node in place of one: `input INDEX` with the names of what is read, where
            that does not correspond.
        cost_before: Cost of the nodes of the first model.
        cost_after: Cost of the nodes of the second.
    """

    how: How
    before: tuple[NodeEntry, ...]
    after: tuple[NodeEntry, ...]
    evidence: str
    attributes: tuple[FieldChange, ...] = ()
    inputs: tuple[FieldChange, ...] = ()
    cost_before: Cost = Cost()
    cost_after: Cost = Cost()


class ValueChange(Part):
    """A matched value whose type or shape differs; types as `FLOAT`, shapes as `Nx64x?`, `?` for an unknown one."""

    before: str
    after: str
    type_before: str
    type_after: str
    shape_before: str
    shape_after: str


class InitializerChange(Part):
    """What became of an initializer of the main graph.

    Attributes:
        before: Name in the first model; None where added.
        after: Name in the second; None where removed.
        how: What became of it.
        dtype_before: Type of its elements in the first model.
        dtype_after: Type of its elements in the second.
        shape_before: Its shape in the first model.
        shape_after: Its shape in the second.
        max_abs: Largest absolute difference of the values (of the dequantized ones for integers with scales); None
            where they cannot be compared.
        max_rel: Largest difference over the absolute value before, of elements that are not 0.
        sqnr_db: Power of the values before over that of the difference, in dB; None where there is no difference or
            no signal.
        elements: Number of elements that differ.
    """

    before: str | None
    after: str | None
    how: TensorChange
    dtype_before: str | None = None
    dtype_after: str | None = None
    shape_before: tuple[int, ...] | None = None
    shape_after: tuple[int, ...] | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    sqnr_db: float | None = None
    elements: int | None = None


class Grid(Part):
    """The grid of a quantizer: element type, axis (None per tensor), number, least and largest of the scales."""

    dtype: str
    axis: int | None
    scales: int
    scale_min: float
    scale_max: float
    zero_points: tuple[int, int] | None


class QuantizerChange(Part):
    """A quantized value: one grid is None where only the other model quantizes it.

    Attributes:
        value: Name of the value or initializer, as the first model calls it where it has it.
        before: Its grid in the first model.
        after: Its grid in the second.
    """

    value: str
    before: Grid | None
    after: Grid | None


class Totals(Part):
    """A whole model: its cost, its operators by number, its opset imports and bytes of tensors."""

    cost: Cost
    operators: dict[str, int]
    nbytes: int


class Diff(Part):
    """The differences of two models.

    Attributes:
        version: Version of this schema.
        same: Whether nothing differs but names and the order of independent nodes.
        identical: Whether nothing at all differs, names included.
        counts: Number of groups by what became of them.
        unchanged: Groups of one node each that are the same, name included.
        regions: The other groups, renamed nodes without another change left out; in the order of the second model.
        renamed_nodes: New name by old name, main graph.
        renamed_values: New name by old name of matched values, main graph.
        values: Matched values whose type or shape differs.
        initializers: Initializers that are not the same by name and content.
        equal_initializers: Number of those that are.
        quantizers: Quantized values whose grid differs or that only one model quantizes.
        opsets: Opset imports that differ.
        interface: Inputs and outputs that differ.
        metadata: Metadata, producer, IR version and documentation that differ.
        before: The first model as a whole.
        after: The second.
    """

    version: Literal[1] = DIFF_VERSION
    same: bool
    identical: bool
    counts: dict[str, int]
    unchanged: int
    regions: tuple[Region, ...] = ()
    renamed_nodes: dict[str, str] = Field(default_factory=dict)
    renamed_values: dict[str, str] = Field(default_factory=dict)
    values: tuple[ValueChange, ...] = ()
    initializers: tuple[InitializerChange, ...] = ()
    equal_initializers: int = 0
    quantizers: tuple[QuantizerChange, ...] = ()
    opsets: tuple[FieldChange, ...] = ()
    interface: tuple[FieldChange, ...] = ()
    metadata: tuple[FieldChange, ...] = ()
    before: Totals
    after: Totals
