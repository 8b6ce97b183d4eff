"""Provenance: every node that a rewrite makes or changes says which rule did it, and from what."""

import onnx_ir as oir

RULE_KEY = "sardonyx.rule"
SOURCE_KEY = "sardonyx.source"


def mark(node: oir.Node, rule: str, *sources: str | None) -> None:
    """Records the rule and the names of the source nodes or values in the node's metadata, after earlier ones."""
    for key, entries in ((RULE_KEY, (rule,)), (SOURCE_KEY, sources)):
        earlier = node.metadata_props.get(key, "")
        known = [e for e in earlier.split(",") if e]
        node.metadata_props[key] = ",".join(dict.fromkeys((*known, *(e for e in entries if e))))


def rules(node: oir.Node) -> tuple[str, ...]:
    """Names of the rules that made or changed a node; empty for a node of the original model."""
    return tuple(name for name in node.metadata_props.get(RULE_KEY, "").split(",") if name)


def sources(node: oir.Node) -> tuple[str, ...]:
    """Names of the nodes and values that a node was made from; empty for a node of the original model."""
    return tuple(name for name in node.metadata_props.get(SOURCE_KEY, "").split(",") if name)
