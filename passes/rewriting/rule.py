"""What a rule is: a pattern, a check with reasons, and a rewrite."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.passes.provenance import mark, sources
from sardonyx.passes.rewriting.pattern import AnyOf, Match, Mismatch, Op, match


class Rule(ABC):
    """A rewrite of a pattern to something that computes the same.

    Attributes:
        name: In kebab-case, unique among rules.
        summary: What becomes what.
        pattern: What to look for: a node, or any of several.
        candidate: Whether the rule is applied only where it is asked for: what it makes is measured slower on some
            target, or equals the decomposition only where that does not overflow.
        operator: The standard operator that it makes, where the opset must have it; empty for a rule of any opset.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    pattern: ClassVar[Op | AnyOf]
    candidate: ClassVar[bool] = False
    operator: ClassVar[str] = ""

    def find(self, node: ir.Node) -> Match | Mismatch:
        """Matches the pattern at a node. What a rule leaves out here is no refusal: it was never asked for."""
        return match(self.pattern, node)

    def check(self, found: Match, opset: int) -> str | None:
        """Returns why a match must not be rewritten, as a sentence, or None."""
        return None

    @abstractmethod
    def rewrite(self, found: Match, editor: "Editor") -> ir.Value | Sequence[ir.Value]:
        """Builds the replacement.

        Returns:
            What takes the place of the first of the match's outputs, or one value for each of them.

        Raises:
            RewriteRefusedError: If the replacement turns out to be impossible, before anything was made.
        """

    @contextmanager
    def at_work(self, graph: ir.Graph, model: ir.Model) -> Iterator[None]:
        """Surrounds the time in which the rules are applied to a graph: prepare before the yield, clean up after it.

        Args:
            graph: The graph.
            model: The model it belongs to.
        """
        yield


class RewriteRefusedError(PassError):
    """A rule that finds only while building that it must not rewrite; its message is the reason."""


@dataclass
class Editor:
    """Makes nodes and constants for one rewrite; all edits go through it.

    Attributes:
        graph: The graph of the matched nodes.
        names: Gives names that nothing in the model has.
        rule: The rule's name, noted in the nodes made.
        found: The match; new nodes are put before its root and remember its nodes.
        made: The nodes made so far.
        replaced: What takes the place of values besides the root's outputs, see `replace`.
    """

    graph: ir.Graph
    names: ir.NameAuthority
    rule: str
    found: Match
    made: list[ir.Node] = field(default_factory=list)
    replaced: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)

    def op(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr] = (), *, domain: str = ""
    ) -> ir.Value:
        """Adds a node with one output and returns that output."""
        return self.node(op_type, inputs, attributes, domain=domain)[0]

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr] = (),
        *,
        outputs: int = 1,
        domain: str = "",
        after: ir.Value | None = None,
    ) -> Sequence[ir.Value]:
        """Adds a node and returns its outputs.

        With `after` it is put right behind the node that makes that value instead of before the root, so that nodes
        before the root can use it; all inputs must be there by then.
        """
        node = ir.Node(domain, op_type, list(inputs), attributes, num_outputs=outputs)
        self.adopt(node, after)
        return node.outputs

    def adopt(self, node: ir.Node, after: ir.Value | None = None) -> None:
        """Names a node that is in no graph yet, notes where it comes from, and puts it in its place, as `node` does."""
        root = self.found.root
        node.name = self.names.node(f"{root.name}_{self.rule}")
        for output in node.outputs:
            output.name = self.names.value(f"{root.outputs[0].name}_{self.rule}")
        mark(node, self.rule, *(name for n in self.found.nodes for name in (n.name, *sources(n))))
        self._insert(node, after)
        self.made.append(node)

    def _insert(self, node: ir.Node, after: ir.Value | None) -> None:
        producer = after.producer() if after is not None else None
        if after is None:
            self.graph.insert_before(self.found.root, node)
        elif producer is not None and producer.graph is self.graph:
            self.graph.insert_after(producer, node)
        else:
            self.graph.insert_before(self.graph[0], node)

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Adds an initializer."""
        return ir.add_initializer(self.graph, self.names.value(name), np.asarray(array, order="C"))

    def lazy_constant(
        self, name: str, dtype: ir.DataType, shape: tuple[int, ...], compute: "Callable[[], npt.NDArray[Any]]"
    ) -> ir.Value:
        """Adds an initializer that is computed when it is read, where it is large: see `ir.lazy_initializer`."""
        return ir.lazy_initializer(self.graph, self.names.value(name), dtype, shape, compute)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Lets another value take the place of one that is not an output of the root, as its maker then notes."""
        self.replaced.append((old, new))
        replaced, maker = old.producer(), new.producer()
        if replaced is not None and maker in self.made:
            mark(maker, self.rule, replaced.name, *sources(replaced))
