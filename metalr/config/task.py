"""The inner problem: which images, how many, which network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from metalr.config.section import Count, Fraction, PositiveInt, Section, Seed

__all__ = ["TaskConfig"]


class TaskConfig(Section):
    """The inner problem: which images, how many, which network."""

    dataset: Literal[
        "digits", "breast_cancer", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "synthetic"
    ] = "digits"
    """Source of images: `digits` is embedded (scikit-learn, 1,797 of 8x8), and so is `breast_cancer` (569 rows of a table,
    for the network `mlp`); `synthetic` is made from a seed for tests."""
    num_train: PositiveInt | None = None
    """Images in the `train` split; null takes all that the other splits leave."""
    num_inner_valid: PositiveInt = 150
    """Images the controller may see the loss of, carved from the dataset's train part."""
    num_outer_valid: PositiveInt = 300
    """Images for labels and tuning, carved from the dataset's train part."""
    num_test: PositiveInt | None = None
    """Images in `test`, read once by compare; null takes the whole test part (digits: 360)."""
    image_size: Annotated[int, Field(ge=4)] | None = None
    """Side in pixels after average pooling; null keeps the dataset's own. Must divide the original side."""
    classes: Annotated[tuple[Count, ...], Field(min_length=2)] | None = None
    """Classes that take part, relabelled 0, 1, ... in this order; null: all of the dataset's."""
    label_noise: Fraction = 0.0
    """Fraction of `train` labels replaced by another class drawn uniformly."""
    augmentation: Literal["none", "standard", "light", "strong"] = "none"
    """`standard`: random crop after padding an eighth of the side, and a mirror flip where the classes allow it;
    `light`, `strong`: rotation, colour jitter, shift and scale, `strong` also perspective, grey and erasing."""
    cutout: Count = 0
    """Side in pixels of a square zeroed in each augmented training image; 0 for none."""
    network: Literal[
        "resnet18", "resnet10", "cnn", "cnn_bn", "cnn_gn", "mlp", "mlp_bn", "mlp_ln", "mlp_tanh", "mlp_deep", "transformer",
        "gru", "cnn_fc", "cnn_fc_bn", "cnn_fc_gn", "lenet", "vgg", "vgg_bn", "vit", "swin", "convnext", "mobilenet",
        "shufflenet", "densenet",
    ] = "mlp"  # fmt: skip
    """`resnet18`, `resnet10`: CIFAR stem, torchvision blocks, two or one a stage; `cnn`: three convolutions; `cnn_fc`: as
    many, and a hidden layer over all pixels left; `vgg`: eight, and a hidden layer; `lenet`: LeNet-5; `mlp`: two hidden
    layers, `mlp_deep`: four; `_bn`, `_gn`, `_ln`: the same with batch, group or layer normalisation, `_tanh`: without ReLUs;
    `transformer`, `gru`: one layer over the rows of an image; `vit`, `swin`, `convnext`, `mobilenet`, `shufflenet`,
    `densenet`: torchvision's, with a stem for small images and few layers."""
    width: Annotated[int, Field(ge=8, le=1024)] = 32
    """Channels of the first stage (resnet18: 64 is the standard; mobilenet: 32), units of a hidden layer (an MLP), of a token
    (a transformer), or the growth rate (densenet)."""
    objective: Literal["classify", "regress", "reconstruct"] = "classify"
    """What is learned, and the training loss: `classify`, the class, by cross-entropy; `regress`, a 1 at the class and a 0 at
    the others, `reconstruct`, the normalised image itself, both by mean squared error."""
    dropout: Fraction = 0.0
    """Probability of zeroing a unit before the last layer."""
    split_seed: Seed = 0
    """Seed of the permutation that carves the splits, and of the label noise."""

    @property
    def classifies(self) -> bool:
        """Whether the loss is a cross-entropy; otherwise it is a squared error."""
        return self.objective == "classify"

    @field_validator("classes")
    @classmethod
    def _each_class_once(cls, classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if classes is not None and len(set(classes)) < len(classes):
            raise ValueError(f"{list(classes)} names a class twice")
        return classes
