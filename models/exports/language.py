"""Transformers for text, speech and images from `transformers`, made tiny."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from sardonyx.models.exports.architecture import SEQUENCES, Architecture, Input, image

VOCABULARY = 99
_TEXT = ("batch", "length")
_WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TOKENS = Input("input_ids", _TEXT, "tokens", VOCABULARY)
MASK = Input("attention_mask", _TEXT, "mask")


class Named(nn.Module):
    """Calls a network of `transformers` with named arguments and returns one field of what it returns.

    Args:
        network: The network.
        arguments: The names of its arguments, in the order in which they come here.
        field: The field to return.
    """

    def __init__(self, network: nn.Module, arguments: tuple[str, ...], field: str) -> None:
        super().__init__()
        self.network = network
        self.arguments = arguments
        self.field = field

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Maps the inputs to the field's tensor."""
        return self.network(**dict(zip(self.arguments, inputs, strict=True)))[self.field]


class Decoding(nn.Module):
    """One step of a causal decoder with a cache of keys and values, which come and go as tensors.

    Args:
        network: A causal language model of `transformers`.
        layers: How many layers it has.
    """

    def __init__(self, network: nn.Module, layers: int) -> None:
        super().__init__()
        self.network = network
        self.layers = layers

    def forward(self, input_ids: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps int64 [batch, length] and 2 x layers [batch, heads, past, width] to logits and the longer cache."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(self.layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        outputs = self.network(input_ids=input_ids, past_key_values=cache, use_cache=True)
        kept = [tensor for layer in outputs.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return outputs.logits, *kept


def _bert() -> Named:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **_WIDTHS)
    return Named(BertModel(config), ("input_ids", "attention_mask"), "last_hidden_state")


def _gpt2() -> Named:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, use_cache=False)
    return Named(GPT2LMHeadModel(config), ("input_ids", "attention_mask"), "logits")


def _llama_network(*, cached: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=64, num_key_value_heads=2, use_cache=cached, **_WIDTHS
    )
    return LlamaForCausalLM(config)


def _llama() -> Named:
    return Named(_llama_network(cached=False), ("input_ids", "attention_mask"), "logits")


def _llama_cached() -> nn.Module:
    return Decoding(_llama_network(cached=True), _WIDTHS["num_hidden_layers"])


def _t5() -> Named:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, use_cache=False)
    return Named(T5ForConditionalGeneration(config), ("input_ids", "decoder_input_ids"), "logits")


def _clip() -> Named:
    from transformers import CLIPConfig, CLIPModel

    text = {**_WIDTHS, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "eos_token_id": VOCABULARY - 1}
    vision = {**_WIDTHS, "image_size": 32, "patch_size": 8}
    network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    return Named(network, ("input_ids", "pixel_values", "attention_mask"), "logits_per_image")


def _whisper() -> Named:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        max_source_positions=32,
        num_mel_bins=16,
    )
    return Named(WhisperEncoder(config), ("input_features",), "last_hidden_state")


def _segformer() -> Named:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 32, 64], num_attention_heads=[1, 2, 4, 8], decoder_hidden_size=32
    )
    return Named(SegformerForSemanticSegmentation(config), ("pixel_values",), "logits")


def _written_out(build: Callable[[], Named]) -> Named:
    """Returns the same network with attention in matrix products and a softmax instead of torch's one function."""
    named = build()
    named.network.set_attn_implementation("eager")
    return named


def _cache(layers: int) -> tuple[Input, ...]:
    shape = ("batch", 2, "past", 8)
    return tuple(Input(f"past_{part}_{layer}", shape) for layer in range(layers) for part in ("key", "value"))


_DECODED = (
    {"batch": 2, "length": 3, "past": 4},
    {"batch": 1, "length": 1, "past": 9},
    {"batch": 3, "length": 5, "past": 2},
)
_TRANSLATION = (TOKENS, Input("decoder_input_ids", ("batch", "decoded"), "tokens", VOCABULARY))
_TRANSLATED = tuple({**sizes, "decoded": sizes["length"] // 2} for sizes in SEQUENCES)

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("bert", _bert, (TOKENS, MASK), SEQUENCES),
    Architecture("gpt2", _gpt2, (TOKENS, MASK), SEQUENCES),
    Architecture("llama", _llama, (TOKENS, MASK), SEQUENCES),
    Architecture("llama-cached", _llama_cached, (TOKENS, *_cache(2)), _DECODED),
    Architecture("t5", _t5, _TRANSLATION, _TRANSLATED),
    Architecture(
        "clip",
        _clip,
        (
            Input("input_ids", ("texts", "length"), "tokens", VOCABULARY),
            *image(32),
            Input("attention_mask", ("texts", "length"), "mask"),
        ),
        tuple({**sizes, "texts": sizes["batch"] + 1} for sizes in SEQUENCES),
    ),
    Architecture("whisper-encoder", _whisper, (Input("input_features", ("batch", 16, 64)),)),
    Architecture("segformer", _segformer, image(64)),
    Architecture("bert-eager", partial(_written_out, _bert), (TOKENS, MASK), SEQUENCES),
    Architecture("gpt2-eager", partial(_written_out, _gpt2), (TOKENS, MASK), SEQUENCES),
    Architecture("llama-eager", partial(_written_out, _llama), (TOKENS, MASK), SEQUENCES),
    Architecture("t5-eager", partial(_written_out, _t5), _TRANSLATION, _TRANSLATED),
)
