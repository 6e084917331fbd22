"""DDAG (Ye et al. 2020, ECCV): attention among parts of the body, and among the images of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.contract import FRACTION, Range, at_least_single, check_option
from ..losses.geometry import to_device_of
from ..model import Output
from .learned import learned


class PartAttention(nn.Module):
    """Head: intra-modality weighted-part aggregation. Of parts x_i, horizontal thirds of the map, each pooled:
    A = softmax_j(u(x_i) . v(x_j)), r_i = sum_j A_ij w(x_j), c = sum_i softmax(theta)_i r_i; the retrieval feature is
    BN2(g + c) with g behind the BN neck. One classifier reads g and BN2(g + c): logits (B, 2, C).
    Source: public code, which has BN2 and gives g, not the pooled feature, where the paper gives BN(f) + c.
    """

    fast = True

    def __init__(self, channels: int, num_classes: int, pool: nn.Module, *, parts: int = 3):
        super().__init__()
        self.pool, self.parts = pool, nn.AdaptiveAvgPool2d((parts, 1))
        self.u, self.v, self.w = (nn.Linear(channels, channels) for _ in range(3))
        self.theta = nn.Parameter(torch.full((parts,), 1 / parts))
        self.neck, self.norm = nn.BatchNorm1d(channels), nn.BatchNorm1d(channels)
        self.classifier = nn.Linear(channels, num_classes, bias=False)
        for norm in (self.neck, self.norm):
            nn.init.normal_(norm.weight, 1, 0.01)
            norm.bias.requires_grad_(False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.widths, self.dim = [channels], channels

    @staticmethod
    def check(parts: int = 3) -> None:
        """Raises: ValueError for a number of parts out of range."""
        check_option("parts", parts, int, Range(1, 64))

    def forward(self, maps: Tensor, modality: Tensor) -> Output:
        """maps (B, C, h, w) -> Output with features (B, C)."""
        maps = at_least_single(maps)
        pooled = self.pool(maps)
        plain = self.neck(pooled)
        features = self.norm(plain + self.context(maps))
        return Output((pooled,), (None,), features, self.classifier(torch.stack([plain, features], 1)))

    def context(self, maps: Tensor) -> Tensor:
        """c (B, C) of maps (B, C, h, w)."""
        x = self.parts(maps)[..., 0].mT  # (B, parts, C)
        attention = (self.u(x) @ self.v(x).mT).softmax(2)
        return self.theta.softmax(0) @ (attention @ self.w(x))


@learned(heads=Range(1, 64), hidden=Range(1, 10_000), dropout=FRACTION)
class GraphAttention(nn.Module):
    """Cross-modality graph attention: identities from a graph of the batch, in which images of one person are joined.

    A layer is h_i = sum_j alpha_ij W x_j with alpha the softmax over neighbours j of LeakyReLU(a1 . W x_i + a2 . W
    x_j), of slope 0.2. `heads` layers of `hidden` columns, each with an ELU, stand side by side; a last one gives the
    classes, with an ELU; the loss is the mean of -log softmax. Dropout acts on inputs and on alpha.
    Its weight in an epoch is 1 / (1 + the other losses in the epoch before), 0 in the first.
    Called with features (N, D), labels, 0 to C - 1, modality. Returns: () in nats. Source: public code.
    Raises: ValueError if a label is no class.
    """

    fast = True

    def __init__(self, num_classes: int, width: int, *, heads: int = 4, hidden: int = 512, dropout: float = 0.2):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.weight, self.last = (
            nn.Parameter(torch.empty(shape)) for shape in ((heads, width, hidden), (1, heads * hidden, num_classes))
        )
        self.pairs, self.last_pairs = (
            nn.Parameter(torch.empty(shape)) for shape in ((heads, 2, hidden), (1, 2, num_classes))
        )
        for w in (*self.weight.detach(), *self.last.detach()):
            nn.init.xavier_uniform_(w, gain=1.414)
        for a in (*self.pairs.detach(), *self.last_pairs.detach()):
            nn.init.xavier_uniform_(a.view(-1, 1), gain=1.414)

    def forward(self, features: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
        low, high, classes = labels.min().item(), labels.max().item(), self.last.shape[2]
        if low < 0 or high >= classes:
            raise ValueError(f"labels are {low} to {high}: with {classes} classes they must be 0 to {classes - 1}")
        apart = to_device_of(labels[:, None] != labels, features)
        x = self.drop(features)
        hidden = F.elu(self.layer(x, self.weight, self.pairs, apart))  # (heads, N, hidden)
        x = self.drop(hidden.transpose(0, 1).flatten(1))
        logits = F.elu(self.layer(x, self.last, self.last_pairs, apart)[0])
        return F.cross_entropy(logits, to_device_of(labels, features))

    def layer(self, x: Tensor, weight: Tensor, pairs: Tensor, apart: Tensor) -> Tensor:
        """x (N, D), weight (H, D, d), pairs (H, 2, d), apart (N, N): no edge -> (H, N, d)."""
        h = x @ weight.to(x.dtype)
        first, second = (h @ pairs.to(x.dtype).mT).unbind(2)  # (H, N) each
        scores = F.leaky_relu(first[:, :, None] + second[:, None], 0.2).masked_fill(apart, -torch.inf)
        return self.drop(scores.softmax(2)) @ h

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def factor(self, epoch: int, others: float | None) -> float:
        """What multiplies the weight of the loss: see systems/learned.py."""
        return 0.0 if others is None else 1 / (1 + others)
