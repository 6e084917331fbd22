"""MAC and MACE (Ye et al. 2019, ACM MM; 2020, TIP), in the spirit of: a classifier of each modality."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.contract import FRACTION, WEIGHT
from ..losses.geometry import to_device_of
from .groups import share
from .learned import learned


@learned(collaboration_weight=WEIGHT, slow=FRACTION)
class ModalityClassifiers(nn.Module):
    """Identity losses of two classifiers, one for each modality, on the feature that the shared one reads.

    Of an image, z is the output of the shared classifier, o that of its own modality's, r that of the other's. The loss
    is the mean cross-entropy of o over the visible plus that over the thermal images; with `ensemble`, plus that of
    (z + o) / 2; plus collaboration_weight times the mean of KL(ensemble || o), "ensemble" as in MACE, or of
    KL(o || r), "other" as in MAC. What teaches, the ensemble or r, is a constant for the gradient. slow is the rate at
    which copies of the two classifiers follow them, which then give r, as in MPANet (Wu et al. 2021, CVPR); 0: none.
    Source: the abstracts. open: all equations. The shared classifier has the term `id`.
    Called with features (N, D), labels, 0 to C - 1, modality, logits (N, C). Returns: () in nats.
    Raises: ValueError if a label is no class, or for logits of another shape, as those of several classifiers.
    """

    fast = True

    def __init__(
        self, num_classes: int, width: int, *, ensemble: bool = True,
        collaboration: Literal["ensemble", "other"] = "ensemble", collaboration_weight: float = 1.0, slow: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(0.001 * torch.randn(2, num_classes, width))  # visible, thermal
        self.ensemble, self.collaboration = ensemble, collaboration
        self.collaboration_weight, self.slow = collaboration_weight, slow
        if slow:
            self.register_buffer("copy", self.weight.detach().clone())

    def forward(self, features: Tensor, labels: Tensor, modality: Tensor, *, logits: Tensor) -> Tensor:
        low, high, shape = labels.min().item(), labels.max().item(), (len(labels), self.weight.shape[1])
        if low < 0 or high >= shape[1]:
            raise ValueError(f"labels are {low} to {high}: with {shape[1]} classes they must be 0 to {shape[1] - 1}")
        if logits.shape != shape:
            raise ValueError(f"logits are {tuple(logits.shape)}: modality_classifiers needs those of one, {shape}")
        target, own = (to_device_of(x, features) for x in (labels, modality))
        rows = torch.arange(len(labels), device=features.device)
        outputs = features @ self.weight.mT.to(features.dtype)  # (2, N, C)
        z = outputs[own, rows]
        value = (F.cross_entropy(z, target, reduction="none") * share(modality, features)).sum()
        both = (logits + z) / 2
        if self.ensemble:
            value = value + F.cross_entropy(both, target)
        if self.slow:
            with torch.no_grad():
                self.copy.lerp_(self.weight, self.slow)
                outputs = features @ self.copy.mT.to(features.dtype)
        taught, teacher = z.log_softmax(1), outputs[1 - own, rows].detach().log_softmax(1)
        if self.collaboration == "ensemble":
            taught, teacher = both.detach().log_softmax(1), taught
        apart = F.kl_div(teacher, taught, reduction="batchmean", log_target=True)  # KL(second || first)
        return value + self.collaboration_weight * apart
