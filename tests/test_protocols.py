"""Searches as values: names, what a set allows, and the numbers of each."""

import numpy as np
import pandas as pd
import pytest
import torch

from vtlib import evaluate, protocols
from vtlib.systems import FITTED, SEARCHES


def rows(people=6, cams=(1, 2, 3, 4, 5, 6), images=2):
    """A test table in the SYSU layout, every person seen by all of some cameras."""
    keys = [(pid, cam, number) for pid in range(1, people + 1) for cam in cams for number in range(1, images + 1)]
    table = pd.DataFrame(keys, columns=["pid", "cam", "number"])
    modality = table.cam.isin((3, 6)).astype(int)
    return table.assign(modality=modality, split="test", frame="", path=[f"{i}.jpg" for i in range(len(table))])


def embedded(layout, table, permutations=None, seed=0):
    features = torch.randn(len(table), 8, generator=torch.Generator().manual_seed(seed))
    return protocols.Embedded(layout, protocols.columns(table) | {"features": features}, permutations)


def test_every_name_leads_back_to_its_search():
    assert all(protocols.named(str(search)) == search for search in protocols.EVERY.values())
    assert len(protocols.EVERY) == (len(protocols.SYSU) + 6) * (len(protocols.WAYS) + len(SEARCHES) + len(FITTED))
    with pytest.raises(
        ValueError, match="unknown protocol 'sysu all 1-shot oficial': did you mean 'sysu all 1-shot off"
    ):
        protocols.named("sysu all 1-shot oficial")


def test_the_tables_are_those_of_the_evaluator():
    table = rows()
    test = embedded("sysu", table)
    assert [str(s) for s in test.searches()] == ["sysu all 1-shot community", "sysu indoor 1-shot community"]
    columns = (test.images[c].numpy() for c in ("features", "pid", "cam", "number"))
    wanted = evaluate.sysu(*columns, mode="indoor", gallery="community", trials=3)
    pd.testing.assert_frame_equal(test.tables(3)["sysu indoor 1-shot community"], wanted)
    each = test.queries(protocols.named("sysu indoor 1-shot community"), 3)
    np.testing.assert_allclose(each[["rank1", "mAP"]].mean(), wanted[["rank1", "mAP"]].mean())
    v, t = (np.flatnonzero(table.modality == m) for m in (0, 1))
    of_two = embedded("regdb", table)
    f, pids = of_two.images["features"], table.pid.to_numpy()
    both = evaluate.regdb(f[v], pids[v], f[t], pids[t])
    pd.testing.assert_frame_equal(pd.concat(of_two.tables(1).values(), ignore_index=True), both)


@pytest.mark.parametrize(
    ("cams", "modes"), [((3, 4, 5, 6), ["all"]), ((1, 2, 6), ["all", "indoor"]), ((2, 6), ["all", "indoor"])]
)
def test_a_mode_without_a_query_is_left_out(cams, modes):
    test = embedded("sysu", rows(cams=cams))
    assert [s.mode for s in test.searches()] == modes and set(test.tables(2)) == set(map(str, test.searches()))


@pytest.mark.parametrize("cams", [(1, 2, 4, 5), (3, 6), (2, 3)])  # a probe of camera 3 sees nothing of camera 2
def test_a_set_without_any_query_is_one_sentence_before_the_training(cams):
    with pytest.raises(ValueError, match="no thermal test image has a visible image of its person"):
        protocols.rehearse("sysu", rows(cams=cams), None, 2)


def test_a_person_without_an_indoor_gallery_is_no_query_there_and_one_elsewhere():
    table = rows()
    table = table[(table.pid > 1) | ~table.cam.isin((1, 2))].reset_index(drop=True)
    found = embedded("sysu", table).tables(2)
    assert set(found["sysu all 1-shot community"].queries) == {24}
    assert set(found["sysu indoor 1-shot community"].queries) == {20}


def test_ten_shots_where_every_camera_of_a_mode_has_ten_images():
    table = rows(people=3, images=10)
    permutations = {(c, p): np.array([np.random.default_rng(t).permutation(10) + 1 for t in range(2)])
                    for c in range(1, 7) for p in range(1, 4)}  # fmt: skip
    names = set(map(str, embedded("sysu", table, permutations).searches()))
    kinds = ((1, "official"), (1, "community"), (10, "official"))
    assert names == {f"sysu {mode} {shots}-shot {gallery}" for mode in ("all", "indoor") for shots, gallery in kinds}
    fewer = table[(table.cam != 4) | (table.number < 10)].reset_index(drop=True)
    names = set(map(str, embedded("sysu", fewer, permutations).searches()))
    assert "sysu indoor 10-shot official" in names and "sysu all 10-shot official" not in names


def test_pairs_of_one_instant_are_hidden_in_a_folder_and_in_its_single_queries():
    frames = ["", "a/1", "a/2", "", "a/1", "b/9"]  # of one person, three visible and three thermal images
    table = pd.DataFrame({"pid": [1] * 6, "cam": [1] * 3 + [2] * 3, "number": [1, 2, 3] * 2, "frame": frames})
    table = table.assign(modality=[0] * 3 + [1] * 3, split="test")
    hidden = embedded("folder", table).hidden
    assert hidden.nonzero().tolist() == [[1, 1]]  # an unknown instant is that of no other image
    other = embedded("folder", pd.concat([table, table.assign(pid=2)], ignore_index=True))
    assert other.hidden.sum() == 2
    each = other.queries(protocols.named("folder v2t"), 1)
    np.testing.assert_allclose(each.mAP.mean(), other.table(protocols.named("folder v2t"), 1).mAP.item())


def test_shown_searches_go_from_the_best_to_the_worst_and_skip_the_camera_of_the_same_place():
    table = rows(people=5)
    test = embedded("sysu", table)
    chosen, found, right, titles = test.examples(4, 20)
    cams, pids = table.cam.to_numpy(), table.pid.to_numpy()
    assert found.shape == (4, 20) and len(set(pids[chosen])) == 4 == len(titles)
    np.testing.assert_array_equal(right, (pids[chosen][:, None] == pids[found]) & (found >= 0))
    precision = []
    for query, gallery, match, title in zip(chosen, found, right, titles, strict=True):
        assert cams[query] != 3 or 2 not in cams[gallery[gallery >= 0]]
        assert f"right at {1 + match.argmax()} of" in title
        places = 1 + np.flatnonzero(match)
        precision.append((np.arange(1, len(places) + 1) / places).mean() if len(found.T) >= 40 else 1 / places[0])
    assert precision[0] >= precision[-1]


def test_a_summary_has_interval_chance_and_the_number_of_galleries():
    table = rows(people=8, images=10)
    permutations = {(c, p): np.array([np.random.default_rng(t).permutation(10) + 1 for t in range(3)])
                    for c in range(1, 7) for p in range(1, 9)}  # fmt: skip
    found = embedded("sysu", table, permutations).summary(3)
    assert (found.rank1_low <= found.rank1).all() and (found.rank1 <= found.rank1_high).all()
    np.testing.assert_allclose(found.chance_rank1, 100 / 8)  # of eight people
    assert found.galleries["sysu all 10-shot official"] == 1 and found.galleries["sysu all 1-shot official"] == 3
    assert (found.people == 8).all() and found.gallery["sysu indoor 10-shot official"] == 160


def test_permutations_that_do_not_fit_stop_before_the_training():
    permutations = {(c, p): np.array([[1, 2]]) for c in range(1, 7) for p in range(1, 6)}  # of person 6 none
    with pytest.raises(ValueError, match="identity 6"):
        protocols.rehearse("sysu", rows(), permutations, 1)
