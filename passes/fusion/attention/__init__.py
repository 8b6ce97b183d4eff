"""Fusions of transformers: attention, rotary embedding, Gelu and normalization with what surrounds them."""
