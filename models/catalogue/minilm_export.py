"""BERT in torch, to export all-MiniLM-L6-v2. Imported only for the export: it needs torch and safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

_MASKED = -10_000.0
"""What is added to the scores of padding, as in BERT's own code."""


class Layer(nn.Module):
    """A post-norm transformer layer; attributes are named as in the stored weights."""

    def __init__(self, width: int, heads: int, inner: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.mixed = nn.Linear(width, width), nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)
        self.output_norm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Maps x [batch, length, width], mask [batch, 1, 1, length] added to scores, to the shape of x."""
        batch, length, width = x.shape

        def split(y: torch.Tensor) -> torch.Tensor:
            return y.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        scores = split(self.query(x)) @ split(self.key(x)).transpose(-1, -2) / (width // self.heads) ** 0.5
        context = torch.softmax(scores + mask, -1) @ split(self.value(x))
        x = self.attention_norm(self.mixed(context.transpose(1, 2).reshape(batch, length, width)) + x)
        return self.output_norm(self.contract(functional.gelu(self.expand(x))) + x)


class SentenceEncoder(nn.Module):
    """BERT with mean pooling over the tokens that the mask keeps, scaled to unit length."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, epsilon = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.positions = nn.Embedding(config["max_position_embeddings"], width)
        self.types = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.layers = nn.ModuleList(
            Layer(width, config["num_attention_heads"], config["intermediate_size"], epsilon)
            for _ in range(config["num_hidden_layers"])
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Maps two int64 [batch, length] to float32 [batch, width]."""
        positions = self.positions(torch.arange(input_ids.shape[1])[None])
        x = self.norm(self.words(input_ids) + positions + self.types.weight[0])
        kept = attention_mask.to(x.dtype)
        mask = (1 - kept[:, None, None, :]) * _MASKED
        for layer in self.layers:
            x = layer(x, mask)
        mean = (x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True).clamp(min=1e-9)
        return functional.normalize(mean, dim=1)


_STEMS = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_LAYER_STEMS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mixed": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "output_norm": "output.LayerNorm",
}


def export(folder: Path, path: Path) -> None:
    """Writes the sentence encoder as one ONNX file with dynamic batch and length.

    Args:
        folder: Where config.json and model.safetensors are.
        path: The file to write.
    """
    encoder = SentenceEncoder(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    stored = load_file(folder / "model.safetensors")
    encoder.load_state_dict({name: stored[_stored_name(name)] for name in encoder.state_dict()})
    encoder.eval()
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    example = (torch.randint(100, 2000, (2, 16)), torch.ones(2, 16, dtype=torch.int64))
    program = torch.onnx.export(
        encoder,
        example,
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence_embedding"],
        dynamic_shapes=(axes, axes),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    program.save(str(path), external_data=False)


def _stored_name(name: str) -> str:
    """Turns `layers.0.query.weight` into `encoder.layer.0.attention.self.query.weight`."""
    *parts, kind = name.split(".")
    if parts[0] == "layers":
        return f"encoder.layer.{parts[1]}.{_LAYER_STEMS[parts[2]]}.{kind}"
    return f"{_STEMS[parts[0]]}.{kind}"
