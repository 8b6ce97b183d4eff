"""Weight-only quantization: activations stay in float, weights become small integers in blocks.

`sites` finds the weights that the target's table takes; `grid` is the arithmetic of blocks; `rounding` and `hqq` choose
scales and zero points from the weights alone, `gptq` also rounds by what samples say (`gram`); `jobs` does the work in
order and remembers results; `forms` writes the nodes; `quantize` is the pass.
"""
