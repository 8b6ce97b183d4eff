"""The quantization passes."""
