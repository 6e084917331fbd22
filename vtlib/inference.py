"""Features of images by a trained network, without gradients: as it is, adapted to their statistics, or centred."""

import copy
from collections.abc import Callable
from functools import wraps

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .data.batches import normalise
from .losses.geometry import unit
from .ranking import feature_rows, identities, numbers_only


def forward_only(call: Callable) -> Callable:
    """A function that runs without gradients and uncompiled: what is compiled expects the shape of a training batch."""

    @wraps(call)
    def eager(*given, **named):
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):  # imports torch._dynamo, so not earlier
            return call(*given, **named)

    return eager


@forward_only
def extract(
    net: nn.Module, pixels: np.ndarray, rows: np.ndarray, modality: np.ndarray, batch: int = 256, *, bar: bool = True
) -> Tensor:
    """L2-normalised retrieval features (n, D) float32 on the CPU, each image once.

    Args: pixels (N, 3, H, W) uint8, may be memory-mapped; rows (n,) into it; modality (n,) of these rows;
        bar: whether to show how far it is.
    Raises: ValueError if there are no rows.
    """
    if not len(rows):
        raise ValueError("there are no images to take features of")
    net.eval()
    device = next(net.parameters()).device
    features = []
    for start in tqdm(range(0, len(rows), batch), "features", leave=False, disable=not bar):
        part = slice(start, start + batch)
        x = normalise(torch.from_numpy(pixels[rows[part]]).to(device))
        out = net(x, torch.tensor(modality[part]))
        features.append(unit(out.features.float()).cpu())
    return torch.cat(features)


def adapted(net: nn.Module, pixels: np.ndarray, rows: np.ndarray, modality: np.ndarray, batch: int = 256) -> nn.Module:
    """A copy of a network whose batch normalisations have the statistics of these images; `net` stays as it was.

    Layer by layer, in the order in which a forward pass calls them: mean and variance, divided by the number of values,
    of all that reaches the layer from these images once the layers before it are adapted. So they are what one forward
    pass of all images at once in training mode would normalise by, however the images are dealt into batches, and the
    copy adapted again is itself. Images go where they always go: a modality's own layers see that modality, shared ones
    see both, each image counting once. Weights, scales and shifts are those of the network. No label is read; who
    searches by it has looked at all test images (protocols.WAYS). As many passes over the images as there are layers.
    Source: Li et al. 2016, Revisiting Batch Normalization For Practical Domain Adaptation (arXiv 1603.04779), Alg. 1.
    open: the paper does not say whether the statistics of a layer are taken behind adapted layers; here they are.

    Args, Raises: as extract().
    """
    net, called, sums = copy.deepcopy(net), {}, []
    layers = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    hooks = [layer.register_forward_pre_hook(lambda layer, _: called.setdefault(layer)) for layer in layers]
    first = np.unique(modality, return_index=True)[1]
    extract(net, pixels, rows[first], modality[first], bar=False)
    for hook in hooks:
        hook.remove()

    def add(_, given: tuple[Tensor]) -> None:
        x = given[0]  # (B, C) or (B, C, H, W)
        variance, mean = (s.double() for s in torch.var_mean(x, [0, *range(2, x.ndim)], correction=0))
        sums.append(x[:, 0].numel() * torch.stack([torch.ones_like(mean), mean, variance + mean.square()]))

    for layer in tqdm(called, "statistics", leave=False):
        with layer.register_forward_pre_hook(add):
            extract(net, pixels, rows, modality, batch, bar=False)
        count, total, squares = sum(sums)
        mean = total / count
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((squares / count - mean.square()).clamp(min=0))
        sums.clear()
    return net


def by_modality(features, pids, modality) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Features (N, D), pids (N,) and modality (N,) int64, checked.

    Raises: ValueError unless there are as many of each, and each modality is 0 (visible) or 1 (thermal).
    """
    features, pids, modality = feature_rows(features), identities(pids), numbers_only(modality, "modality")
    if not len(features) == len(pids) == len(modality):
        lengths = [len(features), len(pids), len(modality)]
        raise ValueError(f"features, pids and modality must be as long as each other, not {lengths}")
    if (odd := ~np.isin(modality, (0, 1))).any():
        raise ValueError(f"modality has the value {modality[odd][0]}: 0 is visible and 1 is thermal")
    return features, pids, modality


def centred(features, modality) -> Tensor:
    """Features (N, D) less the mean of their modality, rows at length 1 again; modality (N,), 0 visible, 1 thermal.

    Whatever is added to all features of a modality alike changes nothing. No label is read; who searches by it has
    looked at all test images (protocols.WAYS).
    Raises: ValueError where nothing is left of a feature, such as that of a modality's only image.
    """
    features, _, modality = by_modality(features, np.zeros(len(features), int), modality)
    left = features.double().clone()  # sums of float32 numbers are exact in it: equal ones leave 0 and no rounding
    for rows in (np.flatnonzero(modality == m) for m in np.unique(modality)):
        left[rows] = left[rows] - left[rows].mean(0)
    if not (left := unit(left)).any(1).all():
        raise ValueError(
            "a feature is the mean of its modality, of which nothing is left when centred: search it plain"
        )
    return left.to(features.dtype)
