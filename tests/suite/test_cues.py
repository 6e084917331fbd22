"""Oracles of SynVT: each reads its own cue and nothing else; the searches; intervals and chance."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch

from vtlib import bootstrap, launch, protocols, runs, synvt
from vtlib.config import experiment
from vtlib.suite import cues, transfer
from vtlib.synvt import PRESETS, Spec, render_batch

SPEC = Spec("sysu", seed=3, identities=(3, 1, 2), images=2, height=48, width=24)


def rows_of(spec: Spec, people: int = 4) -> pd.DataFrame:
    keys = [(p, c, n) for p in range(1, people + 1) for c in range(1, 7) for n in (1, 2)]
    table = pd.DataFrame(keys, columns=["pid", "cam", "number"])
    return table.assign(modality=table.cam.isin([3, 6]).astype(int), frame="")


def images(spec: Spec, rows: pd.DataFrame) -> np.ndarray:
    keys = rows[["pid", "cam", "number"]].itertuples(index=False, name=None)
    return render_batch(spec, keys).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def quick(home):
    return {d: cues.table(experiment("quick", "identity", dataset=d)) for d in ("sysu", "regdb")}


def rank1(table: pd.DataFrame, cue: str, search: str) -> float:
    return table[(table.cue == cue) & (table.search == search)].rank1.item()


def test_a_reader_of_the_factors_finds_everyone_and_chance_nobody_in_particular(quick):
    for table in quick.values():
        every = table[table.cue.isin(["factors", "outline, one box, gait and view"])]
        assert (every.rank1 == 1).all() and every.mAP.min() > 0.999
    assert rank1(quick["sysu"], "chance", "sysu all 1-shot official") < 0.4  # one in six


def test_searches_and_their_sizes(quick):
    sizes = quick["sysu"][quick["sysu"].cue == "factors"].set_index("search")[["queries", "gallery"]]
    assert sizes.loc["sysu all 1-shot official"].tolist() == [6 * 2 * 4, 6 * 4]
    assert sizes.loc["visible to visible, other camera"].tolist() == [
        6 * 4 * 10,
        6 * 3,
    ]  # one image of each, own camera out
    assert sizes.loc["thermal to thermal, other camera"].tolist() == [6 * 2 * 4, 6]
    assert set(quick["regdb"].search) == {"regdb v2t", "regdb t2v"}  # one camera a modality: no other to search


def test_colour_counts_within_a_modality_and_shape_across(quick):
    table, across, within = quick["sysu"], "sysu all 1-shot official", "visible to visible, other camera"
    assert rank1(table, "colour", within) > 0.7 and rank1(table, "colour", across) < 0.35
    assert rank1(table, "parts", across) > rank1(table, "outline", across) > rank1(table, "colour", across)
    assert rank1(table, "outline, one box", across) > rank1(table, "outline", across)


def test_features_of_one_camera_find_nobody_in_another(home):
    wanted = experiment("quick", "identity")
    data, _ = runs.load_data(wanted)
    test = data[data.split == "test"]
    person = torch.eye(int(data.pid.max()) + 1)[torch.tensor(test.pid.to_numpy())]
    assert (cues.search(wanted, person, test).rank1 == 1).all()
    noise = torch.randn(len(test), 64, generator=torch.Generator().manual_seed(1))
    camera = 100 * torch.eye(7)[torch.tensor(test.cam.to_numpy())]
    found = cues.search(wanted, torch.cat([camera, noise], 1), test)
    assert (found.rank1 < 0.5).all()  # nearest are images of the query's camera, and those are left out


def test_outline_and_parts_see_no_surface_and_colour_no_heat():
    rows = rows_of(SPEC)
    maps, visible = cues.part_maps(SPEC, rows, 48, 24), (rows.modality == 0).to_numpy()
    base = cues.colour(images(SPEC, rows), maps)
    for change, changed in (({"colour_seed": 9}, visible), ({"heat_seed": 9}, ~visible)):
        other = replace(SPEC, **change)
        assert torch.equal(cues.part_maps(other, rows, 48, 24), maps)
        differs = (cues.colour(images(other, rows), maps) != base).any(1).numpy()
        assert np.array_equal(differs, changed), change
    assert not torch.equal(cues.part_maps(replace(SPEC, seed=4), rows, 48, 24), maps)


def test_part_maps_lie_on_the_person():
    spec = replace(SPEC, nuisance=0.0, height=96, width=48)
    rows = rows_of(spec)
    maps = cues.part_maps(spec, rows, 96, 48).numpy()
    seen = maps >= 0
    assert 0.15 < seen.mean() < 0.5 and set(np.unique(maps)) <= {-1, *range(12)}
    head = np.isin(maps, [0, 1, 2]).nonzero()[1].mean()
    shoes = (maps == 7).nonzero()[1].mean()
    assert head < 20 < 75 < shoes  # rows from the top
    grey = images(spec, rows)[(rows.modality == 1).to_numpy()].mean(1)
    warm, around = (
        grey[seen[(rows.modality == 1).to_numpy()]].mean(),
        grey[~seen[(rows.modality == 1).to_numpy()]].mean(),
    )
    assert warm > around + 20


def test_what_is_held_fixed_no_longer_differs():
    rows, every = rows_of(SPEC), {k: v for fields in cues.FIXED.values() for k, v in fields.items()}
    maps = cues.part_maps(SPEC, rows, 48, 24, **every)
    for pid in rows.pid.unique():
        own = maps[np.flatnonzero(rows.pid == pid)]
        assert (own == own[0]).all()
    free = cues.part_maps(SPEC, rows, 48, 24, **cues.FIXED["view"])
    assert not (free[:12] == free[0]).all()


def test_shape_is_blind_to_mirrors_and_colour_to_place():
    maps = cues.part_maps(SPEC, rows_of(SPEC), 48, 24)
    for parts in ((), (3, 6)):
        assert torch.allclose(cues.shape(maps, parts), cues.shape(maps.flip(-1), parts), atol=1e-6)
    assert not torch.allclose(cues.shape(maps), cues.shape(maps.flip(-2)))
    pixels = np.zeros((2, 3, 24, 12), np.uint8)
    seen = torch.full((2, 24, 12), -1, dtype=torch.int8)
    seen[0, :12, 2:6], seen[1, 12:, 6:10] = 3, 3
    pixels[0, 0, :6, 2:6], pixels[1, 0, 12:18, 6:10] = 200, 200  # red above, black below, wherever it stands
    pixels[0, :, 13:, 0] = 255  # background
    first, second = cues.colour(pixels, seen)
    assert torch.equal(first, second) and first.square().sum() == pytest.approx(cues.STRIPES)
    assert not torch.equal(cues.colour(pixels[:, ::-1].copy(), seen)[0], first)  # blue above


def test_looks_of_hand_made_images():
    flat = np.full((1, 3, 40, 24), 90, np.uint8)
    flat[..., 8:16] = 150  # a bright person, edges at two columns of 23
    found = cues.looks(np.concatenate([flat, flat, 240 - flat]))
    assert found["centre"] == 60 and found["dark centre"] == pytest.approx(1 / 3)
    assert found["contrast"] == pytest.approx(60 * (2 / 9) ** 0.5) and found["edges"] == pytest.approx(
        120 / 23 / found["contrast"]
    )
    assert cues.looks(np.full((2, 3, 40, 24), 7, np.uint8)) == dict.fromkeys(found, 0.0)


def test_bad_cues_and_data_are_named(home, tmp_path):
    with pytest.raises(ValueError, match="unknown cue 'color': did you mean 'colour'"):
        cues.table(experiment("quick", "identity"), ("color",))
    with pytest.raises(ValueError, match=r"no synvt\.json"):
        cues.spec_of(tmp_path)


def test_a_preset_with_other_values_has_a_name():
    base = PRESETS["synvt_sysu"]
    assert synvt.preset("synvt_sysu") == base
    changed = synvt.preset("synvt_sysu,nuisance=1.0,yaw=1,identities=5+1+2,colour_seed=7")
    assert changed == replace(base, nuisance=1.0, yaw=1, identities=(5, 1, 2), colour_seed=7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("synvt_sisu,yaw=1.0", "unknown data set 'synvt_sisu': did you mean 'synvt_sysu'"),
        ("synvt_sysu,nuisanse=1.0", "unknown field of a SynVT set 'nuisanse': did you mean 'nuisance'"),
        ("synvt_sysu,yaw=1.0,yaw=0.5", "unknown field of a SynVT set 'yaw'"),
        ("synvt_sysu,yaw=wide", "yaw must be a number from 0 to 2, not 'wide'"),
        ("synvt_sysu,yaw", "yaw must be a number"),
        ("synvt_sysu,identities=5", "identities must be"),
        ("synvt_sysu,", "unknown field"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(name, message):
    with pytest.raises(ValueError, match=message):
        synvt.preset(name)


def test_a_run_on_a_changed_preset_makes_its_data(home, capsys):
    name = "synvt_sysu_quick,images=1,gallery_images=2,identities=8+1+2"
    table, store = runs.load_data(experiment("quick", "identity", data=name))
    assert (
        len(table) == len(store.pixels) == 9 * 6 + 2 * (4 * 2 + 2) and (home / "data" / name / "synvt.json").is_file()
    )
    assert launch.main(["data", "make", name]) == 0 and name in capsys.readouterr().out
    assert launch.main(["data", "make", "synvt_sysu_quick,images=0"]) == 1
    assert "images must be a whole number" in capsys.readouterr().err


def test_bootstrap_of_a_mean():
    values = np.random.default_rng(0).normal(0.3, 0.5, 400)
    low, high = bootstrap.bootstrap_mean(values)
    assert (low, high) == bootstrap.bootstrap_mean(values) != bootstrap.bootstrap_mean(values, seed=1)
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.006)
    assert high == pytest.approx(values.mean() + error, abs=0.006)
    narrow = bootstrap.bootstrap_mean(values, level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high
    assert bootstrap.bootstrap_mean([0.25, 0.25]) == (0.25, 0.25)


def test_bootstrap_by_group_is_as_wide_as_its_groups():
    values = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0], 40)
    groups = np.repeat(["a", "b", "c", "d", "e"], 40)
    alone, together = bootstrap.bootstrap_mean(values), bootstrap.bootstrap_mean(values, groups)
    five = bootstrap.bootstrap_mean([0.0, 1.0, 0.0, 1.0, 1.0])
    assert together == five and together[1] - together[0] > 4 * (alone[1] - alone[0])
    uneven = bootstrap.bootstrap_mean([1.0, 0.0, 0.0, 0.0], ["a", "b", "b", "b"])
    assert uneven == (0.0, 1.0)
    assert bootstrap.bootstrap_mean(values, np.zeros(200)) == (0.6, 0.6)
    for bad in ([], [1.0, np.nan]):
        with pytest.raises(ValueError, match="finite values"):
            bootstrap.bootstrap_mean(bad)


@pytest.mark.parametrize(("matches", "gallery"), [(1, 1), (1, 4), (2, 5), (3, 3), (4, 6)])
def test_chance_is_the_mean_over_all_orders(matches, gallery):
    right = np.arange(gallery) < matches
    orders = np.array(list(permutations(right)))
    ap = [(np.arange(1, matches + 1) / (o.nonzero()[0] + 1)).mean() for o in orders]
    rank, expected = protocols.chance([matches], [gallery])
    assert rank[0] == pytest.approx(orders[:, 0].mean()) and expected[0] == pytest.approx(np.mean(ap))


def test_transfer_by_query_adds_up_to_transfer(home, shared):
    run, root = runs.run(experiment("quick", "baseline")), shared / "realdata" / "kaist_ped"
    for histograms in (False, True):
        tables = transfer.transfer(run, root, histograms=histograms)
        queries = transfer.transfer_queries(run, root, histograms=histograms)
        for direction, part in queries.groupby("direction"):
            whole = tables[f"folder {direction}"].iloc[0]
            assert len(part) == whole.queries
            assert part.rank1.mean() == pytest.approx(whole.rank1) and part["mAP"].mean() == pytest.approx(whole.mAP)
            assert part.pid.max() <= 15  # the others have one instant alone
            assert part.chance_rank1.between(0, 0.2).all() and (part.chance_mAP >= part.chance_rank1).all()


def test_neighbours_are_those_of_a_plain_loop():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(30, 5, generator=g)
    test = pd.DataFrame({"pid": np.arange(30) % 6, "cam": np.arange(30) % 4, "modality": np.arange(30) % 2})
    found, rows = cues.neighbours(features, test), test.to_dict("records")
    unit = (features / features.norm(dim=1, keepdim=True)).tolist()
    seen = {name: [] for name in ("same person", "same camera", "same modality", "same person across", "chance across")}
    for i, one in enumerate(rows):
        cosine = [sum(a * b for a, b in zip(unit[i], other, strict=True)) for other in unit]
        near = rows[max((j for j in range(30) if j != i), key=cosine.__getitem__)]
        others = [j for j in range(30) if rows[j]["modality"] != one["modality"]]
        for name, column in (("same person", "pid"), ("same camera", "cam"), ("same modality", "modality")):
            seen[name].append(near[column] == one[column])
        seen["same person across"].append(rows[max(others, key=cosine.__getitem__)]["pid"] == one["pid"])
        seen["chance across"].append(sum(rows[j]["pid"] == one["pid"] for j in others) / len(others))
    assert found == pytest.approx({name: 100 * sum(values) / 30 for name, values in seen.items()})
