"""The forms of what a system needs: heads, changes of the trunk, views, colours, searches, and how training asks."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from vtlib import config, inference, objective, protocols, runs, train
from vtlib.backbones import thin_resnet
from vtlib.config import experiment
from vtlib.model import TwoStreamNet, stages
from vtlib.suite import field, items, tables
from vtlib.systems import HEADS, LOSSES, TRUNK, VIEWS, agw, caj, cml, cmsp, colours, hat, hcml, hsme, learned, msr, xiv

P, K = 4, 2
MODALITY = torch.arange(2).repeat_interleave(P * K)
LABELS = torch.arange(P).repeat_interleave(K).repeat(2)
IMAGES = torch.randn(2 * P * K, 3, 96, 48, generator=torch.Generator().manual_seed(0))
METHODS = ("agw", "caj", "ddag", "xiv", "hat", "mac", "msr", "cmsp", "dfe", "cml", "hsme", "d_hsme", "deen")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"modules": {"non_lokal": {}}}, "unknown module 'non_lokal': did you mean 'non_local'?"),
        ({"modules": {"non_local": {"width": "two"}}}, "unknown value of modules.non_local.width 'two'"),
        ({"modules": {"sphere": {"width": 2.5}}}, "modules.sphere.width must be of type int, not 2.5"),
        (
            {"modules": {"sphere": {}, "part_attention": {}}},
            "modules: a network has one kind of head, not sphere and part",
        ),
        (
            {"modules": {"modality_gates": {}}},
            "modality_gates needs a network that both modalities share: set specific_st",
        ),
        ({"modules": {"branches": {}}}, "modules: diverse_expansion and the head branches belong together: name both"),
        ({"views": {"gray": {}}}, "unknown view 'gray': did you mean 'grey'?"),
        ({"views": {"grey": {}, "x": {}}}, "views: a batch has one view, not grey and x"),
        (
            {"losses.tri_directional": {"weight": 1.0}},
            "losses.tri_directional reads the images of a view: name one, as views.",
        ),
        (
            {"losses.graph_attention": {"weight": 1.0, "heads": 0.0}},
            "losses.graph_attention.heads must be a whole number",
        ),
        ({"losses.modality_kl": {"weight": 1.0, "logits": 1.0}}, "unknown argument of loss modality_kl 'logits'"),
        ({"colours_visible": "blue"}, "colours_visible: Input should be"),
        ({"search": "sym"}, "search: Input should be"),
    ],
)
def test_a_wrong_field_is_one_sentence(fields, sentence):
    with pytest.raises(ValueError) as error:
        experiment("cpu", "baseline", **fields)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_search_is_no_other_run():
    plain, searched = experiment("cpu", "one_stream"), experiment("cpu", "sim")
    assert plain.run_id == searched.run_id and searched.search == "sim"
    assert experiment("cpu", "hcml").run_id == experiment("cpu", "tone").run_id
    assert items.comparison(searched, plain, "x") != items.comparison(plain, plain, "x")


@pytest.mark.parametrize("name", METHODS)
def test_the_network_of_a_system_gives_what_its_losses_read(name):
    made = experiment("quick", name)
    net = train.make_net(made, P)
    losses = objective.make_losses(made, net)
    out = net(IMAGES, MODALITY)
    assert out.features.shape == (len(IMAGES), net.dim) and out.logits.shape[0] == len(IMAGES)
    assert [x.shape[1] for x in out.pooled] == net.widths and out.logits.shape[-1] == P
    net.eval()
    alone = torch.cat([net(IMAGES[i : i + 1], MODALITY[i : i + 1]).features for i in (0, 9)])
    torch.testing.assert_close(alone, net(IMAGES, MODALITY).features[[0, 9]], rtol=1e-4, atol=1e-5)
    order = torch.randperm(len(IMAGES), generator=torch.Generator().manual_seed(1))
    moved = net(IMAGES[order], MODALITY[order]).features
    torch.testing.assert_close(moved, net(IMAGES, MODALITY).features[order], rtol=1e-4, atol=1e-5)
    copy = train.make_net(made, P)
    copy.load_state_dict(net.state_dict())
    assert torch.equal(copy.eval()(IMAGES, MODALITY).features, net(IMAGES, MODALITY).features)
    assert len(losses) == len(made.losses)


def test_a_start_without_effect():
    plain = TwoStreamNet(P, "thin", attention=False, specific_stages=1).eval()
    for name in ("non_local",):
        changed = TwoStreamNet(P, "thin", attention=False, specific_stages=1, change=TRUNK[name]).eval()
        by_shape = [
            k for k in changed.state_dict() if any(k.endswith(f".{n}") for n in ("conv1.weight", "conv2.weight"))
        ]
        assert len(by_shape) == len([k for k in plain.state_dict() if k.endswith((".conv1.weight", ".conv2.weight"))])
        block = next(m for m in changed.modules() if isinstance(m, agw.NonLocal))
        x = torch.randn(2, 48, 6, 3)
        assert torch.equal(block(x), x) and torch.equal(block.train()(x), x)


@pytest.mark.parametrize(("width", "count"), [("half", 2 * (2 * 256 * 512 + 2 * 512) + 1), ("one", 0)])
def test_non_local_blocks_of_resnet50_are_five(width, count):
    with torch.device("meta"):
        net = TwoStreamNet(
            395, "resnet50", attention=False, specific_stages=1, change=lambda s: agw.non_local(s, width=width)
        )
    blocks = [m for m in net.modules() if isinstance(m, agw.NonLocal)]
    added = sum(p.numel() for b in blocks for p in b.parameters())
    assert len(blocks) == 5 and added == (28_687 if width == "one" else 7_358_464)
    assert [b.norm.num_features for b in blocks] == [512, 512, 1024, 1024, 1024]


def test_parameters_at_full_size():
    with torch.device("meta"):
        ddag = TwoStreamNet(395, "resnet50", attention=False, specific_stages=1, head=HEADS["part_attention"])
        deen = TwoStreamNet(
            395,
            "resnet50",
            attention=False,
            specific_stages=1,
            change=TRUNK["diverse_expansion"],
            head=HEADS["branches"],
        )
        plain = TwoStreamNet(395, "resnet50", attention=False, specific_stages=1)
        graph = LOSSES["graph_attention"](395, 2048)
    count = [sum(p.numel() for p in m.parameters()) for m in (ddag, deen, plain, graph)]
    assert count[0] - count[2] == 12_593_155 and count[3] == 5_008_150
    assert count[1] - count[2] == 63_264 + 594_048 + 2_367_744 + 14_682_112


def test_gates_open_as_one_stream_and_shut_for_one_modality():
    torch.manual_seed(0)
    net = TwoStreamNet(P, "thin", attention=False, specific_stages=0, change=TRUNK["modality_gates"]).eval()
    gates = [m for m in net.modules() if isinstance(m, cmsp.Gate)]
    assert len(gates) == 5
    for gate in gates:
        nn.init.constant_(gate.a, torch.inf)
    plain = TwoStreamNet(P, "thin", attention=False, specific_stages=0).eval()
    weights = [v for k, v in net.state_dict().items() if not k.endswith(".a")]  # the same names, in other places
    for place, value in zip(plain.state_dict().values(), weights, strict=True):
        place.copy_(value)
    assert torch.equal(net(IMAGES, MODALITY).features, plain(IMAGES, MODALITY).features)
    with torch.no_grad():
        gates[1].a[0] = -torch.inf
    found = net(IMAGES, MODALITY).features
    assert torch.equal(found[0], found[3]) and not torch.equal(found[-1], found[-3])


def test_heads_of_two_modalities_take_one_alone():
    head = msr.ModalityHeads(8, P, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), width=5).eval()
    maps = torch.randn(6, 8, 2, 2)
    mixed = head(maps, torch.tensor([1, 0, 1, 0, 0, 1]))
    torch.testing.assert_close(head(maps[[0, 2, 5]], torch.ones(3).long()).features, mixed.features[[0, 2, 5]])
    assert mixed.logits.shape == (6, 2, P)
    thermal = head(maps, torch.ones(6).long()).logits.sum()
    thermal.backward()
    assert head.maps[0].weight.grad is None and head.own[0].weight.grad is None and head.maps[1].weight.grad.any()


@pytest.mark.parametrize(("channels", "width"), [(12, 8), (6, 9)])
def test_decorrelation_keeps_distances_and_logits(channels, width):
    torch.manual_seed(0)
    head = hsme.Sphere(channels, P, nn.Flatten(), width=width).eval()
    maps = torch.randn(7, channels, 1, 1)
    before = head(maps, MODALITY[:7])
    head.decorrelate()
    after = head(maps, MODALITY[:7])
    torch.testing.assert_close(
        torch.cdist(after.features, after.features), torch.cdist(before.features, before.features)
    )
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4)
    assert head.decorrelation() == pytest.approx(1, abs=1e-5)
    times_ten = hsme.Sphere(channels, P, nn.Flatten(), width=width)
    scaled = times_ten.classifier.weight.data * 10
    one = times_ten.eval()(maps, MODALITY[:7]).logits
    times_ten.classifier.weight.data = scaled
    torch.testing.assert_close(times_ten(maps, MODALITY[:7]).logits, one)


def test_restraint_keeps_the_embedding_and_survives_a_stop():
    head = hsme.Sphere(6, P, nn.Flatten(), width=4, cycles=2)
    restrained = []
    for epoch in range(12):
        head.at_epoch(epoch, 12)
        restrained.append(bool(head.restrained))
        kept = head.kept.clone()
        head.embed.weight.data += 0.1  # as weight decay and momentum would
        if restrained[-1]:
            assert torch.equal(head.kept, kept)
            features = head.eval()(torch.ones(1, 6, 1, 1), MODALITY[:1]).features
            torch.testing.assert_close(features, head.neck(torch.ones(1, 6)) @ kept.T)
    assert restrained == [False] * 6 + [True] * 2 + [False] * 2 + [True] * 2


# Views


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_adds_an_image_for_each_visible_one(name):
    made = VIEWS[name](**({"add": True} if name == "mix" else {}))
    numbers = torch.rand(len(LABELS), made.numbers, generator=torch.Generator().manual_seed(0))
    second = IMAGES[: P * K].flip(3) if made.own_crop else None
    before = IMAGES.clone()
    images, streams = made(IMAGES, LABELS, MODALITY, numbers, second)
    assert images.shape[0] == len(streams) == len(IMAGES) + P * K and torch.equal(IMAGES, before)
    assert torch.equal(images[: len(IMAGES)], IMAGES) and torch.equal(streams[: len(IMAGES)], MODALITY)
    again = made(IMAGES, LABELS, MODALITY, numbers, second)[0]
    assert torch.equal(images, again)


def test_grey_is_the_brightness_of_stored_pixels():
    raw = torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(x)[:, None, None] for x in (colours.MEAN, colours.STD))
    made = hat.Grey()((raw - mean) / std, torch.zeros(2).long(), torch.zeros(2).long(), None, None)[0][2:]
    luma = (raw * torch.tensor(colours.LUMA)[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(made * std + mean, luma.expand(-1, 3, -1, -1))
    torch.testing.assert_close(hat.Grey()(made, torch.zeros(2).long(), torch.zeros(2).long(), None, None)[0][2:], made)


def test_x_at_the_start_by_hand():
    made = xiv.XModality()
    pixel = torch.tensor([[1.0, 2, 3], [-1, -2, 0]])[:, :, None, None]
    found = made(pixel, torch.zeros(2).long(), torch.zeros(2).long(), None, None)[0][2:]
    torch.testing.assert_close(found[0].flatten(), torch.full((3,), 0.333 * 0.333 * 6))
    assert not found[1].any()


@pytest.mark.parametrize("form", ["mixup", "cutmix"])
def test_mixed_images_are_of_one_person_and_both_modalities(form):
    made = cml.ModalityMix(form=form)
    marks = torch.stack([LABELS, MODALITY, torch.ones_like(LABELS)], 1).float()[:, :, None, None].expand(-1, -1, 20, 10)
    numbers = torch.rand(len(LABELS), made.numbers, generator=torch.Generator().manual_seed(3))
    images, streams = made(marks, LABELS, MODALITY, numbers, None)
    assert torch.equal(streams, MODALITY) and images.shape == marks.shape
    assert torch.allclose(images[:, 0], marks[:, 0])  # the person stays
    replaced = numbers[:, 1] < 0.5
    share = (images[:, 1].mean((1, 2)) - MODALITY).abs()  # of the other modality
    lam = torch.maximum(numbers[:, 0], 1 - numbers[:, 0])
    assert not share[~replaced].any() and 0 < replaced.sum() < len(LABELS)
    assert (share[replaced] - (1 - lam[replaced])).abs().max() < (1e-6 if form == "mixup" else 0.12)
    keep = numbers.clone()
    keep[:, 0] = 1.0
    assert torch.equal(made(marks, LABELS, MODALITY, keep, None)[0], marks)


def test_changes_of_colours_are_as_frequent_as_their_source_says():
    numbers = torch.rand(6000, colours.NUMBERS, generator=torch.Generator().manual_seed(0))
    image = torch.tensor([1.0, 2.0, 4.0])[None, :, None, None].expand(6000, -1, 2, 2)
    for kind, shares in (("exchange", [1 / 3] * 3 + [0, 0]), ("caj", [1 / 4] * 3 + [1 / 8] * 2)):
        found = colours.recolour(image, *colours.mixes(kind, numbers))[:, :, 0, 0]
        one = [(found == v).all(1).float().mean().item() for v in (1, 2, 4)]
        same = (found == torch.tensor([1.0, 2, 4])).all(1).float().mean().item()
        assert [*one, 1 - sum(one) - same, same] == pytest.approx(shares, abs=0.02)
    found = colours.recolour(image, *colours.mixes("linear", numbers))[:, :, 0, 0]
    assert (found[:, 0] == found[:, 2]).all() and found.min() >= 1 and found.max() <= 4
    assert found[:, 0].mean().item() == pytest.approx(7 / 3, abs=0.05)
    grey = colours.recolour(image, *colours.mixes("grey", numbers))[:, :, 0, 0]
    assert (grey == image[:, :, 0, 0]).all(1).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(colours.recolour(image, *colours.mixes("none", numbers)), image)


@pytest.mark.parametrize("where", ["both", "visible", "thermal"])
def test_erasing_in_one_modality(where):
    made = experiment("quick", "baseline", erase=1.0, erase_in=where, flip=0.0, pad=0)
    numbers = torch.rand(len(MODALITY), 9, generator=torch.Generator().manual_seed(0))
    pixels = torch.full((len(MODALITY), 3, 96, 48), 200, dtype=torch.uint8)
    erased = (train.augmented(made, pixels, numbers, MODALITY) == 0).flatten(1).any(1)
    wanted = {"both": [0, 1], "visible": [0], "thermal": [1]}[where]
    assert erased.tolist() == [m in wanted for m in MODALITY.tolist()]


def test_exchange_takes_another_crop():
    made, second = caj.Exchange(), torch.rand(P * K, 3, 4, 4)
    numbers = torch.rand(len(LABELS), made.numbers, generator=torch.Generator().manual_seed(0))
    images, _ = made(IMAGES[..., :4, :4], LABELS, MODALITY, numbers, second)
    added = images[len(IMAGES) :]
    assert (added[:, 0] == added[:, 1]).all() and (added[:, 0] == added[:, 2]).all()
    assert all(any(torch.equal(a[0], s[c]) for c in range(3)) for a, s in zip(added, second, strict=True))


# Training


def steps_of(made, count=2, seed=0):
    net = train.make_parts(made, P, "cpu")
    step = train.make_step(made, net, "cpu")
    step.net.train()
    torch.manual_seed(seed)
    return step


def test_losses_that_know_two_modalities_do_not_see_a_view():
    made = experiment("quick", "baseline", precision="float32", identities_per_batch=P, views={"grey": {}})
    plain = made.but(views={})
    view = hat.Grey()
    whole = train.Step(made, train.make_parts(made, P, "cpu") | {"view": view}, "cpu")
    parts = whole(IMAGES, MODALITY, LABELS, MODALITY, extra=(LABELS, torch.empty(len(LABELS), 0), None))
    assert parts.isfinite().all()
    net = train.make_net(plain, P)
    out = net(torch.cat([IMAGES, IMAGES[: P * K]]), torch.cat([MODALITY, torch.zeros(P * K).long()]))
    losses = objective.make_losses(plain, net)
    source = torch.cat([torch.full((len(IMAGES),), -1), torch.arange(P * K)])
    labels = torch.cat([LABELS, LABELS[: P * K]])
    modality = torch.cat([MODALITY, torch.zeros(P * K).long()])
    terms = objective.loss_terms(plain, losses, out, labels, modality, source=source)
    alone = objective.loss_terms(plain, losses, objective.rows_of(out, slice(len(IMAGES))), LABELS, MODALITY)
    assert terms[1] == alone[1] and terms[0] != alone[0]  # the triplet loss, and the identity loss of all rows


def test_the_weight_of_a_loss_follows_the_others(home, tmp_path):
    made = experiment("quick", "ddag", epochs=3, identities_per_batch=P)
    run = runs.run(made)
    history, weights = run.history, {n: t["weight"] for n, t in made.losses.items()}
    others = sum(weights[n] * history[n] for n in ("id", "batch_hard_triplet"))
    expected = [0.0, *(1 / (1 + others[:2]))]
    assert history["weight_graph_attention"].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddag", "d_hsme", "xiv", "caj", "mace"])
def test_a_training_that_stops_goes_on_to_the_same_bits(home, name, monkeypatch):
    made = experiment("quick", name, epochs=4, identities_per_batch=P, seed=3)
    options = {"losses.modality_classifiers.slow": 0.2} if name == "mace" else {}
    made = made.but(**options)
    whole = runs.run(made)
    expected = {k: v.clone() for k, v in whole.net().state_dict().items()}
    import shutil

    shutil.rmtree(whole.folder)
    real, epochs = train.train_epoch, []

    def stops(*arguments):
        epochs.append(arguments[4])
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train, "train_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        runs.run(made)
    again = runs.run(made)
    assert epochs == [0, 1, 2, 2, 3]
    assert all(torch.equal(v, expected[k]) for k, v in again.net().state_dict().items())


def test_adam_and_parameters_that_do_not_decay():
    made = experiment("quick", "cmsp", optimizer="adam", nesterov=True)
    net = train.make_net(made, P)
    optimizer = train.make_optimizer(made, net, objective.make_losses(made, net))
    assert isinstance(optimizer, torch.optim.Adam) and [g["weight_decay"] for g in optimizer.param_groups] == [
        5e-4,
        5e-4,
        0,
    ]
    assert sum(p.numel() for p in optimizer.param_groups[2]["params"]) == sum(
        m.a.numel() for m in net.modules() if isinstance(m, cmsp.Gate)
    )
    every = sum(len(g["params"]) for g in optimizer.param_groups)
    assert every == sum(p.requires_grad for p in net.parameters())


class Adversary(nn.Module):
    """Tells the modalities apart by a linear map, which the network shall make impossible, and rebuilds brightness."""

    own_lr = 0.05

    def __init__(self, num_classes: int, width: int, *, weight: float = 1.0):
        super().__init__()
        self.judge, self.paint, self.weight = nn.Linear(width, 1), nn.Linear(width, 1), weight

    def own_parameters(self):
        return self.judge.parameters()

    def said(self, features, modality):
        return nn.functional.binary_cross_entropy_with_logits(self.judge(features)[:, 0], modality.to(features.dtype))

    def forward(self, features, labels, modality, *, images):
        painted = (self.paint(features)[:, 0] - images.mean((1, 2, 3))).square().mean()
        return self.weight * painted - self.said(features, modality)

    def rival(self, features, labels, modality, *, images):
        return self.said(features, modality)


def test_a_rival_has_an_optimizer_of_its_own_and_a_loss_may_look_at_images(monkeypatch):
    from vtlib import systems

    monkeypatch.setitem(systems.OWN, "adversary", learned.learned()(Adversary))
    made = experiment("quick", "baseline", identities_per_batch=P, precision="float32").but(
        losses={"id": {"weight": 1.0}, "adversary": {"weight": 0.05, "on": "neck", "normalise": True}}
    )
    parts = train.make_parts(made, P, "cpu")
    call = parts["losses"]["adversary"][0].call
    judges = {id(p) for p in call.judge.parameters()}
    assert judges == {id(p) for g in parts["rivals"].param_groups for p in g["params"]}
    main = {id(p) for g in parts["optimizer"].param_groups for p in g["params"]}
    assert not judges & main and {id(p) for p in call.paint.parameters()} <= main
    step = train.Step(made, parts, "cpu")
    step.net.train()
    before = [p.detach().clone() for p in (*call.judge.parameters(), *call.paint.parameters())]
    said = []
    for _ in range(30):
        step(IMAGES, MODALITY, LABELS, MODALITY)
        with torch.no_grad():
            said.append(call.said(step.net.eval()(IMAGES, MODALITY).features, MODALITY).item())
        step.net.train()
    moved = [
        not torch.equal(a, b) for a, b in zip(before, (*call.judge.parameters(), *call.paint.parameters()), strict=True)
    ]
    assert all(moved) and np.isfinite(said).all()
    # alone, the judge learns what the network hides from it
    step.optimizer.step = lambda: None
    first, *_, last = [step(IMAGES, MODALITY, LABELS, MODALITY)[1].item() for _ in range(40)]
    assert last > first  # minus what the judge says


def test_flip_test_adds_the_mirrored_image():
    net = train.make_net(experiment("quick", "baseline", flip_test=True), P)
    pixels = np.random.default_rng(0).integers(0, 255, (4, 3, 96, 48), dtype=np.uint8)
    mirrored = np.ascontiguousarray(pixels[..., ::-1])
    rows, modality = np.arange(4), np.zeros(4, int)
    found = [inference.extract(net, x, rows, modality, bar=False) for x in (pixels, mirrored)]
    torch.testing.assert_close(*found)
    net.flip_test = False
    assert not torch.allclose(inference.extract(net, pixels, rows, modality, bar=False), found[0])


# Searches


@pytest.mark.parametrize("method", ["sim", "hcml"])
@pytest.mark.parametrize("dataset", ["sysu", "regdb"])
def test_a_search_stands_in_the_name_of_its_protocol(home, method, dataset):
    run = runs.run(experiment("quick", method, dataset=dataset))
    plain = runs.run(run.experiment.but(search=""))
    assert run.folder == plain.folder
    protocol = next(iter(run.metrics["protocols"]))
    stamped = f"{protocol} by {method}"
    assert run.stamped(protocol) == stamped and plain.stamped(protocol) == protocol
    pd.testing.assert_frame_equal(run.trials(protocol), plain.trials(stamped))
    assert not run.trials(protocol).equals(plain.trials(protocol))
    queries = run.queries(protocol)
    assert queries[runs.METRICS].mean().to_numpy() == pytest.approx(
        run.trials(protocol)[runs.METRICS].mean().to_numpy()
    )
    assert tables.measured([run], "rank1", protocol)["protocol"] == stamped
    assert protocols.named(stamped).by == method
    with pytest.raises(ValueError, match="is no name for a search by cosine"):
        plain.embedded(protocols.named(protocol)).ranked(protocols.named(stamped), 1)


def test_hcml_shrinks_what_the_modalities_do_not_share():
    g = torch.Generator().manual_seed(0)
    people = torch.randn(30, 8, generator=g, dtype=torch.float64)
    labels, modality = torch.arange(30).repeat_interleave(4).repeat(2), torch.arange(2).repeat_interleave(120)
    features = torch.cat(
        [people[labels] + 0.3 * torch.randn(240, 8, generator=g), 3 * torch.randn(240, 2, generator=g)], 1
    )
    project = hcml.fit(features, labels, modality, "sysu")

    def rank1(x):
        v, t = x[modality == 0], x[modality == 1]
        right = labels[modality == 1][torch.cdist(v, t).argmin(1)] == labels[modality == 0]
        return right.double().mean().item()

    unit = torch.nn.functional.normalize(features)
    assert rank1(project(features, modality)) > rank1(unit) + 0.2
    order = torch.randperm(240, generator=g)
    other = hcml.fit(features[order], 7 * labels[order] + 3, modality[order], "sysu")
    a, b = (f(features, modality) for f in (project, other))
    torch.testing.assert_close(torch.cdist(a, a), torch.cdist(b, b), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="two people with both modalities"):
        hcml.fit(features[:120], labels[:120], modality[:120], "sysu")


def test_orders_that_agree_and_orders_that_do_not():
    values = pd.DataFrame({"printed": [1.0, 2, 3, 4, 5, 6], "measured": [10.0, 20, 30, 40, 50, 60]})
    assert field.spearman(values) == pytest.approx((1, 1, 1))
    assert field.spearman(values.assign(measured=values.measured[::-1].to_numpy()))[0] == pytest.approx(-1)


def test_stages_of_a_resnet_are_five_lists():
    found = stages(thin_resnet(), False, 1)
    assert [len(s) for s in found] == [4, 1, 1, 1, 1]
    assert config.asked(LOSSES["id"]) == set() and config.asked(LOSSES["modality_kl"]) == {"logits"}
