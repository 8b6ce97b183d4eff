"""SmoothQuant: scales move from a normalization's output into the weights of the layers that take it."""

from dataclasses import dataclass

from sardonyx import ir
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.quantization.methods.move_scales import Rule, move_scales


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Moves scales from activations into weights, folded into the constants of the normalization or product before.

    The exponent alpha is searched for each such value; see `sardonyx.passes.quantization.methods.migration`.

    Attributes:
        least_gain: Factor by which the estimated error must fall.
    """

    name = "smooth-quant"
    summary = "move outlier channels of normalized activations into weights; the float model stays the same"

    least_gain: float = 1.1

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Moves scales.

        Raises:
            PassError: If the context has no samples.
            DataError: If there are zero samples.
        """
        return move_scales(model, Rule(self.name, False, self.least_gain, self.least_gain), context)
