"""What a rule is: a pattern, a check with reasons, and a rewrite."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.provenance import mark
from sardonyx.passes.rewriting.pattern import Match, Op


class Rule(ABC):
    """A rewrite of a pattern to something that computes the same.

    Attributes:
        name: In kebab-case, unique among rules.
        summary: What becomes what.
        pattern: What to look for.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    pattern: ClassVar[Op]

    def check(self, found: Match, opset: int) -> str | None:
        """Returns why a match must not be rewritten, as a sentence, or None."""
        return None

    @abstractmethod
    def rewrite(self, found: Match, editor: "Editor") -> ir.Value:
        """Builds the replacement and returns the value that takes the place of the root's first output."""


@dataclass
class Editor:
    """Makes nodes and constants for one rewrite; all edits go through it.

    Attributes:
        graph: The graph of the matched nodes.
        names: Gives names that nothing in the model has.
        rule: The rule's name, noted in the nodes made.
        found: The match; new nodes are put before its root and remember its nodes.
    """

    graph: ir.Graph
    names: ir.NameAuthority
    rule: str
    found: Match

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr] = ()) -> ir.Value:
        """Adds a node of the standard domain with one output and returns that output."""
        root = self.found.root
        node = ir.Node("", op_type, list(inputs), attributes, name=self.names.node(f"{root.name}_{self.rule}"))
        node.outputs[0].name = self.names.value(f"{root.outputs[0].name}_{self.rule}")
        mark(node, self.rule, *(n.name for n in self.found.nodes))
        self.graph.insert_before(root, node)
        return node.outputs[0]

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Adds an initializer."""
        return ir.add_initializer(self.graph, self.names.value(name), np.ascontiguousarray(array))
