"""How features are prepared before a search: what each way keeps, and what its results are called."""

import copy
import dataclasses

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from torch import nn

from vtlib import inference, protocols, runs
from vtlib.config import experiment
from vtlib.data.batches import normalise
from vtlib.losses.geometry import unit
from vtlib.model import Output, TwoStreamNet
from vtlib.suite import report, transfer

MODALITY = np.arange(14) % 3 // 2  # two visible images to a thermal one


def features(n=14, dim=6, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pixels(n=14, height=32, width=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), np.uint8)


def embedded(way="plain", layout="folder", x=None):
    table = pd.DataFrame({"pid": np.arange(14) % 4, "modality": MODALITY, "cam": 1 + MODALITY, "number": range(14)})
    images = protocols.columns(table.assign(frame="")) | {"features": features() if x is None else x}
    return protocols.Embedded(layout, images, way=way)


# Centred.


def test_centring_equals_a_loop_and_leaves_its_input():
    x = features()
    before = x.clone()
    np.testing.assert_allclose(inference.centred(x, MODALITY), oracles.centred(x, MODALITY), rtol=1e-12)
    assert torch.equal(x, before) and inference.centred(x.float(), MODALITY).dtype == torch.float32


def test_what_is_added_to_all_features_of_a_modality_changes_nothing():
    x, shift = features(), features(2, seed=1)
    moved = inference.centred(x + 5 * shift[MODALITY], MODALITY)
    torch.testing.assert_close(moved, inference.centred(x, MODALITY), rtol=0, atol=1e-12)
    plain, centred = (
        [embedded(way, x=f).tables(1) for f in (x, x + 5 * shift[MODALITY])] for way in protocols.WAYS[:2]
    )
    assert not plain[0]["folder t2v"].equals(plain[1]["folder t2v"])
    pd.testing.assert_frame_equal(centred[0]["folder t2v centred"], centred[1]["folder t2v centred"])


def test_each_modality_has_mean_zero_before_its_rows_have_length_one_and_order_is_kept():
    x = features()
    order = np.random.default_rng(0).permutation(14)
    torch.testing.assert_close(inference.centred(x[order], MODALITY[order]), inference.centred(x, MODALITY)[order])
    torch.testing.assert_close(inference.centred(3 * x, MODALITY), inference.centred(x, MODALITY))


@pytest.mark.parametrize("alike", [1, 3, 7])
def test_a_feature_of_which_nothing_is_left_is_one_sentence(alike):
    x = torch.rand(1, 9, generator=torch.Generator().manual_seed(0)).expand(alike, 9)
    both, modality = torch.cat([features(5, 9).float(), x]), np.repeat([0, 1], [5, alike])
    with pytest.raises(ValueError, match="nothing is left when centred: search it plain"):
        inference.centred(both, modality)


# Adapted.


class OneLayer(nn.Module):
    """A batch normalisation and nothing else; the images are its features."""

    def __init__(self, channels=3):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        nn.init.normal_(self.norm.weight)

    def forward(self, images, modality):
        maps = self.norm(images)
        return Output((maps,), (None,), maps.flatten(1), maps)


def two_streams(**options):
    torch.manual_seed(0)
    net = TwoStreamNet(5, "thin", **options)
    with torch.no_grad():
        for name, x in net.named_buffers():  # as after some training
            x.copy_(torch.rand_like(x) + 0.5) if "running" in name else None
    return net


NETS = {
    "neck": {},
    "one stream": {"specific_stages": 0, "attention": False},
    "parts": {"parts": ((2, 8, 0.6), (4, 8, 0.4)), "attention": False},
}
nets = pytest.mark.parametrize("options", NETS.values(), ids=NETS)


def test_the_statistics_of_one_layer_are_those_of_a_loop_over_all_values():
    x, net = pixels(5, 4, 2), OneLayer()
    adapted = inference.adapted(net, x, np.arange(5), np.zeros(5, int), batch=2)
    seen = normalise(torch.from_numpy(x)).double().numpy()
    for channel in range(3):
        values = [float(v) for image in seen for v in image[channel].ravel()]
        mean = sum(values) / len(values)
        assert adapted.norm.running_mean[channel].item() == pytest.approx(mean, abs=1e-6)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        assert adapted.norm.running_var[channel].item() == pytest.approx(variance, rel=1e-6)


@nets
@pytest.mark.parametrize("batch", [3, 256])
def test_an_adapted_network_searches_as_one_pass_of_all_images_in_training_mode(options, batch):
    net, x = two_streams(**options), pixels(height=64, width=32)
    found = inference.extract(inference.adapted(net, x, np.arange(14), MODALITY, batch), x, np.arange(14), MODALITY)
    with torch.no_grad():
        out = net.train()(normalise(torch.from_numpy(x)), torch.tensor(MODALITY)).features
    torch.testing.assert_close(found, unit(out), rtol=0, atol=2e-5)
    assert (found - inference.extract(two_streams(**options), x, np.arange(14), MODALITY)).abs().max() > 0.01


@nets
def test_adapting_twice_is_adapting_once_and_no_weight_changes(options):
    net, given = two_streams(**options), (pixels(height=64, width=32), np.arange(14), MODALITY)
    before = copy.deepcopy(net.state_dict())
    once = inference.adapted(net, *given, batch=5)
    twice = inference.adapted(once, *given, batch=5)
    assert all(torch.equal(net.state_dict()[name], x) for name, x in before.items())
    parts = {name: x for name, x in once.state_dict().items() if "running" not in name}
    assert all(torch.equal(before[name], x) for name, x in parts.items()) and len(parts) < len(before)
    assert all(torch.equal(twice.state_dict()[name], x) for name, x in once.state_dict().items())
    assert not any(m._forward_pre_hooks for m in [*net.modules(), *once.modules()])
    once.train()(torch.rand(4, 3, 64, 32), torch.tensor([0, 0, 1, 1])).features.sum().backward()  # it can still learn


def test_a_modality_goes_through_its_own_stream_and_both_through_what_is_shared():
    net, x = two_streams(attention=False), pixels(height=64, width=32)
    all_of_it, thermal = (
        inference.adapted(net, x, rows, MODALITY[rows]).state_dict()
        for rows in (np.arange(14), np.flatnonzero(MODALITY == 1))
    )
    same = {name for name, value in all_of_it.items() if "running" in name and torch.equal(value, thermal[name])}
    assert same == {name for name in all_of_it if "running" in name and name.startswith("specific.1")}
    untouched = {name for name, value in thermal.items() if torch.equal(value, net.state_dict()[name])}
    assert {name for name in thermal if "running" in name} & untouched == {
        name for name in thermal if "running" in name and name.startswith("specific.0")
    }


# Hubness.


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("hide", [False, True])
def test_hubness_equals_a_loop_over_queries(k, hide):
    g = np.random.default_rng(k)
    similarity = g.integers(0, 6, (9, 7)).astype(float)  # many are equal
    exclude = g.random((9, 7)) < 0.3 if hide else None
    found = protocols.hubness(similarity, k, exclude=exclude)
    assert tuple(found.values()) == pytest.approx(oracles.hubness(similarity, k, exclude))
    assert protocols.hubness(torch.from_numpy(similarity), k, exclude=exclude) == found


def test_one_image_that_is_nearest_to_all_is_a_hub_and_even_choices_have_none():
    similarity = np.tile([0.1, 0.9, 0.2, 0.3], (5, 1))
    one = protocols.hubness(similarity, 1)
    assert one["hub_share"] == 1 and one["hub_skewness"] == pytest.approx(2 / 3**0.5)
    assert protocols.hubness(np.eye(4), 1) == {"hub_share": 0.25, "hub_skewness": 0.0}
    assert protocols.hubness(np.eye(4))["hub_skewness"] == 0.0  # k is the whole gallery


@pytest.mark.parametrize(("similarity", "k"), [(np.eye(3), 0), (np.ones(3), 1), (np.ones((0, 3)), 1), (np.eye(3), 1.5)])
def test_faults_of_hubness_are_named(similarity, k):
    with pytest.raises(ValueError, match="hubness needs a similarity"):
        protocols.hubness(similarity, k)


def test_hubness_of_a_set_leaves_out_what_no_search_may_find():
    test = embedded()
    assert test.hubness("t2v") == protocols.hubness(test.similarity.T)
    test = embedded()
    test.images["instant"] = torch.from_numpy(np.where(test.pids == 0, 1, -1))
    assert test.hidden.any()
    assert tuple(test.hubness("v2t", 3).values()) == pytest.approx(
        oracles.hubness(test.similarity.tolist(), 3, test.hidden.tolist())
    )
    assert 0 < test.chance_hubness("t2v")["hub_share"] < 1


# Names.


def test_a_way_is_part_of_a_searchs_name_and_plain_adds_nothing():
    for search in protocols.PLAIN:
        assert [str(dataclasses.replace(search, way=way)) for way in protocols.WAYS] == [
            str(search),
            f"{search} centred",
            f"{search} adapted",
            f"{search} adapted centred",
        ]
    assert protocols.named("folder t2v adapted centred") == protocols.Search("folder", "t2v", way="adapted centred")
    with pytest.raises(ValueError, match="unknown protocol 'folder t2v centered': did you mean 'folder t2v centred'"):
        protocols.named("folder t2v centered")


def test_features_of_one_way_give_no_number_of_another_name():
    test = embedded("centred")
    assert set(test.tables(1)) == set(test.summary(1).index) == {"folder v2t centred", "folder t2v centred"}
    with pytest.raises(ValueError, match="the features are centred: 'folder t2v' is no name for what they find"):
        test.table(protocols.named("folder t2v"), 1)
    with pytest.raises(ValueError, match="the features are plain: 'folder t2v centred' is no name"):
        embedded().queries(protocols.named("folder t2v centred"), 1)


def test_an_unknown_way_is_one_sentence_with_the_nearest_name(home, shared):
    with pytest.raises(ValueError, match=r"^unknown way 'centered': did you mean 'centred'\?$"):
        embedded("centered")
    run, root = runs.run(experiment("quick", "baseline")), shared / "realdata" / "kaist_ped"
    with pytest.raises(ValueError, match=r"^unknown way 'adaptd': did you mean 'adapted'\?$"):
        transfer.transfer(run, root, way="adaptd")
    with pytest.raises(ValueError, match="histograms of gradients have no batch normalisation to adapt"):
        transfer.transfer(run, root, histograms=True, way="adapted centred")


# On real images.


def test_every_way_of_a_transfer_has_its_name_and_the_table_holds_what_each_alone_gives(home, shared):
    run, root = runs.run(experiment("quick", "baseline")), shared / "realdata" / "kaist_ped"
    stored = {file.name: file.read_bytes() for file in run.folder.iterdir() if file.is_file()}
    table = transfer.transfer_table({"net": [run]}, root, protocols.WAYS[1:])
    assert list(dict.fromkeys(table.way)) == list(protocols.WAYS) and table.notna().all(axis=None)
    for (way, protocol), part in table[table.metric == "mAP"].groupby(["way", "protocol"]):
        part = part.set_index("row")
        alone = transfer.transfer(run, root, way=way)
        assert part.value["net"] == pytest.approx(alone[protocol]["mAP"].item())
        other = transfer.transfer(run, root, way="plain")[protocol.removesuffix(f" {way}")]
        assert part.change["net"] == pytest.approx(alone[protocol]["mAP"].item() - other["mAP"].item())
        assert ("gradient histograms" in part.index) == ("adapted" not in way)
        base = transfer.transfer(run, root, histograms=True, way=transfer.unadapted(way))
        base = base[protocol.replace(" adapted", "")]["mAP"].item()
        assert part.gain["net"] == pytest.approx(part.value["net"] - base)
        assert part.hub_share.between(1 / 69, 1).all() and part.value["chance"] > 0
    plain = table[table.way == "plain"].reset_index(drop=True)
    pd.testing.assert_frame_equal(transfer.transfer_table({"net": [run]}, root), plain)
    assert (plain[[c for c in plain if c.startswith("change")]] == 0).all(axis=None)
    assert {file.name: file.read_bytes() for file in run.folder.iterdir() if file.is_file()} == stored


def test_words_say_what_each_way_changes_and_nothing_of_plain_searches():
    rows = pd.DataFrame({"row": ["a", "b", "chance"], "set": "s", "direction": "t2v", "metric": "mAP", "way": "plain"})
    numbers = {"value": [6.0, 9.0, 11.0], "hub_share": [80.0, 60.0, 8.0], "gain_low_people": -9.0}
    plain = rows.assign(**numbers, change_low_people=0.0, change_high_people=0.0)
    moved = plain.assign(way="centred", value=[20.0, 8.0, 11.0], hub_share=[10.0, 20.0, 8.0])
    moved = moved.assign(change_low_people=[2.0, -3.0, 0.0], change_high_people=[20.0, -1.0, 0.0])
    assert report.transfer_words(plain, ["a", "b"]) == ""
    text = report.transfer_words(pd.concat([plain, moved]), ["a", "b"])
    assert text == (
        "Transductive, methods and searches: centred is higher than plain in 1 and lower in 1 of 2. s t2v centred 8.0 "
        "to 20.0, hub share 15 % (plain 6.0 to 9.0, hub share 70 %); higher: a; lower: b; above histograms: none."
    )
