"""Attributes that a node has although it does not say so: the defaults of its operator's schema."""

from collections.abc import Mapping
from functools import lru_cache

import onnx
import onnx_ir as oir


@lru_cache(maxsize=4096)
def default_attributes(domain: str, op_type: str, version: int) -> Mapping[str, oir.Attr]:
    """Returns the default of each attribute of an operator that has one.

    Args:
        domain: The operator's domain.
        op_type: Its name.
        version: Opset version of the domain as a model imports it.

    Returns:
        Attributes by name; none for an operator that onnx does not know.
    """
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return {}
    protos = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    return {
        name: oir.serde.deserialize_attribute(proto)
        for name, proto in protos.items()
        if proto.type != onnx.AttributeProto.UNDEFINED
    }
