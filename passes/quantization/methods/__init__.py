"""Accuracy methods: what makes an INT8 model better before, while and after its numbers are chosen.

`equalize` and `smooth` move scales between layers; `weight_scales`, `rounding` and `adaround` choose the integers of a
weight; `bias` takes back the mean error; `activations` chooses the range of an activation by what its users make of it.
`selection` names them, `presets` says which suit which kind of model, and `refine` applies them.
"""
