"""Features of images by a trained network, without gradients: by the network as it is, or adapted, or centred."""

import copy
from collections.abc import Callable
from functools import wraps

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .data.batches import normalise
from .losses.geometry import unit
from .ranking import feature_rows, identities


def forward_only(call: Callable) -> Callable:
    """Decorator: run without gradients and uncompiled, since compiled stages expect the shape of a training batch."""

    @wraps(call)
    def eager(*args, **named):
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):  # imports torch._dynamo, slow
            return call(*args, **named)

    return eager


@forward_only
def extract(
    net: nn.Module, pixels: np.ndarray, rows: np.ndarray, modality: np.ndarray, batch: int = 256, *, bar: bool = True
) -> Tensor:
    """Retrieval features of some images, L2-normalised; the network is put into evaluation mode.

    With the attribute flip_test of the network, the feature of the mirrored image is added to each.

    Args: net; pixels (N, 3, H, W) uint8, may be memory-mapped; rows (n,) into it; modality (n,) of these rows, 0
        visible, 1 thermal; batch: images at once; bar: show a progress bar.
    Returns: (n, D) float32 on the CPU. Raises: ValueError if there are no rows.
    """
    if not len(rows):
        raise ValueError("there are no images to take features of")
    net.eval()
    device = next(net.parameters()).device
    features = []
    for start in tqdm(range(0, len(rows), batch), "features", leave=False, disable=not bar):
        part = slice(start, start + batch)
        x = normalise(torch.from_numpy(pixels[rows[part]]).to(device))
        found = unit(net(x, stream := torch.tensor(modality[part])).features.float())
        if getattr(net, "flip_test", False):
            found = unit(found + unit(net(x.flip(-1), stream).features.float()))
        features.append(found.cpu())
    return torch.cat(features)


def adapted(net: nn.Module, pixels: np.ndarray, rows: np.ndarray, modality: np.ndarray, batch: int = 256) -> nn.Module:
    """A copy of a network whose batch normalisations have the statistics of these images; `net` stays as it was.

    The layers are adapted one by one, in the order in which a forward pass calls them. Each gets the mean and the
    variance (divided by the number of values) of its inputs from all images, with the layers before it adapted already.
    These are the statistics that one forward pass of all images at once in training mode would use; they do not depend
    on the batches, and adapting the copy again changes nothing. A modality's own layers see images of that modality,
    shared layers see all, each image once. Weights, scales and shifts stay those of the network. No label is read, but
    searches with such features have looked at all test images (protocols.WAYS). Each layer takes a pass over them.
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

    def add(_, inputs: tuple[Tensor]) -> None:
        x = inputs[0]  # (B, C) or (B, C, H, W)
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
    """Features (N, D) as a tensor, pids (N,) and modality (N,) as arrays, checked.

    Raises: ValueError unless there are as many of each, and each modality is 0 (visible) or 1 (thermal).
    """
    features, pids, modality = feature_rows(features), identities(pids), identities(modality, "modality", texts=False)
    if not len(features) == len(pids) == len(modality):
        lengths = [len(features), len(pids), len(modality)]
        raise ValueError(f"features, pids and modality must be as long as each other, not {lengths}")
    if (odd := ~np.isin(modality, (0, 1))).any():
        raise ValueError(f"modality has the value {modality[odd][0]}: 0 is visible and 1 is thermal")
    return features, pids, modality


def centred(features, modality) -> Tensor:
    """Features minus the mean of their modality, rows L2-normalised again.

    A vector added to all features of one modality changes nothing in the result. No label is read, but searches with
    such features have looked at all test images (protocols.WAYS).
    Args: features (N, D); modality (N,), 0 visible, 1 thermal. Returns: (N, D) in the type of the features.
    Raises: ValueError where a row becomes zero, such as that of a modality's only image.
    """
    features, _, modality = by_modality(features, np.zeros(len(features), int), modality)
    left = features.double().clone()  # in double precision equal features leave exactly 0, no rounding
    for rows in (np.flatnonzero(modality == m) for m in np.unique(modality)):
        left[rows] = left[rows] - left[rows].mean(0)
    if not (left := unit(left)).any(1).all():
        raise ValueError(
            "a feature is the mean of its modality, of which nothing is left when centred: search it plain"
        )
    return left.to(features.dtype)
