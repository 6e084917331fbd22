"""The networks of both papers: first stages once per modality, a shared trunk, and a BN neck or heads of stripes."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import stripes_do_not_fit
from .files import data_root, user_path
from .losses import at_least_single, to_device_of


class Output(NamedTuple):
    """What the network gives for a batch of B images."""

    pooled: tuple[
        Tensor, ...
    ]  # where the metric losses act: (B, D) before the BN neck, or (B, S * d) of each part head
    local: tuple[Tensor | None, ...]  # (B, S, d) stripe features of each part head; (None,) without parts
    features: Tensor  # (B, D) the retrieval feature
    logits: Tensor  # (B, C), or (B, S, C) of the S stripes of all part heads


class PositionAttention(nn.Module):
    """Position attention, S1 Eq. 1-2: E_j = alpha * sum_i S_ji D_i + A_j, S_ji = softmax_i(B_i . C_j).

    Three 1x1 convolutions give B, C, D; no 1/sqrt(d); alpha starts at 0, so that the module starts as the identity.
    open: `reduction` divides the width of B and C (paper: 1; dual-attention code often 8).
    """

    def __init__(self, channels: int, reduction: int = 1):
        super().__init__()
        if channels % reduction:
            raise ValueError(f"attention_reduction {reduction} does not divide the {channels} channels of stage 1")
        self.b = nn.Conv2d(channels, channels // reduction, 1)
        self.c = nn.Conv2d(channels, channels // reduction, 1)
        self.d = nn.Conv2d(channels, channels, 1)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). Fused: memory grows with H*W, not with its square."""
        # contiguous in C: torch falls back to the explicit (N, N) form without a word where it is not
        b, c, d = (conv(x).flatten(2).mT[:, None].contiguous() for conv in (self.b, self.c, self.d))  # (B, 1, N, C)
        context = F.scaled_dot_product_attention(query=c, key=b, value=d, scale=1.0)
        return self.alpha * context[:, 0].mT.reshape(x.shape) + x

    def attention_map(self, x: Tensor) -> Tensor:
        """S itself, (B, N, N) with rows j that sum to 1: for drawing only, 27 MB an image at 288x144."""
        return (self.c(x).flatten(2).mT @ self.b(x).flatten(2)).softmax(-1)


class GeM(nn.Module):
    """Generalised-mean pooling (B, C, H, W) -> (B, C): mean(x^p)^(1/p). Source: Radenovic et al. 2018, Eq. 3.

    differs: public code adds 1e-12 under the root, which is a floor of 1e-4 for p = 3 and of 0.063 for p = 10; the
    formula has none, nor has this.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        x = at_least_single(x).clamp(min=1e-6)  # x^p leaves the range of half precision, and for p = 10 that of single:
        top = x.detach().amax((2, 3), keepdim=True)  # the largest value goes out first
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


def thin_resnet() -> nn.Module:
    """ResNet with one basic block a stage and 24, 48, 96, 192 channels (0.7 M parameters): a backbone for CPUs."""
    from torchvision.models.resnet import BasicBlock, ResNet

    net = ResNet(BasicBlock, [1, 1, 1, 1])
    net.conv1, net.bn1, net.inplanes = nn.Conv2d(3, 24, 5, 2, 2, bias=False), nn.BatchNorm2d(24), 24
    for stage, (width, stride) in enumerate([(24, 1), (48, 2), (96, 2), (192, 2)], start=1):
        setattr(net, f"layer{stage}", net._make_layer(BasicBlock, width, 1, stride))
    net.fc = nn.Linear(192, 1000)
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return net


SHIPPED = Path(__file__).parent / "weights"  # starts that come with the package
STARTED = ("thin", "resnet50")  # the backbones that have a start of SynVT people (pretrain.py)
# ResNet itself, ResNeXt and Wide ResNet: every one of them has the stages that the two-stream cut needs
FAMILY = ("resnet", "resnext", "wide_resnet")


def weights_file(name: str, weights: str) -> Path | None:
    """The file that `weights` names for a backbone; None for "none" and "imagenet", which are no file of ours.

    "synvt" (pretrain.py) lies in the package, or where it is too large to ship, in the data root.
    """
    if weights in ("none", "imagenet"):
        return None
    if weights != "synvt":
        return user_path(weights, "weights")
    shipped = SHIPPED / f"synvt_{name}.safetensors"
    return shipped if shipped.is_file() else data_root() / "weights" / shipped.name


def load_backbone(name: str, weights: str) -> nn.Module:
    """A torchvision ResNet by name, or "thin", started from `weights`: none, synvt, imagenet, or a state dict's file.

    Raises: ValueError if the weights do not exist for, or do not fit, this backbone; RuntimeError if their download
    fails; FileNotFoundError naming a missing file.
    """
    from torchvision import models  # here, as its import takes seconds that a reader of finished runs need not wait

    known = ("thin", *(n for n in models.list_models(models) if n.startswith(FAMILY)))
    if name not in known:
        raise ValueError(f"backbone {name!r} is not known: choose one of {', '.join(known)}")
    if weights == "imagenet" and name != "thin":
        enum = models.get_model_weights(name)
        try:
            return models.get_model(name, weights=enum.IMAGENET1K_V1)  # those that the papers had
        except OSError as error:
            raise RuntimeError(
                f"the ImageNet weights of {name} could not be downloaded ({error}): fetch {enum.IMAGENET1K_V1.url} "
                f"elsewhere and put the file into {torch.hub.get_dir()}/checkpoints, or give its path as weights=PATH, "
                "or train from scratch with weights=none"
            ) from error
    if weights == "imagenet":
        raise ValueError("the thin backbone has no ImageNet weights: use weights=none or a resnet backbone")
    net = thin_resnet() if name == "thin" else models.get_model(name, weights=None)
    if file := weights_file(name, weights):
        if weights == "synvt" and name not in STARTED:
            has = " and ".join(STARTED)
            raise ValueError(f"weights=synvt is made for {has}, not for {name}: set weights=none, imagenet or a file")
        if weights == "synvt" and not file.is_file():
            raise FileNotFoundError(f"{file} is not made yet: python -m vtlib.launch weights make {name}")
        load_state(net, file, name)
    return net


def load_state(net: nn.Module, path: Path, name: str) -> nn.Module:
    """Fill `net` from a .safetensors or torch file of a ResNet state dict; the classifier `fc` may be missing.

    The state may lie in the file as `state_dict`, `model_state_dict`, `model` or `net`, beside numbers of its training,
    and its names may begin with `module.` or `backbone.`. A batch normalisation's counter of batches may be missing.
    Raises: ValueError naming the file where it is broken, holds no state dict or does not fit; FileNotFoundError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    state = without_prefix(state_dict_of(read_weights(path), path))
    own = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    needed = {k: v for k, v in own.items() if not k.endswith("num_batches_tracked")}
    for k, v in needed.items():
        if k not in state or state[k].shape != v.shape:
            has = f"has {tuple(state[k].shape)}, not {tuple(v.shape)}" if k in state else "is missing"
            begins = ", ".join(list(state)[:3])
            raise ValueError(f"weights file {path} does not fit {name}: {k} {has} (its names begin with {begins})")
        if not state[k].is_floating_point() or state[k].layout != torch.strided or state[k].is_meta:
            kind = "complex" if state[k].is_complex() else f"{state[k].dtype}, {state[k].layout}"
            raise ValueError(f"weights file {path}: {k} is {kind}: save dense weights of floating point")
        if not torch.isfinite(state[k]).all():
            raise ValueError(f"weights file {path} has NaN or infinite values in {k}: take another file")
    net.load_state_dict({k: state[k] for k in own if k in state}, strict=False)
    return net


def read_weights(path: Path) -> object:
    """What a .safetensors or torch file holds, NumPy numbers included; no code in it is run."""
    repair = "save the network's state_dict() with torch.save or safetensors"
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise many kinds for a broken file
        if not path.stat().st_size:
            why = "it is empty"
        elif "allowed global" in str(error):
            why = "it holds more than tensors and numbers, such as a whole network"
        else:
            why = f"it is cut, or of another kind: {type(error).__name__}"
        raise ValueError(f"weights file {path} cannot be read ({why}): {repair}") from error


def numpy_scalars() -> list:
    """What a file needs in order to hold NumPy numbers, such as a best mAP, beside its tensors."""
    import numpy as np

    kinds = {type(np.dtype(c)) for c in "?bhilqBHILQefdgSU"}
    return [np._core.multiarray.scalar, np._core.multiarray._reconstruct, np.dtype, np.ndarray, *kinds]


def state_dict_of(found: object, path: Path) -> dict[str, Tensor]:
    """The tensors by name in what a weights file holds; those of `state_dict`, `model` or `net` where it has one."""
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if isinstance(found, nn.Module) or not isinstance(found, Mapping):
        raise ValueError(f"weights file {path} holds a {type(found).__name__}, not a state dict of names and tensors")
    state = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    if not state:
        keys = ", ".join(map(str, list(found)[:5])) or "nothing"
        raise ValueError(f"weights file {path} holds no state dict of names and tensors, but {keys}")
    return state


def without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as a ResNet has them: what stands before `conv1.weight` is cut off where all stages stand behind it."""
    for name in state:
        prefix = name.removesuffix("conv1.weight")
        if name.endswith("conv1.weight") and f"{prefix}bn1.weight" in state and "layer" not in prefix:
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


class TwoStreamNet(nn.Module):
    """Two-stream ResNet: the first stages (and attention behind stage 1) once per modality, all that follows shared.

    specific_stages is where it is cut. 2: stage 0 (conv1, bn1) and stage 1 per modality, as S1, S2 and HC-Tri have it;
    1: stage 0 alone, as AGW and what builds on it; 3: stages 0 to 2, as MMD-ReID; 0: one stream for both modalities, as
    in the one-stream network of Wu et al. 2017. Behind stage 4 either pooling and a BN neck, or part heads (stripes,
    width, share), whose L2-normalised features stand side by side in the retrieval feature, each times its share (S2:
    0.6 and 0.4).
    Source: S1 section 3.1 and Figure 1, S2 section 3.1 and Figure 2; neck: Luo et al. 2019. open: last stride 1, GeM
    pooling with p = 3, S2's features normalised before their shares.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        weights: str = "none",
        attention: bool = True,
        attention_reduction: int = 1,
        pooling: str = "gem",
        gem_p: float = 3.0,
        last_stride: int = 1,
        parts: Sequence[tuple[int, int, float]] = (),
        specific_stages: int = 2,
    ):
        super().__init__()
        first, *others = nets = [load_backbone(backbone, weights) for _ in range(2 if specific_stages else 1)]
        for other in others:
            other.load_state_dict(first.state_dict())  # both streams start alike, also without weights
        if last_stride == 1:
            remove_stride(first.layer4[0])
        of_nets = [stages(net, attention, attention_reduction) for net in nets]
        cut = specific_stages
        self.specific = nn.ModuleList(nn.Sequential(*chain(*of_net[:cut])) for of_net in of_nets if cut)
        self.shared = nn.Sequential(*chain(*of_nets[0][cut:]))
        pool = GeM(gem_p) if pooling == "gem" else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        channels = first.fc.in_features
        self.num_classes, self.shares = num_classes, [share for _, _, share in parts]
        self.heads = nn.ModuleList(PartHead(channels, s, width, num_classes, pool) for s, width, _ in parts)
        self.widths = [s * width for s, width, _ in parts] or [channels]  # of what metric losses read
        self.dim = sum(self.widths)  # of the retrieval feature
        if not parts:
            self.pool, self.neck = pool, nn.BatchNorm1d(channels)
            self.neck.bias.requires_grad_(False)
            self.classifier = nn.Linear(channels, num_classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor, modality: Tensor) -> Output:
        """images (B, 3, H, W) normalised float; modality (B,), 0 visible, 1 thermal, any order, one or both.

        On a GPU leave modality on the CPU: nothing then waits. Under autocast the maps are of low precision, all that
        is pooled from them is float32.
        """
        maps = self.shared(self.streams(images, modality))  # (B, D, h, w)
        with torch.autocast(maps.device.type, enabled=False):
            return self.embed(images, maps)

    def fresh_parameters(self) -> list[nn.Parameter]:
        """What no weights of a backbone fill: attention, and all behind stage 4."""
        attention = [m for m in self.modules() if isinstance(m, PositionAttention)]
        behind = [self.heads] if self.heads else [self.neck, self.classifier]
        return [p for module in (*attention, *behind) for p in module.parameters()]

    def embed(self, images: Tensor, maps: Tensor) -> Output:
        """Pooling, neck or part heads, classifiers."""
        if not self.heads:
            pooled = at_least_single(self.pool(maps))
            features = self.neck(pooled)
            return Output((pooled,), (None,), features, self.classifier(features))
        stripes = [head.stripes for head in self.heads]
        if any(maps.shape[2] % n for n in stripes):
            raise ValueError(stripes_do_not_fit(images.shape[2], maps.shape[2], stripes))
        whole, local, logits = zip(*(head(maps) for head in self.heads), strict=True)
        weighted = [share * F.normalize(x, dim=1) for share, x in zip(self.shares, whole, strict=True)]
        return Output(whole, local, torch.cat(weighted, 1), torch.cat(logits, 1))

    def streams(self, images: Tensor, modality: Tensor) -> Tensor:
        """The modality-specific stages: (B, 3, H, W) -> their maps (B, C, h, w), rows in the order of the batch."""
        if not self.specific:
            return images
        order, visible = modality.argsort(stable=True), int((modality == 0).sum())
        sorted_already = bool((modality[1:] >= modality[:-1]).all())  # as the sampler gives them: nothing is copied
        images = images if sorted_already else images[to_device_of(order, images)]
        halves = (images[:visible], images[visible:])
        maps = torch.cat([stream(half) for stream, half in zip(self.specific, halves, strict=True) if len(half)])
        return maps if sorted_already else maps[to_device_of(order.argsort(), maps)]


def stages(net: nn.Module, attention: bool, reduction: int) -> list[list[nn.Module]]:
    """The modules of stages 0 to 4 of a ResNet; position attention, where asked for, ends stage 1."""
    last = net.layer1[-1]
    channels = (last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels
    tail = [PositionAttention(channels, reduction)] if attention else []
    first = [[net.conv1, net.bn1, net.relu, net.maxpool], [net.layer1, *tail]]
    return [*first, [net.layer2], [net.layer3], [net.layer4]]


def remove_stride(block: nn.Module) -> None:
    """Let the first block of stage 4 keep its resolution: the last map is twice as high and wide."""
    for m in block.modules():
        if isinstance(m, nn.Conv2d):
            m.stride = (1, 1)
