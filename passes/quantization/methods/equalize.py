"""Cross-layer equalization: channels between two linear layers are brought to like ranges."""

from dataclasses import dataclass

from sardonyx import ir
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.quantization.methods.move_scales import Rule, move_scales


@dataclass(frozen=True)
class Equalize(Pass):
    """Moves scales between linear layers, through activations that let them pass, into the later one's weights.

    Attributes:
        least_gain: Factor by which the estimated error must fall where scales cost nothing.
        least_gain_gated: Factor for SiLU, whose Sigmoid gets a product of its own to undo the scales and leaves the
            integer region: it costs time, and is worth it only where most of a layer's accuracy is at stake.
    """

    name = "equalize"
    summary = "bring the channels between linear layers to like ranges; the float model stays the same"

    least_gain: float = 1.25
    least_gain_gated: float = 3.0

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Moves scales.

        Raises:
            PassError: If the context has no samples.
            DataError: If there are zero samples.
        """
        return move_scales(model, Rule(self.name, True, self.least_gain, self.least_gain_gated), context)
