"""Two-stream network: what is shared, what is not, weights, and errors in one sentence."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from vtlib import backbones, model, pretrain
from vtlib.config import experiment
from vtlib.methods import METHODS
from vtlib.model import TwoStreamNet
from vtlib.systems import LOSSES

IMAGES, MODALITY = torch.rand(6, 3, 48, 24), torch.tensor([0, 1, 0, 1, 1, 0])


def net(**options):
    torch.manual_seed(0)
    return TwoStreamNet(5, "thin", **options)


def test_output_shapes_and_rows_keep_their_order():
    made = net().eval()
    out = made(IMAGES, MODALITY)
    assert out.pooled[0].shape == out.features.shape == (6, 192) and out.logits.shape == (6, 5)
    assert out.local == (None,)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    torch.testing.assert_close(made(IMAGES[order], MODALITY[order]).features, out.features[order])
    for m in (0, 1):  # one modality alone, as a retrieval has it
        rows = m == MODALITY
        torch.testing.assert_close(made(IMAGES[rows], MODALITY[rows]).features, out.features[rows])


def test_streams_start_alike_and_learn_apart_while_the_trunk_is_shared():
    made = net(attention=False)
    alike = zip(made.specific[0].parameters(), made.specific[1].parameters(), strict=True)
    assert all(torch.equal(a, b) and a is not b for a, b in alike)
    made(IMAGES[MODALITY == 0], MODALITY[MODALITY == 0]).logits.sum().backward()
    assert made.specific[0][0].weight.grad.abs().sum() > 0 and made.specific[1][0].weight.grad is None
    assert all(p.grad is not None for p in made.shared.parameters())


def test_attention_sits_in_each_stream_with_its_own_weights_and_starts_as_the_identity():
    plain, attentive = net(attention=False), net(attention=True)
    assert all(isinstance(stream[-1], model.PositionAttention) for stream in attentive.specific)
    attentive.load_state_dict(plain.state_dict(), strict=False)
    a, b = (n.eval()(IMAGES, MODALITY).features for n in (plain, attentive))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
@pytest.mark.parametrize("attention", [False, True])
def test_each_modality_has_as_many_stages_of_its_own_as_asked_for(cut, attention):
    made = net(attention=attention, specific_stages=cut)
    made(IMAGES[MODALITY == 1], MODALITY[MODALITY == 1]).logits.sum().backward()
    stage = {}  # of every weight of the backbone: of which streams it has a gradient
    for name, parameter in made.named_parameters():
        if name.startswith("specific"):
            stage.setdefault(int(name.split(".")[1]), []).append(parameter.grad is not None)
    assert set(stage) == ({0, 1} if cut else set())
    assert all(any(grads) == bool(stream) for stream, grads in stage.items())  # thermal images reach stream 1 alone
    assert all(p.grad is not None for n, p in made.shared.named_parameters() if "alpha" not in n)
    kinds = [type(m).__name__ for m in (made.specific[0] if cut else made.shared)]
    assert kinds.count("Sequential") == ((cut - 1) if cut else 4)  # stages behind stage 0
    places = [n for n, m in made.named_modules() if isinstance(m, model.PositionAttention)]
    assert len(places) == attention * (2 if cut >= 2 else 1)
    whole = sum(p.numel() for p in net(attention=False, specific_stages=0).parameters())
    own = sum(p.numel() for stream in made.specific for n, p in stream.named_parameters()) / 2
    assert attention or sum(p.numel() for p in made.parameters()) == whole + own


def test_the_cut_of_every_method_is_that_of_its_paper():
    cuts = {name: experiment("paper", name).specific_stages for name in METHODS}
    one, none = ("agw_base", "agw", "caj", "ddag", "deen"), ("one_stream", "sim", "xiv", "hat", "cmsp")
    others = dict.fromkeys(one, 1) | dict.fromkeys(none, 0) | {"margin_mmd": 3, "msr": 4}
    assert {name: cut for name, cut in cuts.items() if cut != 2} == others


def test_margin_mmd_means_the_same_at_each_profile():
    """1.4 is 0.905 of MMD^2 where all images of a person are equally far apart, at K = 4."""
    for profile, margin in (("quick", 2.8), ("cpu", 2.8), ("gpu", 1.4), ("paper", 1.4)):
        made = experiment(profile, "margin_mmd")
        k = made.images_per_identity
        features = torch.eye(2 * k, dtype=torch.float64)  # one person, all distances equal
        found = LOSSES["margin_mmd"](features, torch.zeros(2 * k).long(), (torch.arange(2 * k) >= k).long(), margin=0.0)
        assert made.losses["margin_mmd"]["margin"] == margin
        assert margin / found.item() == pytest.approx(1.4 / 1.547, abs=2e-3)


def test_fresh_parameters_are_those_that_no_backbone_has():
    for options in ({}, {"parts": [(3, 8, 1.0)]}, {"specific_stages": 0}, {"attention": False}):
        made = net(**options)
        names = {id(p): n for n, p in made.named_parameters()}
        fresh = {names[id(p)] for p in made.fresh_parameters()}
        first = ("classifier.", "neck.", "heads.")
        assert fresh == {n for n in names.values() if n.startswith(first) or n.split(".")[-2] in "bcd" or "alpha" in n}


def saved(kind, folder):
    """A weights file as people have them."""
    whole, state = backbones.thin_resnet(), backbones.thin_resnet().state_dict()
    if kind == "half of a file":
        torch.save(state, folder / "w.pth")
        (folder / "w.pth").write_bytes((folder / "w.pth").read_bytes()[:5000])
    elif kind == "empty file":
        (folder / "w.pth").write_bytes(b"")
    elif kind == "half of a safetensors":
        save_file(state, folder / "w.pth")
        (folder / "w.pth").rename(folder / "w.safetensors").write_bytes((folder / "w.safetensors").read_bytes()[:500])
        return folder / "w.safetensors"
    elif kind == "text":
        (folder / "w.pth").write_text("<html>404</html>")
    else:
        content = {
            "whole network": whole,
            "a list": [1, 2],
            "no tensors": {"epoch": 3, "lr": 0.1},
            "NaN": {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in state.items()},
            "another network": {f"blocks.{k}": v for k, v in state.items() if "layer" in k},
            "plain": state,
            "model_state_dict": {"model_state_dict": state, "optimizer_state_dict": {}},
            "complex": {k: v.to(torch.complex64) if v.is_floating_point() else v for k, v in state.items()},
            "whole numbers": {k: v.to(torch.int8) for k, v in state.items()},
            "sparse": {k: v.to_sparse() if v.is_floating_point() else v for k, v in state.items()},
            "state_dict": {
                "state_dict": state,
                "epoch": 3,
                "mAP": np.float64(0.5),
                "best": np.int64(4),
                "at": np.ones(2),
            },
            "model": {"model": state},
            "DataParallel": {f"module.{k}": v for k, v in state.items()},
            "nested DataParallel": {"net": {f"module.backbone.{k}": v for k, v in state.items()}, "optimizer": None},
            "no counters": {k: v for k, v in state.items() if "num_batches" not in k and not k.startswith("fc.")},
            "parameters": {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()},
        }[kind]
        torch.save(content, folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "state_dict",
        "model",
        "DataParallel",
        "nested DataParallel",
        "no counters",
        "parameters",
        "model_state_dict",
    ],
)
def test_weights_as_people_save_them_are_read(tmp_path, monkeypatch, kind):
    torch.manual_seed(0)
    path = saved(kind, tmp_path)
    loaded = backbones.load_backbone("thin", str(path)).state_dict()
    kept = backbones.state_dict_of(backbones.read_weights(path), path)
    name = next(k for k in kept if k.endswith("layer4.0.conv2.weight"))
    assert torch.equal(loaded["layer4.0.conv2.weight"], kept[name])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert torch.equal(backbones.load_backbone("thin", "~/w.pth").state_dict()["conv1.weight"], loaded["conv1.weight"])


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("half of a file", "cannot be read"),
        ("empty file", "cannot be read (it is empty)"),
        ("half of a safetensors", "cannot be read"),
        ("text", "cannot be read"),
        ("whole network", "cannot be read (it holds more than tensors and numbers, such as a whole network)"),
        ("a list", "holds a list, not a state dict"),
        ("no tensors", "holds no state dict of names and tensors, but epoch, lr"),
        ("NaN", "has NaN or infinite values in conv1.weight"),
        ("complex", ": conv1.weight is complex: save dense weights of floating point"),
        ("whole numbers", ": conv1.weight is torch.int8, torch.strided: save dense weights"),
        ("sparse", ": conv1.weight is torch.float32, torch.sparse_coo: save dense weights"),
        ("another network", "does not fit thin: conv1.weight is missing (its names begin with blocks.layer1"),
    ],
)
def test_weights_that_cannot_be_used_are_one_sentence_with_the_file(tmp_path, kind, why):
    path = saved(kind, tmp_path)
    with pytest.raises(ValueError) as error:
        backbones.load_backbone("thin", str(path))
    assert f"weights file {path} {why}".replace(" :", ":") in str(error.value) and "\n" not in str(error.value)


def test_last_stride_doubles_the_last_map_and_only_it():
    shapes = {s: net(last_stride=s).shared(net().streams(IMAGES, MODALITY)).shape[2:] for s in (1, 2)}
    assert shapes == {1: (3, 2), 2: (2, 1)}


def test_gem_is_the_generalised_mean_and_lies_between_mean_and_maximum():
    x = torch.rand(2, 3, 4, 5) + 0.1
    by_hand = torch.tensor([[sum(v**3 for v in c.flatten().tolist()) / 20 for c in image] for image in x]) ** (1 / 3)
    torch.testing.assert_close(model.GeM(3.0)(x), by_hand)
    torch.testing.assert_close(model.GeM(1.0)(x), x.mean((2, 3)))
    assert (model.GeM(3.0)(x) > x.mean((2, 3))).all() and (model.GeM(3.0)(x) < x.amax((2, 3))).all()
    assert torch.isfinite(model.GeM(10.0)(torch.full((1, 1, 2, 2), 60.0).half())).all()  # 60^10 is far beyond half


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_backbones_share_one_trunk(name):
    made = TwoStreamNet(7, name)
    whole = sum(
        p.numel() for n, p in backbones.load_backbone(name, "none").named_parameters() if not n.startswith("fc")
    )
    assert made.dim == {"resnet18": 512, "resnet50": 2048}[name]
    assert sum(p.numel() for p in made.parameters()) < 1.25 * whole  # not three whole networks
    assert made.eval()(IMAGES, MODALITY).features.shape == (6, made.dim)


def test_hc_tri_on_resnet50_has_the_size_of_its_public_code():
    made = TwoStreamNet(206, "resnet50", attention=False, parts=[(6, 256, 1.0)])  # RegDB's identities
    assert round(sum(p.numel() for p in made.parameters()) / 1e6, 1) == 27.2  # where other public code holds 71.0


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_from_a_file_reach_both_streams(tmp_path, suffix):
    state = backbones.thin_resnet().state_dict()
    path = tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    made = net(weights=str(path))
    assert all(torch.equal(stream[0].weight, state["conv1.weight"]) for stream in made.specific)
    assert torch.equal(made.shared[2][0].conv1.weight, state["layer4.0.conv1.weight"])


def test_weights_that_cannot_be_had_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"weights file .*nowhere\.pt does not exist"):
        net(weights="nowhere.pt")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match=r"wrong.pt does not fit thin: conv1.weight has \(1,\), not \(24, 3, 5, 5\)"):
        net(weights=str(tmp_path / "wrong.pt"))
    with pytest.raises(ValueError, match="thin backbone has no ImageNet weights"):
        net(weights="imagenet")
    with pytest.raises(ValueError, match="backbone 'resnet51' is not known"):
        TwoStreamNet(2, "resnet51")
    with pytest.raises(ValueError, match="does not divide the 24 channels"):
        net(attention_reduction=5)

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(RuntimeError, match=r"ImageNet weights of resnet18 could not be downloaded .*weights=PATH"):
        TwoStreamNet(2, "resnet18", "imagenet")


class Largest(TorchDispatchMode):
    """Remember the largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(t, torch.Tensor)]
        self.numel = max([self.numel, *(t.numel() for t in tensors)])
        return out


def test_attention_never_holds_the_map_unless_asked_for():
    x = torch.rand(1, 8, 72, 36, requires_grad=True)  # stage 1 of a 288 x 144 image: 2,592 positions
    attention = model.PositionAttention(8)
    with Largest() as fused:
        attention(x).sum().backward()
    with Largest() as drawn:
        attention.attention_map(x)
    assert fused.numel <= 4 * x.numel() and drawn.numel == 2592**2


def test_the_backbones_with_a_start_are_those_that_pretrain_makes():

    assert set(backbones.STARTED) == set(pretrain.STARTS)
