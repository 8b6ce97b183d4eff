"""What the two digit models share: the split, the augmentation, the training loop, and the export."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.nn import functional

DATA = Path(__file__).resolve().parents[1] / "data"
"""The repository's `models/data`: run the scripts from a checkout."""

TEST_START = 1000
"""The images are in order of writer: a cut without shuffling tests mostly on unseen hands."""
CALIBRATION_STRIDE = 10


@dataclass(frozen=True)
class Split:
    """The digits, cut in two; every tenth training image also serves for calibration.

    Attributes:
        images: uint8 [1000, 8, 8], values 0 to 16, to train on.
        labels: int64 [1000].
        calibration: uint8 [100, 8, 8], some of `images`.
        test: uint8 [n, 8, 8], without images whose pixels occur in `images`.
        test_labels: uint8 [n].
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    calibration: NDArray[np.uint8]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training images.
        peak_rate: Highest learning rate of the one-cycle schedule.
        batch: Images a step.
        seed: Seed of weights, order and augmentation.
    """

    epochs: int
    peak_rate: float
    batch: int = 50
    seed: int = 0


def split() -> Split:
    """Returns the split of scikit-learn's copy of the digits."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    seen = {image.tobytes() for image in images[:TEST_START]}
    test = [index for index in range(TEST_START, len(images)) if images[index].tobytes() not in seen]
    return Split(
        images[:TEST_START],
        digits.target[:TEST_START].astype(np.int64),
        images[:TEST_START:CALIBRATION_STRIDE],
        images[test],
        digits.target[test].astype(np.uint8),
    )


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turns (up to 10 degrees), scales (10 %), shears and shifts (0.8 pixels) each image at random.

    Args:
        images: float32 [n, 1, 8, 8].
        generator: Source of the random numbers.

    Returns:
        float32 [n, 1, 8, 8], values within those of `images`.
    """

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, shear = uniform(0.17), uniform(0.15)
    width, height = 1 + uniform(0.1), 1 + uniform(0.1)
    across = torch.stack([width * angle.cos(), shear - angle.sin(), uniform(0.2)], 1)
    down = torch.stack([angle.sin(), height * angle.cos(), uniform(0.2)], 1)
    grid = functional.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(network: torch.nn.Module, data: Split, schedule: Schedule) -> None:
    """Trains `network`, which takes float32 [n, 1, 8, 8] with values 0 to 16 in training mode.

    AdamW with a one-cycle learning rate and label smoothing, on one thread so that sums keep their order.
    """
    generator = torch.Generator().manual_seed(schedule.seed)
    images = torch.from_numpy(data.images).float()[:, None]
    labels = torch.from_numpy(data.labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.peak_rate, weight_decay=0.05)
    steps = schedule.epochs * (len(images) // schedule.batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.peak_rate, total_steps=steps)
    network.train()
    for epoch in range(schedule.epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(schedule.batch):
            loss = functional.cross_entropy(
                network(augment(images[chosen], generator)), labels[chosen], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            total += loss.item() * len(chosen)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}/{schedule.epochs}: loss {total / len(images):.4f}", flush=True)
    network.eval()


def prepare(seed: int) -> None:
    """Makes torch deterministic: seeds, one thread, deterministic kernels."""
    random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def save_samples(data: Split, path: Path) -> None:
    """Writes calibration images, test images and test labels, all uint8, as one compressed .npz."""
    np.savez_compressed(path, calibration=data.calibration, test=data.test, test_labels=data.test_labels)


def accuracy(network: torch.nn.Module, inputs: torch.Tensor, labels: NDArray[np.uint8]) -> float:
    """Returns the share of `inputs` whose largest logit is at the label."""
    with torch.no_grad():
        predicted = network(inputs).argmax(1).numpy()
    return float((predicted == labels).mean())
