"""Ranking and both protocols against the loop oracles, hand-made cases and the official evaluator's numbers."""

import json
import random
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch

from vtlib import evaluate

PROTOCOL = Path(__file__).parents[2] / "shared" / "protocol"
COLUMNS = ["trial", "rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "queries", "gallery"]
RANKS = (1, 5, 10, 20)


# rank_metrics


def same(found, expected, tolerance=1e-12):
    """Metrics equal an oracle's; a CMC curve that stops earlier goes on with its last value."""
    length = max(len(found.cmc), len(expected.cmc))
    curves = [np.pad(np.asarray(m.cmc, dtype=float), (0, length - len(m.cmc)), mode="edge") for m in (found, expected)]
    np.testing.assert_allclose(*curves, atol=tolerance, rtol=0)
    assert float(found.mAP) == pytest.approx(expected.mAP, abs=tolerance)
    assert float(found.mINP) == pytest.approx(expected.mINP, abs=tolerance)
    assert int(found.valid) == expected.valid


def problem(seed, ties=False, masked=True):
    """Random similarity (Q, G), query and gallery identities, exclude (Q, G) or None; some queries have no match."""
    rng = np.random.default_rng(seed)
    queries, gallery = rng.integers(5, 30), rng.integers(5, 40)
    similarity = rng.normal(size=(queries, gallery))
    similarity = np.round(2 * similarity) if ties else similarity
    query_pids, gallery_pids = rng.integers(-3, 7, queries), rng.integers(-3, 5, gallery)
    return similarity, query_pids, gallery_pids, rng.random((queries, gallery)) < 0.4 if masked else None


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_rank_metrics_equals_oracle(ties, masked, first):
    for seed in range(12):
        *drawn, exclude = problem(seed, ties, masked)
        found = evaluate.rank_metrics(*drawn, exclude=exclude, first_match_per_identity=first)
        same(found, oracles.rank_metrics(*drawn, exclude, first))


def hand_made():
    """Three queries, of identities 1, 2 and 3, against a gallery of identities 1, 2, 1, 3.

    Query 1 ranks the gallery 1 2 1 3: matches at 1 and 3, AP (1/1 + 2/3) / 2 = 5/6, INP 2/3.
    Query 2 ranks it 1 1 2 3: match at 3 (at 2 when identity 1 counts once), AP = INP = 1/3.
    Query 3 sees four equal similarities, so gallery order 1 2 1 3: match at 4 (at 3), AP = INP = 1/4.
    """
    similarity = np.array([[0.9, 0.8, 0.7, 0.1], [0.5, 0.4, 0.6, 0.1], [0.5, 0.5, 0.5, 0.5]])
    return similarity, np.array([1, 2, 3]), np.array([1, 2, 1, 3])


@pytest.mark.parametrize("module", [evaluate, oracles], ids=["vtlib", "oracle"])
def test_hand_made_case(module):
    mean_ap, mean_inp = (5 / 6 + 1 / 3 + 1 / 4) / 3, (2 / 3 + 1 / 3 + 1 / 4) / 3
    plain = module.rank_metrics(*hand_made())
    same(plain, oracles.Ranks([1 / 3, 1 / 3, 2 / 3, 1], mean_ap, mean_inp, 3))
    assert np.asarray(plain.cmc)[:4] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1])
    first = module.rank_metrics(*hand_made(), first_match_per_identity=True)
    same(first, oracles.Ranks([1 / 3, 2 / 3, 1], mean_ap, mean_inp, 3))


@pytest.mark.parametrize("module", [evaluate, oracles], ids=["vtlib", "oracle"])
def test_hand_made_case_with_a_mask(module):
    # Without its best entry query 1 ranks 2 1 3: AP = INP = 1/2. Without entry 1 query 2 has no match and drops out.
    exclude = np.array([[True, False, False, False], [False, True, False, False], [False] * 4])
    expected = oracles.Ranks([0, 1 / 2, 1 / 2, 1], (1 / 2 + 1 / 4) / 2, (1 / 2 + 1 / 4) / 2, 2)
    same(module.rank_metrics(*hand_made(), exclude=exclude), expected)
    # One entry per identity: query 1 ranks 2 1 3, query 3 ranks 1 2 3
    first = module.rank_metrics(*hand_made(), exclude=exclude, first_match_per_identity=True)
    same(first, expected._replace(cmc=[0, 1 / 2, 1]))


def test_perfect_and_worst_ranking():
    pids = np.arange(6)
    same(evaluate.rank_metrics(np.eye(6), pids, pids), oracles.Ranks([1] * 6, 1, 1, 6))
    worst = evaluate.rank_metrics(-np.eye(6), pids, pids)
    same(worst, oracles.Ranks([0] * 5 + [1], 1 / 6, 1 / 6, 6))


def test_average_precision_equals_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(6):
        similarity, query_pids, gallery_pids, exclude = problem(seed)
        for row, pid, dropped in zip(similarity, query_pids, exclude, strict=True):
            relevant = (gallery_pids == pid)[~dropped]
            if relevant.any():
                expected = metrics.average_precision_score(relevant, row[~dropped])
                found = evaluate.rank_metrics(row[None], [pid], gallery_pids, exclude=dropped[None])
                assert found.mAP == pytest.approx(expected, abs=1e-12)


def test_queries_without_a_match_are_left_out():
    similarity, query_pids, gallery_pids = hand_made()
    expected = evaluate.rank_metrics(similarity, query_pids, gallery_pids)
    strangers = np.vstack([similarity[:1], similarity, similarity[:2]]), np.array([8, 1, 2, 3, 9, 9])
    found = evaluate.rank_metrics(*strangers, gallery_pids)
    same(found, oracles.Ranks(expected.cmc, expected.mAP, expected.mINP, 3))


@pytest.mark.parametrize("first", [False, True])
def test_no_query_with_a_match_is_an_error(first):
    similarity, query_pids, gallery_pids = hand_made()
    with pytest.raises(ValueError):
        evaluate.rank_metrics(similarity, query_pids + 10, gallery_pids, first_match_per_identity=first)
    with pytest.raises(ValueError):
        excluded = gallery_pids == query_pids[:, None]
        evaluate.rank_metrics(similarity, query_pids, gallery_pids, exclude=excluded, first_match_per_identity=first)


@pytest.mark.parametrize("first", [False, True])
def test_all_queries_at_once_equals_pieces(first):
    """Whatever the evaluator's own chunks are: the mean over 3,000 queries is the mean over pieces of 7 to 1,500."""
    rng = np.random.default_rng(0)
    similarity, exclude = np.round(rng.normal(size=(3000, 37)), 1), rng.random((3000, 37)) < 0.5
    query_pids, gallery_pids = rng.integers(0, 14, 3000), rng.integers(0, 12, 37)
    gallery_pids[:12] = np.arange(12)
    whole = evaluate.rank_metrics(similarity, query_pids, gallery_pids, exclude=exclude, first_match_per_identity=first)
    bounds = [0, 7, 100, 1500, 3000]
    parts = [
        evaluate.rank_metrics(
            similarity[a:b], query_pids[a:b], gallery_pids, exclude=exclude[a:b], first_match_per_identity=first
        )
        for a, b in pairwise(bounds)
    ]
    share = np.array([float(p.valid) for p in parts]) / float(whole.valid)
    assert share.sum() == pytest.approx(1)
    for name in ("mAP", "mINP"):
        expected = sum(s * getattr(p, name) for s, p in zip(share, parts, strict=True))
        assert getattr(whole, name) == pytest.approx(expected, abs=1e-12)
    curve = sum(s * np.asarray(p.cmc, dtype=float) for s, p in zip(share, parts, strict=True))
    np.testing.assert_allclose(np.asarray(whole.cmc), curve, atol=1e-12)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("few", [False, True])
def test_every_query_equals_the_oracle_alone_with_few_and_with_many_matches(monkeypatch, few, first):
    """Few matches are counted, many are found in sorted scores; float32 with ties, as features have them."""
    used = {"rank_by_counting": 0, "rank_by_sorting": 0}

    def counted(name, real):
        def call(*given):
            used[name] += 1
            return real(*given)

        return call

    for name in used:
        monkeypatch.setattr(evaluate, name, counted(name, getattr(evaluate, name)))
    rng = np.random.default_rng(0)
    gallery_pids = rng.permutation(np.repeat(np.arange(20 if few else 4), 3 if few else 15))
    query_pids = rng.permutation(np.repeat(np.arange(-1, 4), 6))
    for digits in (7, 1):
        similarity = np.round(rng.normal(size=(30, 60)), digits).astype(np.float32)
        exclude = rng.random((30, 60)) < 0.5
        found = evaluate.rank_queries(
            similarity, query_pids, gallery_pids, exclude=exclude, first_match_per_identity=first
        )
        for q in range(30):
            one = similarity[q : q + 1], query_pids[q : q + 1], gallery_pids, exclude[q : q + 1]
            if not (~exclude[q] & (gallery_pids == query_pids[q])).any():
                assert found.first[q] == 0 and np.isnan(found.ap[q]) and np.isnan(found.inp[q])
                continue
            expected = oracles.rank_metrics(*one, first)
            assert found.ap[q] == pytest.approx(expected.mAP, abs=1e-12)
            assert found.inp[q] == pytest.approx(expected.mINP, abs=1e-12)
            assert found.first[q] == 1 + np.flatnonzero(expected.cmc)[0]
    assert bool(used["rank_by_sorting"]) != few and used["rank_by_counting"]  # many: where scores are equal


def test_rows_from_a_function_are_those_of_the_matrix_and_few_at_once(monkeypatch):
    rng = np.random.default_rng(1)
    features, gallery = rng.normal(size=(50, 8)), rng.normal(size=(70, 8))
    query_pids, gallery_pids = rng.integers(0, 9, 50), rng.integers(0, 9, 70)
    exclude, asked = rng.random((50, 70)) < 0.3, []

    def rows(index):
        asked.append(len(index))
        return evaluate.similarity_matrix(features[index], gallery)

    whole = evaluate.similarity_matrix(features, gallery)
    wanted = evaluate.rank_metrics(whole, query_pids, gallery_pids, exclude=exclude)
    monkeypatch.setattr(evaluate, "CHUNK", 7 * 70 + 5)
    found = evaluate.rank_metrics(rows, query_pids, gallery_pids, exclude=lambda index: exclude[index])
    same(found, wanted)
    assert max(asked) == 7 and sum(asked) == 50


def test_metrics_are_fractions_and_the_curve_rises():
    *drawn, exclude = problem(3)
    found = evaluate.rank_metrics(*drawn, exclude=exclude)
    curve = np.asarray(found.cmc)
    assert ((curve >= 0) & (curve <= 1)).all() and (np.diff(curve) >= 0).all() and curve[-1] == 1
    assert 0 < found.mINP <= 1 and 0 < found.mAP <= 1


def test_rank_metrics_leaves_its_arguments_alone():
    drawn = problem(4, ties=True)
    before = [array.copy() for array in drawn]
    evaluate.rank_metrics(*drawn[:3], exclude=drawn[3], first_match_per_identity=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, drawn, strict=True))


# SYSU-MM01


@pytest.fixture(scope="module")
def full():
    """The made-up features of gen_features.py for the 96 test identities, and the permutations of the same file."""
    if not (PROTOCOL / "rand_perm_cam.mat").exists():
        pytest.skip(f"{PROTOCOL} with the official permutations is not here")
    scipy_io = pytest.importorskip("scipy.io")
    sys.path.insert(0, str(PROTOCOL))
    try:
        from gen_features import features
    finally:
        sys.path.remove(str(PROTOCOL))
    made = features(str(PROTOCOL / "rand_perm_cam.mat"))
    ids = json.loads((PROTOCOL / "sysu_structure.json").read_text())["ids"]["test"]
    # cell c - 1 of `rand_perm_cam` holds a cell per identity: a (10 runs, n) matrix of image numbers, maybe empty
    cells = scipy_io.loadmat(PROTOCOL / "rand_perm_cam.mat")["rand_perm_cam"]
    permutations = {
        (cam, pid): cells[cam - 1, 0][pid - 1, 0].astype(int)
        for cam in range(1, 7)
        for pid in ids
        if cells[cam - 1, 0][pid - 1, 0].size
    }
    groups = [(made[cam, pid], pid, cam) for cam in range(1, 7) for pid in ids if len(made.get((cam, pid), ()))]
    table = {
        "features": np.concatenate([x for x, _, _ in groups]),
        "pids": np.concatenate([np.full(len(x), pid) for x, pid, _ in groups]),
        "cams": np.concatenate([np.full(len(x), cam) for x, _, cam in groups]),
        "numbers": np.concatenate([np.arange(1, len(x) + 1) for x, _, _ in groups]),
    }
    return table, permutations


@pytest.mark.parametrize("shots", [1, 10])
@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_equals_the_official_evaluator(full, mode, shots):
    """All ten trials as printed by the official MATLAB evaluator (run under Octave) on the same features."""
    table, permutations = full
    expected = json.loads((PROTOCOL / "sysu_official_octave_expected.json").read_text())["results"]
    expected = expected[f"{mode}_search_{shots}shot"]
    found = evaluate.sysu(**table, mode=mode, shots=shots, permutations=permutations, metric="euclidean")
    assert list(found.columns) == COLUMNS and len(found) == 10
    ranks = found[[f"rank{r}" for r in RANKS]].to_numpy()
    np.testing.assert_allclose(ranks, expected["rank1_5_10_20_per_trial"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(found["mAP"], expected["map_per_trial"], atol=1e-9, rtol=0)
    assert found["mAP"].mean() == pytest.approx(expected["map_mean"], abs=1e-9)
    assert found["rank5"].mean() == pytest.approx(expected["cmc_mean"][4], abs=1e-9)
    assert set(found["queries"]) == {expected["valid_queries"]} == {3803 if mode == "all" else 2208}
    assert set(found["gallery"]) == {expected["gallery"]} == {{"all": 301, "indoor": 112}[mode] * shots}


@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_community_counts(full, mode):
    table, _ = full
    found = evaluate.sysu(**table, mode=mode, gallery="community", trials=1, metric="euclidean")
    assert set(found["queries"]) == {3803 if mode == "all" else 2208}
    assert set(found["gallery"]) == {301 if mode == "all" else 112}


def small(seed=0, least=3, missing=0.2, identities=7):
    """A table with SYSU's six cameras, ragged folders of which some are missing, shuffled rows; its permutations."""
    rng = np.random.default_rng(seed)
    rows, permutations = [], {}
    for pid in 10 + 3 * np.arange(identities):
        for cam in range(1, 7):
            count = least + int(rng.integers(0, 4))
            if cam < 6 and rng.random() < missing:  # camera 6 has everybody
                continue
            rows += [(pid, cam, number) for number in range(1, count + 1)]
            permutations[cam, int(pid)] = np.array([rng.permutation(count) + 1 for _ in range(10)])
    pids, cams, numbers = np.array(rows)[rng.permutation(len(rows))].T
    centre = {pid: rng.normal(size=5) for pid in np.unique(pids)}
    features = np.array([centre[p] for p in pids]) + rng.normal(size=(len(pids), 5))
    return {"features": features, "pids": pids.copy(), "cams": cams.copy(), "numbers": numbers.copy()}, permutations


def same_trials(found, expected):
    """The DataFrame of sysu() equals the oracle's list of (Ranks, gallery size)."""
    assert list(found.columns)[-8:] == COLUMNS[1:] and len(found) == len(expected)
    for (_, row), (ranks, gallery) in zip(found.iterrows(), expected, strict=True):
        for r in RANKS:
            assert row[f"rank{r}"] == pytest.approx(ranks.cmc[min(r, len(ranks.cmc)) - 1], abs=1e-12)
        assert row["mAP"] == pytest.approx(ranks.mAP, abs=1e-12)
        assert row["mINP"] == pytest.approx(ranks.mINP, abs=1e-12)
        assert (row["queries"], row["gallery"]) == (ranks.valid, gallery)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("gallery", ["official", "community"])
@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_equals_oracle(mode, gallery, metric):
    """Fewer than 20 identities: ranks beyond the list keep its last value."""
    table, permutations = small()
    options = {"mode": mode, "shots": 1, "gallery": gallery, "permutations": permutations, "metric": metric}
    found = evaluate.sysu(**table, **options)
    same_trials(found, oracles.sysu(**table, **options, trials=10))
    assert list(found["trial"]) == list(range(10))


@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_ten_shots_equals_oracle(mode):
    table, permutations = small(seed=2, least=10, identities=4)
    options = {"mode": mode, "shots": 10, "gallery": "official", "permutations": permutations}
    expected = oracles.sysu(**table, **options, trials=2, metric="cosine")
    same_trials(evaluate.sysu(**table, **options, trials=2), expected)


@pytest.mark.parametrize("gallery", ["official", "community"])
def test_sysu_row_order_does_not_matter(gallery):
    table, permutations = small(seed=4)
    order = np.random.default_rng(1).permutation(len(table["pids"]))
    moved = {name: column[order] for name, column in table.items()}
    one, other = (evaluate.sysu(**t, gallery=gallery, permutations=permutations) for t in (table, moved))
    np.testing.assert_allclose(one.to_numpy(dtype=float), other.to_numpy(dtype=float), atol=1e-12)


def test_sysu_community_draw_needs_no_permutations_and_leaves_random_alone():
    table, _ = small(seed=5)
    one = evaluate.sysu(**table, gallery="community")
    random.seed(99)
    before = random.getstate()
    other = evaluate.sysu(**table, gallery="community")
    assert one.equals(other)
    assert random.getstate() == before  # an evaluation in the middle of training must not change its random numbers


def test_sysu_official_draw_needs_permutations():
    table, permutations = small(seed=5)
    with pytest.raises(ValueError, match="permutations"):
        evaluate.sysu(**table, gallery="official")
    permutations.pop((6, 10))  # a thermal folder: never drawn from
    evaluate.sysu(**table, gallery="official", permutations=permutations)


def test_sysu_camera_3_never_sees_camera_2():
    """Every gallery image of camera 2 leaves the list of a camera 3 query, a match as well as the others."""
    pids, cams = np.array([1, 1, 2, 1, 1]), np.array([2, 1, 2, 3, 6])
    features = np.array([[1.0, 0.0], [0.6, 0.8], [0.9, 0.1], [1.0, 0.0], [1.0, 0.0]])
    table = {"features": features, "pids": pids, "cams": cams, "numbers": np.ones(5, dtype=int)}
    permutations = {(int(c), int(p)): np.ones((10, 1), dtype=int) for c, p in zip(cams, pids, strict=True)}
    found = evaluate.sysu(**table, permutations=permutations, trials=1).iloc[0]
    # Camera 3 is left with camera 1: its match at 1, AP 1. Camera 6 ranks 1 2 1: AP (1 + 2/3) / 2, INP 2/3
    assert found["mAP"] == pytest.approx((1 + 5 / 6) / 2) and found["mINP"] == pytest.approx((1 + 2 / 3) / 2)
    assert (found["queries"], found["gallery"], found["rank1"]) == (2, 3, 1)
    only_camera_2 = {name: np.delete(column, 1, axis=0) for name, column in table.items()}
    found = evaluate.sysu(**only_camera_2, permutations=permutations, trials=1).iloc[0]
    assert (found["queries"], found["gallery"]) == (1, 2)  # camera 3 has no match left


def test_same_place_is_camera_3_before_camera_2_alone():
    found = evaluate.same_place(range(1, 7), range(1, 7))
    assert [(int(q) + 1, int(g) + 1) for q, g in np.argwhere(found)] == [(3, 2)]


def without(table, pid, *cams):
    """A table without some cameras of an identity."""
    kept = ~((table["pids"] == pid) & np.isin(table["cams"], cams))
    return {name: column[kept] for name, column in table.items()}


def test_a_person_without_an_indoor_gallery_is_searched_in_all_and_skipped_indoors():
    table, permutations = small(missing=0)
    some = without(table, 10, 1, 2)
    for mode in ("all", "indoor"):
        options = {"mode": mode, "shots": 1, "gallery": "official", "permutations": permutations}
        found = evaluate.sysu(**some, **options)
        same_trials(found, oracles.sysu(**some, **options, trials=10, metric="cosine"))
        skipped = (table["pids"] == 10) & np.isin(table["cams"], (3, 6)) & (mode == "indoor")
        assert set(found["queries"]) == {np.isin(table["cams"], (3, 6)).sum() - skipped.sum()}


@pytest.mark.parametrize(
    "cams, all_search, indoor",
    [
        ((), True, True),
        ((1, 2), True, False),
        ((1, 2, 4, 5), False, False),
        ((3, 6), False, False),
        ((1, 6), True, False),  # camera 3 alone searches, and never sees camera 2
        ((1, 4, 5, 6), False, False),
    ],
)
def test_a_mode_without_any_match_is_known_before_ranking(cams, all_search, indoor):
    table, permutations = small(missing=0, identities=2)
    for pid in (10, 13):
        table = without(table, pid, *cams)
    search = evaluate.SysuSearch(**table)
    for mode, expected in {"all": all_search, "indoor": indoor}.items():
        assert search.has_queries(mode) is expected
        if not expected:
            with pytest.raises(ValueError, match=f"^{mode} search has no query with a match: .*cameras 1, 2.*$"):
                search.table(mode, permutations=permutations)
    with pytest.raises(ValueError, match="mode 'outdoor' is not known"):
        search.has_queries("outdoor")


def test_distinct_galleries_says_whether_trials_can_differ():
    table, permutations = small(seed=2, least=4, identities=4)
    some = table["numbers"] <= 4
    table = {name: column[some] for name, column in table.items()}
    permutations = {key: np.array([run[run <= 4] for run in runs]) for key, runs in permutations.items()}
    search = evaluate.SysuSearch(**table)
    assert search.distinct_galleries(shots=4, permutations=permutations) == 1
    assert search.distinct_galleries(shots=4, gallery="community") == 1
    assert search.table(shots=4, permutations=permutations).drop(columns="trial").drop_duplicates().shape[0] == 1
    assert search.distinct_galleries(shots=1, permutations=permutations) == 10
    assert search.distinct_galleries(shots=1, permutations=permutations, trials=3) == 3


@pytest.mark.parametrize("gallery", ["official", "community"])
def test_sysu_cosine_is_euclidean_on_unit_features(gallery):
    table, permutations = small(seed=6)
    table["features"] /= np.linalg.norm(table["features"], axis=1, keepdims=True)
    one, other = (
        evaluate.sysu(**table, gallery=gallery, permutations=permutations, metric=metric)
        for metric in ("cosine", "euclidean")
    )
    np.testing.assert_allclose(one.to_numpy(dtype=float), other.to_numpy(dtype=float), atol=1e-12)


def test_cosine_ignores_the_length_of_features():
    table, permutations = small(seed=6)
    longer = dict(table, features=table["features"] * np.linspace(0.1, 9, len(table["pids"]))[:, None])
    one, other = (evaluate.sysu(**t, permutations=permutations) for t in (table, longer))
    np.testing.assert_allclose(one.to_numpy(dtype=float), other.to_numpy(dtype=float), atol=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("gallery", ["official", "community"])
def test_sysu_leaves_its_arguments_alone(gallery, metric):
    table, permutations = small(seed=7)
    before = {name: column.copy() for name, column in table.items()}
    permuted = {key: runs.copy() for key, runs in permutations.items()}
    evaluate.sysu(**table, gallery=gallery, permutations=permutations, metric=metric)
    assert all(np.array_equal(before[name], column) for name, column in table.items())
    assert permuted.keys() == permutations.keys()
    assert all(np.array_equal(permuted[key], runs) for key, runs in permutations.items())


@pytest.mark.parametrize("wrong", [{"mode": "outdoor"}, {"gallery": "offical"}, {"metric": "manhattan"}])
def test_sysu_names_a_wrong_option(wrong):
    table, permutations = small()
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        evaluate.sysu(**table, permutations=permutations, **wrong)


# RegDB


def regdb_case(seed=0):
    """Visible and thermal features of 8 identities, 1 to 4 images each; identity 7 is visible only."""
    rng = np.random.default_rng(seed)
    visible_pids, thermal_pids = (np.repeat(np.arange(n), rng.integers(1, 5, n)) for n in (8, 7))
    centre = rng.normal(size=(8, 5))
    visible, thermal = (centre[p] + rng.normal(size=(len(p), 5)) for p in (visible_pids, thermal_pids))
    return visible, visible_pids, thermal, thermal_pids


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_regdb_equals_oracle(metric):
    for seed in range(3):
        case = regdb_case(seed)
        found, expected = evaluate.regdb(*case, metric=metric), oracles.regdb(*case, metric)
        same_trials(found, [(expected[0], len(case[3])), (expected[1], len(case[1]))])
        names = [str(found.index[row]) + str(found.iloc[row].tolist()) for row in (0, 1)]
        assert "v2t" in names[0] and "t2v" in names[1]


def test_regdb_directions_mirror_each_other():
    visible, visible_pids, thermal, thermal_pids = regdb_case(1)
    numbers = [name for name in COLUMNS if name != "trial"]
    one = evaluate.regdb(visible, visible_pids, thermal, thermal_pids)[numbers].to_numpy(dtype=float)
    other = evaluate.regdb(thermal, thermal_pids, visible, visible_pids)[numbers].to_numpy(dtype=float)
    np.testing.assert_allclose(one, other[::-1], atol=1e-12)


def test_regdb_counts_every_image():
    """Plain CMC: three better images of one other identity put the match at rank 4, not 2."""
    visible, thermal = np.array([[1.0, 0.0]]), np.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4], [1.0, 0.5]])
    found = evaluate.regdb(visible, np.array([1]), thermal, np.array([2, 2, 2, 1, 2])).iloc[0]
    assert (found["rank1"], found["rank5"], found["mAP"]) == (0, 1, 0.25)


def test_regdb_leaves_its_arguments_alone():
    case = regdb_case(2)
    before = [array.copy() for array in case]
    evaluate.regdb(*case)
    assert all(np.array_equal(a, b) for a, b in zip(before, case, strict=True))


def test_margins_by_hand():
    # person 1: visible (1, 0), thermal (1, 0) and (0, 1); person 2: visible (0, 1), thermal (0, 1)
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [0, 1]])
    pids, modality = np.array([1, 2, 1, 1, 2]), np.array([0, 0, 1, 1, 1])
    found = evaluate.margins(features, pids, modality).margin
    # thermal images of 1: 1 - 0 and 0 - 1, mean 0; of 2: 1 - 0
    assert found.to_dict() == {1: 0.0, 2: 100.0}


def test_what_queries_add_is_their_mean_over_trials_and_nan_without_a_match():
    nan = np.nan
    first = evaluate.Ranked(np.array([1, 6, 0]), np.array([1.0, 0.2, nan]), np.array([1.0, 0.1, nan]))
    second = evaluate.Ranked(np.array([2, 1, 0]), np.array([0.5, 1.0, nan]), np.array([0.5, 1.0, nan]))
    found = evaluate.of_queries([first, second])
    assert found.rank1.tolist()[:2] == [0.5, 0.5] and found.rank5.tolist()[:2] == [1.0, 0.5]
    assert found.mAP.tolist()[:2] == [0.75, 0.6] and found.iloc[2].isna().all()
