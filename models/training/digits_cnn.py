"""Trains `digits_cnn`: python -m sardonyx.models.training.digits_cnn."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from sardonyx.models.digits import upscaling
from sardonyx.models.training import digits

SCHEDULE = digits.Schedule(epochs=60, peak_rate=5e-3)


def convolution(channels: int, filters: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Returns Conv without bias, followed by BatchNormalization."""
    conv = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(filters))


def separable(channels: int, filters: int, stride: int) -> nn.Sequential:
    """Returns a depthwise and a pointwise convolution, each with BatchNormalization and Relu."""
    depthwise = convolution(channels, channels, stride=stride, groups=channels)
    return nn.Sequential(depthwise, nn.ReLU(), convolution(channels, filters, kernel=1), nn.ReLU())


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(convolution(channels, channels), nn.ReLU(), convolution(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [n, channels, h, w] to the same shape."""
        return torch.relu(x + self.branch(x))


class DigitsCnn(nn.Module):
    """A residual network with depthwise-separable blocks on 32x32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(1, 32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            Residual(32),
            separable(32, 64, stride=1),
            Residual(64),
            separable(64, 128, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps float32 [n, 1, 32, 32], values 0 to 1, to logits [n, 10]."""
        return self.classifier(self.features(image))


class Upscaled(nn.Module):
    """The network behind its preprocessing, so that small images can be augmented."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("matrix", torch.from_numpy(upscaling()))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps float32 [n, 1, 8, 8], values 0 to 16, to logits [n, 10]."""
        return self.network(self.matrix @ (pixels / 16) @ self.matrix.T)


def export(network: nn.Module, path: Path) -> None:
    """Writes `network` as one ONNX file with a dynamic batch.

    By torch's older exporter, told to leave BatchNormalization where it is: the graph of most published
    convolutional networks. The newer exporter always folds it into Conv.
    """
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, 32, 32),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )


def main() -> None:
    """Trains, exports, writes the samples, and prints the test accuracy."""
    digits.prepare(SCHEDULE.seed)
    data = digits.split()
    network = DigitsCnn()
    behind = Upscaled(network)
    digits.train(behind, data, SCHEDULE)
    export(network, digits.DATA / "digits_cnn.onnx")
    digits.save_samples(data, digits.DATA / "digits_cnn.npz")
    test = torch.from_numpy(data.test.astype(np.float32))[:, None]
    parameters = sum(p.numel() for p in network.parameters())
    score = digits.accuracy(behind, test, data.test_labels)
    print(f"digits_cnn: {parameters} parameters, accuracy {score:.4f} on {len(test)} test images")


if __name__ == "__main__":
    main()
