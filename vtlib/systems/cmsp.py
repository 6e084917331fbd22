"""CMSP (Wu et al. 2020, IJCV), in the spirit of: gates per modality in one trunk, and a loss of similarities."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.contract import SCALE, WEIGHT, loss
from ..losses.geometry import members, to_device_of, unit
from .stages import channels


class Gate(nn.Module):
    """Multiplies each channel of a map by a number from 0 to 1 that its modality learns: sigmoid(a), a = 2 at first."""

    by_modality, decayed, fast = True, False, True

    def __init__(self, channels: int):
        super().__init__()
        self.a = nn.Parameter(torch.full((2, channels), 2.0))

    def forward(self, maps: Tensor, modality: Tensor) -> Tensor:
        """maps (B, C, h, w), modality (B,) -> maps."""
        return maps * self.a.sigmoid()[to_device_of(modality, maps)][:, :, None, None].to(maps.dtype)


def modality_gates(stages: list[list[nn.Module]]) -> None:
    """Put a Gate behind each stage, which one network then shares by nodes, not by layers: set specific_stages=0.
    Source: the abstract's gated extractor. open: where the gates are, and their form.
    """
    for stage in stages:
        stage.append(Gate(channels(stage)))


modality_gates.one_stream = True


@loss(scale=SCALE, gamma=WEIGHT)
def similarity_preserving(
    features: Tensor, labels: Tensor, modality: Tensor, *, scale: float = 16.0, gamma: float = 2.0,
    leave_out: bool = True, preserve: bool = True,
) -> Tensor:  # fmt: skip
    """Focal modality-aware similarity-preserving loss, on cosines of images and centres.
    P^m(j | x) is the softmax over identities of scale * cos(x, c_j^m), m the modality of x, m' the other. Mean over
    images of -log P^m(y) - F log P^m'(y), and with `preserve` + F KL(P^m || P^m'), where F = (1 - P^m'(y))^gamma and
    P^m in KL are constants for the gradient. leave_out: an image is no part of its own centre.
    Source: the abstract. open: all of it.
    Args: features, labels, modality: a batch. Returns: () in nats.
    Raises: ValueError naming an identity that lacks a modality, or with leave_out has one image in it, or is alone.
    """
    member, identities, index = members(features, labels, modality, least=2)
    alike = (labels[:, None] == labels) & (modality[:, None] == modality)
    if leave_out and (few := alike.sum(1) < 2).any():
        name = labels[few][0].item()
        raise ValueError(f"identity {name} has one image in a modality: set leave_out=false")
    x, n, p = unit(features), len(labels), len(identities)
    sums = member.to(x.dtype) @ x  # (2, P, D): a cosine needs no division by the count
    own = to_device_of(modality, x)
    rows = torch.arange(n, device=x.device)
    lengths = sums.square().sum(2)  # (2, P)
    dots = (x @ sums.flatten(0, 1).mT).unflatten(1, (2, p)).transpose(0, 1)  # (2, N, P)
    if leave_out:
        mine = torch.zeros(2, n, p, dtype=torch.bool, device=x.device)
        mine[own, rows, index] = True
        dots, squares = dots - mine.to(x.dtype), lengths[:, None] - mine * (2 * dots - 1)
    else:
        squares = lengths[:, None].expand_as(dots)
    logits = scale * dots / squares.clamp(min=torch.finfo(x.dtype).eps).sqrt()
    same, across = (logits[m, rows].log_softmax(1) for m in (own, 1 - own))  # (N, P)
    right = across[rows, index]
    focus = (1 - right.detach().exp()).clamp(min=0) ** gamma
    value = -same[rows, index] - focus * right
    if preserve:
        kept = same.detach()
        value = value + focus * F.kl_div(across, kept, reduction="none", log_target=True).sum(1)
    return value.mean()
