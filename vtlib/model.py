"""The networks of S1 and S2 (see losses/__init__.py): stages per modality, a shared trunk, a neck or part heads."""

from collections.abc import Callable, Sequence
from itertools import chain
from math import lcm
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import load_backbone
from .losses.contract import at_least_single
from .losses.geometry import to_device_of


class Output(NamedTuple):
    """What the network gives for a batch of B images and C identities; a part head cuts an image into S stripes."""

    pooled: tuple[Tensor, ...]  # what metric losses read: (B, D) before the BN neck, or (B, S * d) of each part head
    local: tuple[Tensor | None, ...]  # (B, S, d) stripe features of each part head; (None,) without parts
    features: Tensor  # (B, D) the retrieval feature
    logits: Tensor  # (B, C), or (B, S, C) of the S stripes of all part heads


class PositionAttention(nn.Module):
    """Position attention, S1 Eq. 1-2: E_j = alpha * sum_i S_ji D_i + A_j, S_ji = softmax_i(B_i . C_j).
    Three 1x1 convolutions give B, C, D; no 1/sqrt(d); alpha starts at 0, so that the module starts as the identity.
    open: `reduction` divides the width of B and C (paper: 1; dual-attention code often 8).
    """

    fast = True

    def __init__(self, channels: int, reduction: int = 1):
        super().__init__()
        if channels % reduction:
            raise ValueError(f"attention_reduction {reduction} does not divide the {channels} channels of stage 1")
        self.b, self.c = (nn.Conv2d(channels, channels // reduction, 1) for _ in range(2))
        self.d = nn.Conv2d(channels, channels, 1)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). Fused, for contiguous inputs only: memory grows with H * W, not its square."""
        b, c, d = (conv(x).flatten(2).mT[:, None].contiguous() for conv in (self.b, self.c, self.d))  # (B, 1, H * W, C)
        context = F.scaled_dot_product_attention(query=c, key=b, value=d, scale=1.0)
        return self.alpha * context[:, 0].mT.reshape(x.shape) + x

    def attention_map(self, x: Tensor) -> Tensor:
        """S itself, (B, N, N) for N = H * W, its rows j sum to 1: to look at, as it takes 27 MB an image at 288x144."""
        return (self.c(x).flatten(2).mT @ self.b(x).flatten(2)).softmax(-1)


class GeM(nn.Module):
    """Generalised-mean pooling (B, C, H, W) -> (B, C): mean(x^p)^(1/p). Source: Radenovic et al. 2018, Eq. 3.
    differs: public code adds 1e-12 under the root, a floor of 1e-4 for p = 3 and of 0.063 for p = 10; this adds none.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        x = at_least_single(x).clamp(min=1e-6)
        top = x.detach().amax((2, 3), keepdim=True)  # divided out first, since x^10 leaves the range of float32
        return (x / top).pow(self.p).mean((2, 3)).pow(1 / self.p) * top[..., 0, 0]


class StripeLinear(nn.Module):
    """A linear map of its own for each of S stripes: (B, S, in) -> (B, S, out). On a pooled map, a 1x1 convolution."""

    def __init__(self, stripes: int, inputs: int, outputs: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(stripes, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(stripes, 1, outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        out = x.transpose(0, 1) @ self.weight.mT  # (S, B, out)
        return (out if self.bias is None else out + self.bias).transpose(0, 1)


class PartHead(nn.Module):
    """S horizontal stripes of a map: each is pooled, then 1x1 convolution + BN + ReLU, and a classifier of its own.
    Source: S2 section 3.1 (three stripes of 512, six of 256), after PCB (Sun et al. 2018, ECCV); HC-Tri has the six.
    open: every stripe has its own convolution, as in PCB.
    """

    def __init__(self, channels: int, stripes: int, width: int, num_classes: int, pool: nn.Module):
        super().__init__()
        self.stripes, self.pool = stripes, pool
        self.reduce = StripeLinear(stripes, channels, width, bias=False)
        self.norm = nn.BatchNorm1d(stripes * width)
        self.classifier = StripeLinear(stripes, width, num_classes, bias=True)
        nn.init.normal_(self.reduce.weight, std=(2 / width) ** 0.5)  # Kaiming, fan out: as the convolutions of a ResNet
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> whole (B, S * d), stripes (B, S, d), logits (B, S, classes). H must divide by S."""
        rows = maps.unflatten(2, (self.stripes, -1)).transpose(1, 2)  # (B, S, C, H / S, W)
        pooled = at_least_single(self.pool(rows.flatten(0, 1))).unflatten(0, rows.shape[:2])  # (B, S, C)
        whole = F.relu(self.norm(self.reduce(pooled).flatten(1)))
        local = whole.unflatten(1, (self.stripes, -1))
        return whole, local, self.classifier(local)


class Trunk(nn.Sequential):
    """Modules one after another; a module with the attribute by_modality is called with the rows' modality, too."""

    def forward(self, x: Tensor, modality: Tensor | None = None) -> Tensor:
        """maps (B, C, h, w), modality (B,) -> maps."""
        for module in self:
            x = module(x, modality) if getattr(module, "by_modality", False) else module(x)
        return x


class TwoStreamNet(nn.Module):
    """Two-stream ResNet: the first stages (and attention behind stage 1) once per modality, all that follows shared.
    specific_stages: 2 gives each modality a stage 0 (conv1, bn1) and a stage 1, as S1, S2 and HC-Tri have it; 1 only a
    stage 0, as AGW and what builds on it; 3 as MMD-ReID; 4 as MSR; 0 none, as the one-stream network of Wu et al. 2017.
    Behind stage 4 come pooling and a batch normalisation (the BN neck), or part heads (stripes, width, share): their
    L2-normalised features, each times its share (S2: 0.6 and 0.4), are the retrieval feature side by side.
    Source: S1 section 3.1 and Figure 1, S2 section 3.1 and Figure 2; neck: Luo et al. 2019. open: last stride 1, GeM
    pooling with p = 3, S2's features normalised before their shares.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",  # this and weights: as load_backbone()
        weights: str = "none",
        attention: bool = True,  # position attention behind stage 1
        attention_reduction: int = 1,  # divides the channels of stage 1
        pooling: str = "gem",  # or "avg"
        gem_p: float = 3.0,
        last_stride: int = 1,  # of stage 4, 1 or 2
        parts: Sequence[tuple[int, int, float]] = (),  # (stripes, width, share) of each part head
        specific_stages: int = 2,  # 0 to 4
        change: Callable[[list[list[nn.Module]]], None] = list,  # adds modules of other systems to stages()
        head: Callable[[int, int, nn.Module], nn.Module] | None = None,  # (channels, num_classes, pool) -> what stands
        # in the place of pooling, neck and classifier: it has widths and dim, and gives an Output for (maps, modality)
    ):
        super().__init__()
        first, *others = nets = [load_backbone(backbone, weights) for _ in range(2 if specific_stages else 1)]
        for other in others:
            other.load_state_dict(first.state_dict())  # both streams start alike, also without weights
        if last_stride == 1:  # the last map is then twice as high and wide
            for convolution in (m for m in first.layer4[0].modules() if isinstance(m, nn.Conv2d)):
                convolution.stride = (1, 1)
        by_stage = [stages(net, attention, attention_reduction) for net in nets]
        for modules in by_stage:
            change(modules)
        streams = [nn.Sequential(*chain(*modules[:specific_stages])) for modules in by_stage if specific_stages]
        self.specific, self.shared = nn.ModuleList(streams), Trunk(*chain(*by_stage[0][specific_stages:]))
        pool = GeM(gem_p) if pooling == "gem" else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        channels = first.fc.in_features
        self.num_classes, self.shares = num_classes, [share for _, _, share in parts]
        self.heads = nn.ModuleList(PartHead(channels, s, width, num_classes, pool) for s, width, _ in parts)
        self.widths = [s * width for s, width, _ in parts] or [channels]  # of what metric losses read
        self.dim = sum(self.widths)  # of the retrieval feature
        self.head = head(channels, num_classes, pool) if head else None
        if head:
            self.widths, self.dim = self.head.widths, self.head.dim
        elif not parts:
            self.pool, self.neck = pool, nn.BatchNorm1d(channels)
            self.neck.bias.requires_grad_(False)
            self.classifier = nn.Linear(channels, num_classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.001)
        for norm in (m for m in self.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
            norm.num_batches_tracked = None  # a count of steps that nothing reads, and an operator each in every step

    def forward(self, images: Tensor, modality: Tensor) -> Output:
        """images (B, 3, H, W) normalised float; modality (B,), 0 visible, 1 thermal, any order, one or both.
        Keep modality on the CPU, so that a GPU does not wait. Under autocast only the maps are of low precision.
        """
        maps = self.shared(self.streams(images, modality), modality)  # (B, D, h, w)
        if any(maps.shape[2] % head.stripes for head in self.heads):
            raise ValueError(stripes_do_not_fit(images.shape[2], maps.shape[2], [head.stripes for head in self.heads]))
        with torch.autocast(maps.device.type, enabled=False):
            if self.head:
                return self.head(maps, modality)
            if not self.heads:
                pooled = at_least_single(self.pool(maps))
                features = self.neck(pooled)
                return Output((pooled,), (None,), features, self.classifier(features))
            whole, local, logits = zip(*(head(maps) for head in self.heads), strict=True)
            weighted = [share * F.normalize(x, dim=1) for share, x in zip(self.shares, whole, strict=True)]
            return Output(whole, local, torch.cat(weighted, 1), torch.cat(logits, 1))

    def fresh_parameters(self) -> list[nn.Parameter]:
        """What no weights of a backbone fill: all behind stage 4, and modules with the attribute `fast`."""
        behind = [self.head] if self.head else self.heads or (self.neck, self.classifier)
        return [p for m in (*behind, *(m for m in self.modules() if getattr(m, "fast", False))) for p in m.parameters()]

    def streams(self, images: Tensor, modality: Tensor) -> Tensor:
        """The modality-specific stages: (B, 3, H, W) -> their maps (B, C, h, w), rows in the order of the batch."""
        if not self.specific:
            return images
        order = modality.argsort(stable=True)  # visible images first
        in_order = bool((modality[1:] >= modality[:-1]).all())  # as the sampler gives them: nothing is copied
        images = images if in_order else images[to_device_of(order, images)]
        halves = images.tensor_split([int((modality == 0).sum())])
        maps = torch.cat([stream(half) for stream, half in zip(self.specific, halves, strict=True) if len(half)])
        return maps if in_order else maps[to_device_of(order.argsort(), maps)]


def stages(net: nn.Module, attention: bool, reduction: int) -> list[list[nn.Module]]:
    """The modules of stages 0 to 4 of a ResNet; position attention, where asked for, ends stage 1."""
    first = [net.layer1, *([PositionAttention(net.layer2[0].conv1.in_channels, reduction)] if attention else [])]
    return [[net.conv1, net.bn1, net.relu, net.maxpool], first, [net.layer2], [net.layer3], [net.layer4]]


def stripes_do_not_fit(height: int, rows: int, stripes: list[int]) -> str:
    """The sentence for an input whose last map of `rows` rows cannot be cut into these numbers of stripes."""
    stride, whole = 1 << (-(-height // rows) - 1).bit_length(), lcm(*stripes)
    near = stride * whole * max(1, round(rows / whole))
    names = " and ".join(map(str, stripes))
    return f"an input {height} pixels high gives a map of {rows} rows, which {names} stripes do not divide: try {near}"
