"""Image networks of torchvision and timm, made tiny: fewer and narrower blocks, every kind of block kept."""

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

from sardonyx.models.exports.architecture import Architecture, image

CLASSES = 10
_SUPPRESSION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def torchvision() -> Any:
    """Imports torchvision, with or without its compiled operators.

    The registry's builds are for one kind of device; beside a torch for another, their operators do not load, and the
    import fails where it adds shape functions to two of them. Those two are declared first: no network here calls them.
    """
    import torch

    package = importlib.util.find_spec("torchvision")
    if package is not None and package.origin is not None:
        try:
            torch.ops.load_library(Path(package.origin).with_name("_C.so"))
        except OSError:
            for name in ("nms", "qnms"):
                if not hasattr(torch.ops.torchvision, name):
                    torch.library.define(f"torchvision::{name}", _SUPPRESSION)
    return importlib.import_module("torchvision")


def _torchvision(name: str, **settings: Any) -> Any:
    return getattr(torchvision().models, name)(weights=None, num_classes=CLASSES, **settings)


def _timm(name: str, **settings: Any) -> Any:
    torchvision()
    import timm

    return timm.create_model(name, num_classes=CLASSES, **settings)


def _vit(*, fused: bool) -> Any:
    """Returns a vision transformer whose attention is torch's one function, or written out in matrix products."""
    network = _timm("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3)
    for block in network.blocks:
        block.attn.fused_attn = fused
    return network


def _densenet() -> Any:
    return torchvision().models.DenseNet(
        growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=16, num_classes=CLASSES
    )


def _efficientnet() -> Any:
    models = torchvision().models
    blocks, last = models.efficientnet._efficientnet_conf("efficientnet_b0", width_mult=0.25, depth_mult=0.6)
    return models.EfficientNet(blocks, dropout=0.2, last_channel=last, num_classes=CLASSES)


_SMALL_SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("resnet", partial(_timm, "resnet50", layers=(1, 1, 1, 1), channels=(8, 16, 32, 64)), image(64)),
    Architecture("mobilenet-v2", partial(_torchvision, "mobilenet_v2", width_mult=0.25), image(64)),
    Architecture("mobilenet-v3", partial(_torchvision, "mobilenet_v3_small", width_mult=0.25), image(64)),
    Architecture("efficientnet", _efficientnet, image(64)),
    Architecture("densenet", _densenet, image(64)),
    Architecture("shufflenet", partial(_torchvision, "shufflenet_v2_x0_5"), image(64)),
    Architecture("squeezenet", partial(_torchvision, "squeezenet1_1"), image(64)),
    Architecture(
        "googlenet",
        partial(_torchvision, "googlenet", aux_logits=False, transform_input=True, init_weights=False),
        image(64),
    ),
    Architecture("regnet", partial(_timm, "regnetx_002"), image(64)),
    Architecture("ghostnet", partial(_timm, "ghostnet_050"), image(64)),
    Architecture("mobilevit", partial(_timm, "mobilevit_xxs"), image(64)),
    Architecture("levit", partial(_timm, "levit_128s"), image(224)),
    Architecture("convnext", partial(_timm, "convnext_atto", depths=(1, 1, 2, 1), dims=(16, 32, 64, 128)), image(64)),
    Architecture("vit", partial(_vit, fused=True), image(32)),
    Architecture("vit-eager", partial(_vit, fused=False), image(32)),
    Architecture("swin", partial(_timm, "swin_tiny_patch4_window7_224", **_SMALL_SWIN), image(64)),
)
