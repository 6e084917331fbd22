"""HSME and D-HSME (Hao et al. 2019, AAAI), in the spirit of: identities as directions, then decorrelated."""

import torch
from torch import Tensor, nn

from ..losses.contract import SCALE, WEIGHT, at_least_single, check_option
from ..losses.geometry import unit
from ..model import Output


class Sphere(nn.Module):
    """Head: a linear embedding E of the pooled feature f, and logits scale * cos(E f, W_c) (sphere softmax).

    With `cycles` (D-HSME) the second half of a training is divided into as many cycles of restraint, in which E is
    decorrelated and then kept as it is, and relaxation, in which it learns, or into fewer where it has too few epochs;
    it ends with a restraint. A feature of zeros has logits of 0 and no gradient.
    Source: summaries; sphere softmax: Fan et al. 2018, SphereReID; restraint and relaxation: Sun et al. 2017, SVDNet.
    open: a BN neck before E, without which all f of a small network point in nearly one direction; the width, the
    number of cycles, and when they begin.
    """

    fast = True

    def __init__(
        self,
        channels: int,
        num_classes: int,
        pool: nn.Module,
        *,
        width: int = 512,
        scale: float = 14.0,
        cycles: int = 0,
    ):
        super().__init__()
        check_option("scale", scale, float, SCALE)
        check_option("cycles", cycles, int, WEIGHT)
        self.pool, self.scale, self.cycles = pool, scale, cycles
        self.neck = nn.BatchNorm1d(channels)
        self.neck.bias.requires_grad_(False)
        self.embed = nn.Linear(channels, width, bias=False)
        self.classifier = nn.Linear(width, num_classes, bias=False)
        self.register_buffer("kept", torch.zeros(width, channels))  # E while it is restrained
        self.register_buffer("restrained", torch.zeros((), dtype=torch.bool))
        self.widths, self.dim = [width], width

    def forward(self, maps: Tensor, modality: Tensor) -> Output:
        """maps (B, C, h, w) -> Output with features E f (B, width)."""
        pooled = self.neck(at_least_single(self.pool(maps)))
        embedded = pooled @ self.embedding().mT
        norm = torch.linalg.vector_norm(embedded, dim=1, keepdim=True)
        direction = embedded / norm.masked_fill(norm == 0, torch.inf)  # unit() has a gradient of 1e12 at zeros
        logits = self.scale * direction @ unit(self.classifier.weight).mT
        return Output((embedded,), (None,), embedded, logits)

    def embedding(self) -> Tensor:
        """E (width, channels), as it stands: while it is restrained, momentum and weight decay still move its layer."""
        return torch.where(self.restrained, self.kept, self.embed.weight)

    @torch.no_grad()
    def decorrelate(self) -> None:
        """Turn the embedding so that its rows are orthogonal: all distances and logits stay as they are."""
        u, s, v = torch.linalg.svd(self.embedding().mT.double(), full_matrices=False)  # E^T = U S V^T
        turned, rows = (u * s).mT, len(self.embed.weight)
        weight = torch.zeros(rows, turned.shape[1], dtype=torch.float64, device=turned.device)
        weight[: len(turned)] = turned
        self.embed.weight.copy_(weight)
        self.kept.copy_(weight)
        classes = torch.zeros(len(self.classifier.weight), rows, dtype=torch.float64, device=turned.device)
        classes[:, : v.shape[0]] = self.classifier.weight.double() @ v.mT
        outside = (self.classifier.weight.double().square().sum(1) - classes.square().sum(1)).clamp(min=0).sqrt()
        if v.shape[0] < rows:  # what is orthogonal to all features has no cosine, but counts in the length
            classes[:, v.shape[0]] = outside
        self.classifier.weight.copy_(classes)

    def decorrelation(self) -> float:
        """sum_i g_ii / sum_ij |g_ij| of g = E E^T: 1 where its rows are orthogonal."""
        embedding = self.embedding().detach()
        g = embedding @ embedding.mT
        return (g.diagonal().sum() / g.abs().sum()).item()

    @torch.no_grad()
    def at_epoch(self, epoch: int, epochs: int) -> None:
        """Begin or end a restraint, where this epoch (0-based) does."""
        if not self.cycles:
            return
        last = epochs // 2  # epochs of the second half
        phases = min(2 * self.cycles - 1, last - 1 + last % 2)  # restraint, relaxation, ..., restraint: an odd number

        def restraint(at: int) -> bool:
            done = at - (epochs - last)
            return 0 <= done < last and done * phases // last % 2 == 0

        now, before = restraint(epoch), epoch > 0 and restraint(epoch - 1)
        if now and not before:
            self.decorrelate()
        elif before and not now:
            self.embed.weight.copy_(self.kept)
        self.restrained.fill_(now)
