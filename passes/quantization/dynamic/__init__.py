"""Dynamic quantization: weights become integers, activations are quantized while the model runs.

`conditions` says which nodes can be, `weights` chooses scales, `forms` writes the nodes; `quantize` is the pass.
"""
