"""Trains `digits_transformer`: python -m sardonyx.models.training.digits_transformer."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sardonyx.models.training import digits

SCHEDULE = digits.Schedule(epochs=120, peak_rate=2e-3)
DROPOUT = 0.1
LEVELS = 17
SIDE = 8
TOKENS = SIDE * SIDE


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [n, tokens, width] to the same shape."""
        n, tokens, width = x.shape

        def split(y: torch.Tensor) -> torch.Tensor:
            return y.view(n, tokens, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
        mixed = torch.softmax(scores, -1) @ value
        return self.output(mixed.transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):
    """A pre-norm transformer layer with a GELU feed-forward network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [n, tokens, width] to the same shape."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.contract(functional.gelu(self.expand(self.norm2(x)))))


class DigitsTransformer(nn.Module):
    """A transformer encoder whose tokens are the 64 pixels and whose vocabulary is their 17 levels."""

    def __init__(self, width: int = 96, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.levels = nn.Embedding(LEVELS, width)
        self.rows = nn.Parameter(0.5 * torch.randn(SIDE, 1, width))
        self.columns = nn.Parameter(0.5 * torch.randn(1, SIDE, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 10)
        with torch.no_grad():
            # Neighbouring levels look alike: a table that starts as a ramp learns from few images.
            ramp = torch.linspace(-1, 1, LEVELS)[:, None] * torch.randn(1, width)
            self.levels.weight.copy_(ramp + 0.02 * torch.randn(LEVELS, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps int64 [n, 64], values 0 to 16, to logits [n, 10]."""
        x = self.levels(tokens) + (self.rows + self.columns).flatten(0, 1)
        return self.classifier(self.norm(self.blocks(x)).mean(1))


class Tokenized(nn.Module):
    """The network behind its preprocessing, so that images can be augmented.

    In training, strokes are made fainter or stronger and pixels noisy: without that, and without dropout, the
    network learns the few writers it sees by heart.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps float32 [n, 1, 8, 8], values 0 to 16, to logits [n, 10]."""
        if self.training:
            strength = 0.8 + 0.5 * torch.rand(len(pixels), 1, 1, 1)
            pixels = (pixels * strength + 0.7 * torch.randn_like(pixels)).clamp(0, LEVELS - 1)
        return self.network(pixels.flatten(1).round().long())


def export(network: nn.Module, path: Path) -> None:
    """Writes `network` as one ONNX file with a dynamic batch, by torch's current exporter.

    The stack traces that the exporter attaches to each node are dropped: they name this machine's folders.
    """
    program = torch.onnx.export(
        network,
        (torch.zeros(2, TOKENS, dtype=torch.int64),),
        input_names=["tokens"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    program.save(str(path), external_data=False)


def main() -> None:
    """Trains, exports, writes the samples, and prints the test accuracy."""
    digits.prepare(SCHEDULE.seed)
    data = digits.split()
    network = DigitsTransformer()
    behind = Tokenized(network)
    digits.train(behind, data, SCHEDULE)
    export(network, digits.DATA / "digits_transformer.onnx")
    digits.save_samples(data, digits.DATA / "digits_transformer.npz")
    test = torch.from_numpy(data.test.astype(np.float32))[:, None]
    parameters = sum(p.numel() for p in network.parameters())
    score = digits.accuracy(behind, test, data.test_labels)
    print(f"digits_transformer: {parameters} parameters, accuracy {score:.4f} on {len(test)} test images")


if __name__ == "__main__":
    main()
