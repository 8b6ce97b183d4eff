"""Networks of families that the packages lack or have only large, written out small."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sardonyx.models.exports.architecture import SEQUENCES, Architecture, Input, image

FEATURES = 12


class UNet(nn.Module):
    """Two steps down by max pooling and two up, by transposed convolution and by interpolation, with skips."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down = nn.ModuleList([_double(3, width), _double(width, 2 * width)])
        self.bottom = _double(2 * width, 4 * width)
        self.transposed = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up = nn.ModuleList([_double(4 * width, 2 * width), _double(3 * width, width)])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [n, 3, h, w], sides multiples of 4, to [n, 2, h, w]."""
        first = self.down[0](x)
        second = self.down[1](functional.max_pool2d(first, 2))
        x = self.transposed(self.bottom(functional.max_pool2d(second, 2)))
        x = self.up[0](torch.cat([second, x], 1))
        x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.head(self.up[1](torch.cat([first, x], 1))))


def _double(channels: int, filters: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (channels, filters):
        layers += [nn.Conv2d(before, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class Recurrent(nn.Module):
    """Two bidirectional recurrent layers and a linear one.

    Args:
        kind: `nn.LSTM` or `nn.GRU`.
    """

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.recurrent = kind(FEATURES, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [n, length, FEATURES] to log probabilities [n, length, 5]."""
        return functional.log_softmax(self.head(self.recurrent(x)[0]), -1)


class Separator(nn.Module):
    """Encoder, dilated depthwise blocks with group normalization, masks, decoder: the shape of Conv-TasNet."""

    def __init__(self, width: int = 16, sources: int = 2) -> None:
        super().__init__()
        self.sources = sources
        self.encoder = nn.Conv1d(1, width, 16, stride=8, bias=False)
        self.norm = nn.GroupNorm(1, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, 2 * width, 1),
                nn.PReLU(),
                nn.GroupNorm(1, 2 * width),
                nn.Conv1d(2 * width, 2 * width, 3, padding=dilation, dilation=dilation, groups=2 * width),
                nn.PReLU(),
                nn.GroupNorm(1, 2 * width),
                nn.Conv1d(2 * width, width, 1),
            )
            for dilation in (1, 2, 4)
        )
        self.masks = nn.Conv1d(width, sources * width, 1)
        self.decoder = nn.ConvTranspose1d(width, 1, 16, stride=8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [n, 1, samples] to [n, sources, samples]."""
        encoded = functional.relu(self.encoder(x))
        kept = self.norm(encoded)
        for block in self.blocks:
            kept = kept + block(kept)
        batch, width, frames = encoded.shape
        masks = torch.sigmoid(self.masks(kept)).view(batch, self.sources, width, frames)
        separated = (masks * encoded[:, None]).view(batch * self.sources, width, frames)
        return self.decoder(separated).view(batch, self.sources, -1)


class Detector(nn.Module):
    """Focus slices, SiLU blocks, spatial pyramid pooling and boxes decoded on a grid: the shape of a YOLO."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(12, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        self.down = nn.Sequential(nn.Conv2d(width, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (3, 5))
        self.mix = nn.Sequential(nn.Conv2d(48, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.heads = nn.ModuleList(nn.Conv2d(channels, 7, 1) for channels in (width, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [n, 3, 64, 64] to [n, cells, 7]: centre, size, objectness and two scores."""
        fine = self.stem(torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1))
        coarse = self.down(fine)
        coarse = self.mix(torch.cat([coarse, *(pool(coarse) for pool in self.pools)], 1))
        return torch.cat([self._decode(head(y)) for head, y in zip(self.heads, (fine, coarse), strict=True)], 1)

    def _decode(self, y: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = y.shape
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([columns, rows], -1).reshape(1, -1, 2).to(y.dtype)
        y = y.view(batch, channels, -1).permute(0, 2, 1)
        return torch.cat([y[..., :2] + grid, y[..., 2:4].exp(), y[..., 4:].sigmoid()], -1)


class Norms(nn.Module):
    """Normalizations and activations that exporters write out in several nodes, on [n, 8, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(8, 8)])
        self.activations = nn.ModuleList(
            [nn.Mish(), nn.Softplus(), nn.GELU(approximate="tanh"), nn.Hardsigmoid(), nn.ELU(), nn.CELU(), nn.SELU()]
        )
        self.shuffle = nn.Sequential(nn.Conv2d(8, 16, 1), nn.PixelShuffle(2), nn.PixelUnshuffle(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [n, 3, h, w] to [n, 16, h, w]."""
        x = self.conv(x)
        for norm in self.norms:
            x = norm(x) + x
        x = torch.stack([activation(x) for activation in self.activations]).mean(0)
        return functional.normalize(self.shuffle(x), dim=1)


_IMAGE = (Input("image", ("batch", 3, "height", "width")),)
_SIDES = tuple(
    {"batch": batch, "height": height, "width": width}
    for batch, height, width in ((2, 32, 32), (1, 16, 24), (3, 40, 32))
)

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("unet", UNet, _IMAGE, _SIDES),
    Architecture("lstm", lambda: Recurrent(nn.LSTM), (Input("features", ("batch", "length", FEATURES)),), SEQUENCES),
    Architecture("gru", lambda: Recurrent(nn.GRU), (Input("features", ("batch", "length", FEATURES)),), SEQUENCES),
    Architecture(
        "conv-tasnet",
        Separator,
        (Input("mixture", ("batch", 1, "samples")),),
        tuple({"batch": batch, "samples": samples} for batch, samples in ((2, 800), (1, 160), (3, 1600))),
    ),
    Architecture("detector", Detector, image(64)),
    Architecture("norms-and-activations", Norms, _IMAGE, _SIDES),
)
