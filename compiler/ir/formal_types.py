"""Which element types an operator's schema accepts at each input and output of a node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat

import onnx
import onnx_ir as oir

_TENSOR = "tensor("


@dataclass(frozen=True)
class FormalType:
    """What a schema says about the type of one input or output.

    Attributes:
        variable: The type variable, such as `T`: inputs and outputs that share it have one type. Where the schema
            fixes a type, that type, such as `tensor(float)`.
        dtypes: The element types it may be; empty where only sequences, maps or optionals are accepted.
    """

    variable: str
    dtypes: frozenset[oir.DataType]


@dataclass(frozen=True)
class NodeTypes:
    """The formal types of a node, one for each of its inputs and outputs, variadic ones repeated."""

    inputs: tuple[FormalType, ...]
    outputs: tuple[FormalType, ...]


@dataclass(frozen=True)
class _Signature:
    inputs: tuple[FormalType, ...]
    outputs: tuple[FormalType, ...]


def formal_types(node: oir.Node, opset_imports: Mapping[str, int]) -> NodeTypes | None:
    """Returns the formal types of a node's inputs and outputs.

    Args:
        node: The node.
        opset_imports: Opset version by domain, as the model that holds the node imports them.

    Returns:
        The types, or None where ONNX has no schema of the operator in that opset.
    """
    version = opset_imports.get(node.domain)
    signature = None if version is None else _signature(node.domain, node.op_type, version)
    if signature is None:
        return None
    return NodeTypes(
        _repeated(signature.inputs, len(node.inputs)),
        _repeated(signature.outputs, len(node.outputs)),
    )


def _repeated(formal: tuple[FormalType, ...], count: int) -> tuple[FormalType, ...]:
    """Fits formal parameters to a node's own: only the last may be variadic."""
    last = formal[-1:] or (FormalType("", frozenset()),)
    endless = chain(formal, repeat(last[0]))
    return tuple(next(endless) for _ in range(count))


@lru_cache(maxsize=4096)
def _signature(domain: str, op_type: str, version: int) -> _Signature | None:
    if not onnx.defs.has(op_type, version, domain):
        return None
    schema = onnx.defs.get_schema(op_type, version, domain)
    return _Signature(_formal(schema.inputs), _formal(schema.outputs))


def _formal(parameters: Sequence[onnx.defs.OpSchema.FormalParameter]) -> tuple[FormalType, ...]:
    return tuple(FormalType(p.type_str, frozenset(filter(None, map(_dtype, p.types)))) for p in parameters)


def _dtype(text: str) -> oir.DataType | None:
    """Reads `tensor(float16)`; None for other kinds of types."""
    if not text.startswith(_TENSOR):
        return None
    return oir.DataType.__members__.get(text.removeprefix(_TENSOR).removesuffix(")").upper())
