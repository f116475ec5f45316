"""The loop people write: PIL images, torchvision transforms, a DataLoader with workers, `loss.item()`.

Kind to it: the DataLoader keeps its workers from epoch to epoch, so that starting them is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.attempts import synchronise
from benchmarks.cases import Case
from benchmarks.measurement import Subject
from metalr.tasks import Task

__all__ = ["NUM_LOADERS", "PictureDataset", "make_loader", "people_subject", "transform_of"]

NUM_LOADERS = 2


class PictureDataset(Dataset[tuple[Tensor, int]]):
    """The train split as torchvision's CIFAR10 gives it: arrays in memory, a PIL image an item."""

    def __init__(self, task: Task, transform: Callable[[Any], Tensor]) -> None:
        train = task.splits["train"]
        self.images_NHWC = train.images_BCHW.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        self.labels = train.labels_B.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images_NHWC[index])), self.labels[index]


def transform_of(task: Task) -> Callable[[Any], Tensor]:
    """Crop after padding, mirror, to a tensor, normalise: `standard` augmentation, image by image."""
    from torchvision import transforms

    side = task.image_shape[1]
    steps = [
        transforms.RandomCrop(side, padding=side // 8),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(task.mean_C.tolist(), task.std_C.tolist()),
    ]
    composed: Callable[[Any], Tensor] = transforms.Compose(steps)
    return composed


def make_loader(task: Task, batch_size: int, num_loaders: int) -> DataLoader[tuple[Tensor, int]]:
    """Shuffled batches of the train split from `num_loaders` processes; a last partial one is dropped."""
    return DataLoader(
        PictureDataset(task, transform_of(task)),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=num_loaders,
        persistent_workers=num_loaders > 0,
    )


def people_subject(case: Case, task: Task, num_loaders: int = NUM_LOADERS) -> Subject:
    """One epoch of that loop, on the threads of `case`."""
    device = torch.device(case.device)
    loader = make_loader(task, case.batch_size, num_loaders)
    model = task.make_model(seed=0)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        torch.set_num_threads(case.threads)
        model.train()
        running_loss, correct = 0.0, 0
        for images, labels in loader:
            inputs, targets = images.to(device), labels.to(device)
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            correct += int((outputs.argmax(dim=1) == targets).sum().item())
        synchronise(case.device)

    return epoch
