"""What systems need to know of the stages of a ResNet, each a list of modules."""

from torch import nn


def channels(stage: list[nn.Module]) -> int:
    """The channels of the maps that a stage gives: those of its last batch normalisation."""
    return [m for module in stage for m in module.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features


def stride(stage: list[nn.Module]) -> int:
    """By how much a stage divides height and width: the product of the strides of its first block's main path."""
    first = next(iter(stage[0])) if isinstance(stage[0], nn.Sequential) else stage[0]
    product = 1
    for name in ("conv1", "conv2"):
        product *= getattr(first, name).stride[0]
    return product
