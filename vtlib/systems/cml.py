"""CML (Ling et al. 2020, ACM MM), in the spirit of: images mixed across modalities, and predictions that agree.

Its third part, the centre-guided metric, is losses.center_metric.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..losses.contract import loss
from ..losses.geometry import centres, members, to_device_of


class ModalityMix(nn.Module):
    """View: mixes of two images of one person, one of each modality, with shares lam and 1 - lam, lam uniform.

    mixup adds the pixels; cutmix puts a rectangle of the second, of the area 1 - lam, into the first. By default each
    image is replaced with probability 1/2 by a mix in which it has the larger share, and nothing is added. With `add` a
    mix follows the batch for each visible image, in the stream of its larger share.
    Source: the abstract, which mixes images of one class. open: how, how often, and lam.
    """

    own_crop, numbers = False, 5  # lam, whether, partner, place down, place right

    def __init__(self, *, form: Literal["mixup", "cutmix"] = "mixup", add: bool = False):
        super().__init__()
        self.form, self.add = form, add

    def forward(
        self, images: Tensor, labels: Tensor, modality: Tensor, numbers: Tensor, second: None
    ) -> tuple[Tensor, Tensor]:
        """images (b, 3, H, W), labels, modality (b,), numbers (b, 5) -> images and their streams."""
        candidates = (labels[:, None] == labels) & (modality[:, None] != modality)  # (b, b)
        if (alone := ~candidates.any(1)).any():
            raise ValueError(f"identity {labels[alone][0].item()} has images of one modality: a mix needs both")
        place = (numbers[:, 2] * candidates.sum(1)).long() + 1
        partner = (candidates.cumsum(1) >= place[:, None]).long().argmax(1)  # the place-th candidate
        lam = numbers[:, 0] if self.add else torch.maximum(numbers[:, 0], 1 - numbers[:, 0])
        share = self.share(lam, numbers[:, 3:], images.shape[2:])
        share, both = to_device_of(share, images), to_device_of(partner, images)
        mixed = share * images + (1 - share) * images[both]
        if self.add:
            visible = modality == 0
            stream = torch.where(lam >= 0.5, 0, 1)[visible]
            return torch.cat([images, mixed[to_device_of(visible.nonzero()[:, 0], images)]]), torch.cat(
                [modality, stream]
            )
        replaced = to_device_of(numbers[:, 1] < 0.5, images)
        return torch.where(replaced[:, None, None, None], mixed, images), modality

    def share(self, lam: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
        """The share of the first image at each pixel, (b, 1, 1, 1) or (b, 1, H, W), for lam (b,) and places (b, 2)."""
        if self.form == "mixup":
            return lam[:, None, None, None]
        inside = []
        for length, place in zip(size, places.T, strict=True):
            side = ((1 - lam).sqrt() * length).round()
            start = (place * (length - side + 1)).floor()[:, None]
            at = torch.arange(length)
            inside.append((at >= start) & (at < start + side[:, None]))
        return 1 - (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(lam.dtype)


@loss()
def modality_kl(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    logits: Tensor,
    of: Literal["classes", "features"] = "classes",
) -> Tensor:
    """Symmetric KL divergence, (KL(q_v || q_t) + KL(q_t || q_v)) / 2, of mean distributions of the two modalities.
    classes: q of an identity and modality is the mean of softmax(logits) over its images; mean over identities.
    features: q of a modality is the mean of softmax(feature) over its images.
    Source: the abstract names a KL divergence of modality distributions on features. open: its form.
    Args: features, labels, modality: a batch; logits (N, C).
    Returns: () in nats. Raises: ValueError naming an identity that lacks a modality.
    """
    if of == "features":
        labels, logits = torch.zeros_like(labels), features
    member, _, index = members(features, labels, modality)
    p, group = logits.log_softmax(-1), index + to_device_of(modality, index) * member.shape[1]  # (N, C), (N,)
    top = p.detach().new_full((member[..., 0].numel(), p.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, group[:, None].expand_as(p), p.detach(), "amax")  # or far logits end as log(0)
    mean = centres((p - top[group]).exp(), member)  # (2, P, C), 1 / count or more
    q = mean.log() + top.view_as(mean)
    return ((q[0].exp() - q[1].exp()) * (q[0] - q[1])).sum(1).mean() / 2
