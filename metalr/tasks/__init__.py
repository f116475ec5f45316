"""The inner problem: which images, which network, which batches.

* `images`: what every source of images yields, and the cache of decoded ones.
* `parquet`: encoded images in parquet files -> raw images.
* `hub`: CIFAR-10 from a directory of parquet files, or from the Hugging Face Hub.
* `datasets`: every source by name -> raw images.
* `augmentation`: random crop, mirror and cutout of a whole batch on the device.
* `transforms`: the `light` and `strong` augmentation, image by image, by torchvision.
* `networks`: the registry of networks that are trained.
* `task`: splits, normalisation and batches in one object: `make_task`.
"""

from metalr.tasks.augmentation import crop_and_flip, cut_out
from metalr.tasks.datasets import DATASETS, load_dataset
from metalr.tasks.images import DataError
from metalr.tasks.networks import NETWORKS, make_network
from metalr.tasks.splits import SPLITS, Split
from metalr.tasks.task import Task, make_task

__all__ = [
    "DATASETS",
    "NETWORKS",
    "SPLITS",
    "DataError",
    "Split",
    "Task",
    "crop_and_flip",
    "cut_out",
    "load_dataset",
    "make_network",
    "make_task",
]
