"""The rule that writes group normalization, decomposed to reshapes and instance normalization, back to one operator."""

from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.elementwise import X
from sardonyx.passes.fusion.obstacles import lacking, not_float, static_dims
from sardonyx.passes.rewriting.pattern import Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule


class GroupNorm(Rule):
    """Reshape to (N, groups, rest), instance normalization, and back: operator GroupNormalization-21.

    A candidate: a runtime without a kernel for GroupNormalization runs its definition, which is more nodes than these.
    """

    name = "group-norm"
    summary = "InstanceNormalization of groups of channels, between reshapes, becomes GroupNormalization"
    candidate = True
    pattern: ClassVar[Op] = Op(
        "Reshape",
        Op(
            "InstanceNormalization",
            Op("Reshape", X, Const("grouped"), name="group"),
            Const("scale"),
            Const("bias"),
            name="norm",
        ),
        Var("target"),
        name="restore",
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses groups that are not of whole channels, and reshapes that do not lead back."""
        x = found.values["x"]
        reason = lacking("GroupNormalization", opset) or not_float(x)
        if reason is not None:
            return reason
        if x.shape is None or x.shape.rank() < 3:
            return f"{x.name} is not known to have channels and positions"
        channels = static_dims(x, (1,))
        if isinstance(channels, str):
            return channels
        batch, groups = np.resize(found.constant("grouped"), 2).tolist()
        keeps = (batch == 0 and not ir.attribute(found.named["group"], "allowzero", 0)) or batch == x.shape[0]
        if found.constant("grouped").size != 3 or not keeps:
            return f"{found.values['grouped'].name} does not keep the batch and make groups"
        if groups != found.constant("scale").size or channels[0] % groups:
            return f"{channels[0]} channels are not {groups} whole groups"
        return None if _leads_back(found) else f"the target {found.values['target'].name} is not the shape of {x.name}"

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds GroupNormalization with the parameters of each group repeated for its channels."""
        x = found.values["x"]
        channels = static_dims(x, (1,))
        assert not isinstance(channels, str), "the check refuses unknown channels"
        groups = found.constant("scale").size
        parameters = [
            editor.constant(
                f"{found.values[name].name}_channels", np.repeat(found.constant(name), channels[0] // groups)
            )
            for name in ("scale", "bias")
        ]
        epsilon = ir.attribute(found.named["norm"], "epsilon", 1e-5)
        attributes = [ir.AttrInt64("num_groups", groups), ir.AttrFloat32("epsilon", epsilon)]
        return editor.op("GroupNormalization", [x, *parameters], attributes)


def _leads_back(found: Match) -> bool:
    """Whether the outer reshape has the shape of x: by Shape(x), or because both are static and equal."""
    x, result = found.values["x"], found.root.outputs[0].shape
    shape = found.values["target"].producer()
    if shape is not None and shape.op_type == "Shape" and shape.inputs[0] is x and not shape.attributes:
        return True
    return x.shape is not None and x.shape.is_static() and result is not None and list(result) == list(x.shape)


RULES = (GroupNorm(),)
