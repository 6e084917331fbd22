"""A ResNet by name, and the weights that it starts from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .common import data_root, user_path

SHIPPED = Path(__file__).parent / "weights"  # starts that come with the package
STARTED = ("thin", "resnet50")  # the backbones that have a start of SynVT people (pretrain.py)
FAMILY = ("resnet", "resnext", "wide_resnet")  # of torchvision: all have the stages that TwoStreamNet cuts


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


def weights_file(name: str, weights: str) -> Path | None:
    """The file that `weights` names for the backbone `name`; None for "none" and "imagenet", which name none of ours.

    "synvt" (pretrain.py) lies in the package or, where it is too large to ship, in the data root.
    """
    if weights in ("none", "imagenet"):
        return None
    if weights != "synvt":
        return user_path(weights, "weights")
    shipped = SHIPPED / f"synvt_{name}.safetensors"
    return shipped if shipped.is_file() else data_root() / "weights" / shipped.name


def load_backbone(name: str, weights: str) -> nn.Module:
    """A torchvision ResNet by name, or "thin", started from `weights`: none, synvt, imagenet, or a state dict's file.

    Raises: ValueError if it has no such weights or they do not fit; RuntimeError if their download fails;
    FileNotFoundError naming a missing file.
    """
    from torchvision import models  # here, as its import takes seconds that a reader of finished runs need not wait

    names = ("thin", *(n for n in models.list_models(models) if n.startswith(FAMILY)))
    if name not in names:
        raise ValueError(f"backbone {name!r} is not known: choose one of {', '.join(names)}")
    if weights == "imagenet" and name == "thin":
        raise ValueError("the thin backbone has no ImageNet weights: use weights=none or a resnet backbone")
    if weights == "imagenet":
        version = models.get_model_weights(name).IMAGENET1K_V1  # those that the papers had
        try:
            return models.get_model(name, weights=version)
        except OSError as error:
            raise RuntimeError(
                f"the ImageNet weights of {name} could not be downloaded ({error}): fetch {version.url} "
                f"elsewhere and put the file into {torch.hub.get_dir()}/checkpoints, or give its path as weights=PATH, "
                "or train from scratch with weights=none"
            ) from error
    net, file = thin_resnet() if name == "thin" else models.get_model(name, weights=None), weights_file(name, weights)
    if weights == "synvt" and name not in STARTED:
        has = " and ".join(STARTED)
        raise ValueError(f"weights=synvt is made for {has}, not for {name}: set weights=none, imagenet or a file")
    if weights == "synvt" and not file.is_file():
        raise FileNotFoundError(f"{file} is not made yet: python -m vtlib.launch weights make {name}")
    return load_state(net, file, name) if file else net


def load_state(net: nn.Module, path: Path, name: str) -> nn.Module:
    """Fill `net`, the backbone `name`, from a .safetensors or torch file of a ResNet state dict.
    The classifier `fc` and the counters of the batch normalisations may be missing.
    Raises: ValueError naming the file where it is broken, holds no state dict or does not fit; FileNotFoundError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    state = state_dict_of(read_weights(path), path)
    own = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    for k in (k for k in own if not k.endswith("num_batches_tracked")):
        if (x := state.get(k)) is None or x.shape != own[k].shape:
            has = "is missing" if x is None else f"has {tuple(x.shape)}, not {tuple(own[k].shape)}"
            begins = ", ".join(list(state)[:3])
            raise ValueError(f"weights file {path} does not fit {name}: {k} {has} (its names begin with {begins})")
        if not x.is_floating_point() or x.layout != torch.strided or x.is_meta:
            kind = "complex" if x.is_complex() else f"{x.dtype}, {x.layout}"
            raise ValueError(f"weights file {path}: {k} is {kind}: save dense weights of floating point")
        if not torch.isfinite(x).all():
            raise ValueError(f"weights file {path} has NaN or infinite values in {k}: take another file")
    net.load_state_dict({k: state[k] for k in own if k in state}, strict=False)
    return net


def read_weights(path: Path) -> object:
    """What a .safetensors or torch file holds, also NumPy numbers beside its tensors; no code in it is run."""
    kinds = {type(np.dtype(c)) for c in "?bhilqBHILQefdgSU"}
    numpy = [np._core.multiarray.scalar, np._core.multiarray._reconstruct, np.dtype, np.ndarray, *kinds]
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(numpy):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise many kinds for a broken file
        why = f"it is cut, or of another kind: {type(error).__name__}" if path.stat().st_size else "it is empty"
        if "allowed global" in str(error):
            why = "it holds more than tensors and numbers, such as a whole network"
        repair = "save the network's state_dict() with torch.save or safetensors"
        raise ValueError(f"weights file {path} cannot be read ({why}): {repair}") from error


def state_dict_of(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors in the content of a weights file, by the names that a ResNet has.
    They may lie in its `state_dict`, `model_state_dict`, `model` or `net`. What stands before `conv1.weight`, such as
    `module.`, is cut off from all names. Raises: ValueError naming the file where there are none.
    """
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"weights file {path} holds a {type(content).__name__}, not a state dict of names and tensors")
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise ValueError(f"weights file {path} holds no state dict of names and tensors, but {keys}")
    prefixes = (k.removesuffix("conv1.weight") for k in state if k.endswith("conv1.weight"))
    prefix = next((p for p in prefixes if f"{p}bn1.weight" in state and "layer" not in p), "")  # no block's conv1
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
