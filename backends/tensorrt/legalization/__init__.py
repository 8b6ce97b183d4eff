"""Legalization: rewriting a graph, also one that another tool quantized, to what TensorRT takes."""
