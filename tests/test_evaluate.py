"""Ranking and both protocols against the loop oracles, hand-made cases and the official evaluator's numbers."""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import oracles
import pandas as pd
import pytest
import torch

from vtlib import bootstrap, evaluate, inference, protocols, ranking
from vtlib.suite import embeddings

OFFICIAL = Path(__file__).parent / "official"
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
        found = ranking.rank_metrics(*drawn, exclude=exclude, first_match_per_identity=first)
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
    same(ranking.rank_metrics(np.eye(6), pids, pids), oracles.Ranks([1] * 6, 1, 1, 6))
    worst = ranking.rank_metrics(-np.eye(6), pids, pids)
    same(worst, oracles.Ranks([0] * 5 + [1], 1 / 6, 1 / 6, 6))


def test_average_precision_equals_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(6):
        similarity, query_pids, gallery_pids, exclude = problem(seed)
        for row, pid, dropped in zip(similarity, query_pids, exclude, strict=True):
            relevant = (gallery_pids == pid)[~dropped]
            if relevant.any():
                expected = metrics.average_precision_score(relevant, row[~dropped])
                found = ranking.rank_metrics(row[None], [pid], gallery_pids, exclude=dropped[None])
                assert found.mAP == pytest.approx(expected, abs=1e-12)


def test_queries_without_a_match_are_left_out():
    similarity, query_pids, gallery_pids = hand_made()
    expected = ranking.rank_metrics(similarity, query_pids, gallery_pids)
    strangers = np.vstack([similarity[:1], similarity, similarity[:2]]), np.array([8, 1, 2, 3, 9, 9])
    found = ranking.rank_metrics(*strangers, gallery_pids)
    same(found, oracles.Ranks(expected.cmc, expected.mAP, expected.mINP, 3))


@pytest.mark.parametrize("first", [False, True])
def test_no_query_with_a_match_is_an_error(first):
    similarity, query_pids, gallery_pids = hand_made()
    with pytest.raises(ValueError):
        ranking.rank_metrics(similarity, query_pids + 10, gallery_pids, first_match_per_identity=first)
    with pytest.raises(ValueError):
        excluded = gallery_pids == query_pids[:, None]
        ranking.rank_metrics(similarity, query_pids, gallery_pids, exclude=excluded, first_match_per_identity=first)


@pytest.mark.parametrize("first", [False, True])
def test_all_queries_at_once_equals_pieces(first):
    """Whatever the evaluator's own chunks are: the mean over 3,000 queries is the mean over pieces of 7 to 1,500."""
    rng = np.random.default_rng(0)
    similarity, exclude = np.round(rng.normal(size=(3000, 37)), 1), rng.random((3000, 37)) < 0.5
    query_pids, gallery_pids = rng.integers(0, 14, 3000), rng.integers(0, 12, 37)
    gallery_pids[:12] = np.arange(12)
    whole = ranking.rank_metrics(similarity, query_pids, gallery_pids, exclude=exclude, first_match_per_identity=first)
    bounds = [0, 7, 100, 1500, 3000]
    parts = [
        ranking.rank_metrics(
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
def test_every_query_equals_the_oracle_alone_with_few_and_with_many_matches(few, first):
    """float32 with ties, as features have them."""
    rng = np.random.default_rng(0)
    gallery_pids = rng.permutation(np.repeat(np.arange(20 if few else 4), 3 if few else 15))
    query_pids = rng.permutation(np.repeat(np.arange(-1, 4), 6))
    for digits in (7, 1):
        similarity = np.round(rng.normal(size=(30, 60)), digits).astype(np.float32)
        exclude = rng.random((30, 60)) < 0.5
        found = ranking.rank_queries(
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


def test_rows_from_a_function_are_those_of_the_matrix_and_few_at_once(monkeypatch):
    rng = np.random.default_rng(1)
    features, gallery = rng.normal(size=(50, 8)), rng.normal(size=(70, 8))
    query_pids, gallery_pids = rng.integers(0, 9, 50), rng.integers(0, 9, 70)
    exclude, asked = rng.random((50, 70)) < 0.3, []

    def rows(index):
        asked.append(len(index))
        return ranking.similarity_matrix(features[index], gallery)

    whole = ranking.similarity_matrix(features, gallery)
    wanted = ranking.rank_metrics(whole, query_pids, gallery_pids, exclude=exclude)
    monkeypatch.setattr(ranking, "CHUNK", 7 * 70 + 5)
    found = ranking.rank_metrics(rows, query_pids, gallery_pids, exclude=lambda index: exclude[index])
    same(found, wanted)
    assert max(asked) == 7 and sum(asked) == 50


def test_metrics_are_fractions_and_the_curve_rises():
    *drawn, exclude = problem(3)
    found = ranking.rank_metrics(*drawn, exclude=exclude)
    curve = np.asarray(found.cmc)
    assert ((curve >= 0) & (curve <= 1)).all() and (np.diff(curve) >= 0).all() and curve[-1] == 1
    assert 0 < found.mINP <= 1 and 0 < found.mAP <= 1


def test_rank_metrics_leaves_its_arguments_alone():
    drawn = problem(4, ties=True)
    before = [array.copy() for array in drawn]
    ranking.rank_metrics(*drawn[:3], exclude=drawn[3], first_match_per_identity=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, drawn, strict=True))


# Labels


def stamps(pids):
    """Time stamps of 17 digits: all within one step of float64, and in the order of the pids."""
    return 20230405123456788 + np.asarray(pids)


WRITTEN = {
    "stamps": stamps,
    "above int64": lambda pids: [2**63 + 5 + int(p) for p in pids],
    "uint64": lambda pids: np.uint64(2**63 + 5) + np.asarray(pids).astype(np.uint64),
    "list": lambda pids: np.asarray(pids).tolist(),
    "tuple": lambda pids: tuple(np.asarray(pids).tolist()),
    "tensor": lambda pids: torch.as_tensor(pids),
    "list of tensors": lambda pids: list(torch.as_tensor(pids)),
    "int32": lambda pids: np.asarray(pids, np.int32),
    "whole floats": lambda pids: np.asarray(pids, float),
    "bfloat16": lambda pids: torch.as_tensor(pids).bfloat16(),
    "texts": lambda pids: [f"person {p + 50:03d}" for p in pids],
    "text array": lambda pids: np.array([f"{p + 50:03d}" for p in pids]),
    "objects": lambda pids: np.array([f"{p + 50:03d}" for p in pids], object),
    "pandas": lambda pids: pd.Series([f"{p + 50:03d}" for p in pids], index=range(9, 9 + len(pids))),
    "pandas texts": lambda pids: pd.Series([f"{p + 50:03d}" for p in pids], dtype="string"),
    "pandas stamps": lambda pids: pd.Series(stamps(pids), dtype="Int64"),
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_labels_are_compared_for_equality_alone(write):
    for first in (False, True):
        similarity, query_pids, gallery_pids, exclude = problem(8)
        expected = ranking.rank_metrics(
            similarity, query_pids, gallery_pids, exclude=exclude, first_match_per_identity=first
        )
        found = ranking.rank_metrics(
            similarity, write(query_pids), write(gallery_pids), exclude=exclude, first_match_per_identity=first
        )
        same(found, expected, 0)


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_protocols_take_any_labels(write):
    visible, visible_pids, thermal, thermal_pids = regdb_case(3)
    expected = evaluate.regdb(visible, visible_pids, thermal, thermal_pids)
    assert evaluate.regdb(visible, write(visible_pids), thermal, write(thermal_pids)).equals(expected)
    table, permutations = small(seed=9)
    community = evaluate.sysu(**table, gallery="community", trials=3)
    assert evaluate.sysu(**table | {"pids": write(table["pids"])}, gallery="community", trials=3).equals(community)
    names = dict(zip(table["pids"].tolist(), ranking.identities(write(table["pids"])).tolist(), strict=True))
    renamed = {(cam, names[pid]): runs for (cam, pid), runs in permutations.items()}
    official = evaluate.sysu(**table, permutations=permutations, trials=3)
    found = evaluate.sysu(**table | {"pids": write(table["pids"])}, permutations=renamed, trials=3)
    assert found.equals(official)
    labelled = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), np.arange(12) // 4, np.arange(12) % 2
    features, pids, modality = labelled
    for of_centres in (False, True):
        plain = embeddings.separation(*labelled, of_centres=of_centres)
        assert embeddings.separation(features, write(pids), modality, of_centres=of_centres) == plain
    assert (
        embeddings.margins(features, write(pids), modality).margin.tolist()
        == embeddings.margins(*labelled).margin.tolist()
    )


def test_stamps_that_float64_merges_are_two_people():
    wrong = np.array([[0.1, 0.9], [0.9, 0.1]])  # each query finds the other person first
    pids = [20230405123456788, 20230405123456789]
    assert float(pids[0]) == float(pids[1])
    found = ranking.rank_metrics(wrong, pids, pids)
    assert (found.cmc[0], found.mAP) == (0, 0.5)


@pytest.mark.parametrize(
    "labels, text",
    [
        ([0.5, 1], "query_pids has the label 0.5: give whole numbers"),
        (np.array([1, np.nan]), "query_pids has the label nan: give whole numbers"),
        ([np.nan, 1], "query_pids has the label nan: give whole numbers"),
        (np.array([1, np.inf]), "query_pids has the label inf: give whole numbers"),
        (np.array([1.0, 2.0**53]), "query_pids has the label 9007199254740992.0: give whole numbers"),
        (np.array([1.0, 2.0**24], np.float32), "query_pids has the label 16777216.0: give whole numbers"),
        (np.array([1, 2048], np.float16), "query_pids has the label 2048.0: give whole numbers"),
        (torch.tensor([1, 256]).bfloat16(), "query_pids has the value 256.0: give whole numbers"),
        (["a", 1], "query_pids must be whole numbers or texts, of one kind, not 'a' among others"),
        ([None, 1], "query_pids must be whole numbers or texts, of one kind, not None among others"),
        ([1j, 1], "query_pids must be whole numbers or texts, of one kind, not 1j among others"),
        (np.array(["2026-01-01", "2026-01-02"], "M8[D]"), "query_pids must be whole numbers or texts, not datetime64"),
        ([[1], [2]], "query_pids must be one label for each image, (n,), not (2, 1)"),
        (3, "query_pids must be one label for each image, (n,), not ()"),
        ("ab", "query_pids must be one label for each image, (n,), not ()"),
        (["1", "2"], "query_pids and gallery_pids must be of one kind, not texts and numbers"),
    ],
    ids=str,
)
def test_a_wrong_label_is_one_sentence(labels, text):
    with pytest.raises(ValueError) as error:
        ranking.rank_metrics(np.eye(2), labels, [1, 2])
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


# Features and similarities


CAST = {
    "float64": lambda x: x,
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "list": lambda x: x.tolist(),
    "list of rows": lambda x: list(x),
    "list of tensors": lambda x: [row.bfloat16() for row in torch.from_numpy(x).requires_grad_()],
    "pandas": pd.DataFrame,
    "tensor": torch.from_numpy,
    "bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
    "half": lambda x: torch.from_numpy(x).half(),
    "whole numbers": lambda x: x.astype(np.int16),
    "long double": lambda x: x.astype(np.longdouble),
    "big-endian": lambda x: x.astype(">f4"),
    "backwards": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "with a graph": lambda x: torch.from_numpy(x).requires_grad_(),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("cast", CAST.values(), ids=CAST)
def test_every_kind_of_number_gives_the_same_metrics(cast, metric):
    """Features of 8 bits, so that no kind rounds them; half precision has neither their squares nor their cosines."""
    rng = np.random.default_rng(0)
    table, permutations = small(seed=10)
    pids = table["pids"]
    table["features"] = np.round(
        rng.normal(scale=60, size=(40, 64))[pids % 40] + rng.normal(scale=60, size=(len(pids), 64))
    )
    table["features"] = table["features"].clip(-127, 127)
    expected = evaluate.sysu(**table, permutations=permutations, metric=metric, trials=3)
    assert 0.1 < expected["rank1"].mean() < 1
    moved = table | {"features": cast(table["features"])}
    pd.testing.assert_frame_equal(evaluate.sysu(**moved, permutations=permutations, metric=metric, trials=3), expected)
    half = len(pids) // 2
    x = table["features"]
    expected = evaluate.regdb(x[:half], pids[:half], x[half:], pids[half:], metric=metric)
    for one, other in ((cast, cast), (cast, CAST["float64"]), (torch.from_numpy, cast)):
        found = evaluate.regdb(one(x[:half]), pids[:half], other(x[half:]), pids[half:], metric=metric)
        pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("power", [-100, 66, 110])
def test_features_of_any_size_rank_alike(metric, power):
    """In float32 squares overflow beyond 2^63 and vanish below 2^-74."""
    visible, visible_pids, thermal, thermal_pids = regdb_case(4)
    visible, thermal = visible.astype(np.float32), thermal.astype(np.float32)
    expected = evaluate.regdb(visible, visible_pids, thermal, thermal_pids, metric=metric)
    scale = np.float32(2.0**power)
    found = evaluate.regdb(visible * scale, visible_pids, thermal * scale, thermal_pids, metric=metric)
    assert found.equals(expected) and expected["mAP"].max() < 1


def test_autocast_does_not_reach_into_similarities():
    visible, _, thermal, _ = (torch.from_numpy(x).float() if x.ndim == 2 else x for x in regdb_case(5))
    for metric in ("cosine", "euclidean"):
        expected = ranking.similarity_matrix(visible, thermal, metric)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ranking.similarity_matrix(visible, thermal, metric), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_broken_features_are_refused_everywhere(metric, bad):
    visible, visible_pids, thermal, thermal_pids = regdb_case(6)
    thermal[2, 3] = bad
    with pytest.raises(ValueError, match=f"^gallery features of 1 of {len(thermal)} images are NaN or infinite"):
        evaluate.regdb(visible, visible_pids, thermal, thermal_pids, metric=metric)
    table, permutations = small(seed=11)
    table["features"][5] = bad
    with pytest.raises(ValueError, match=r"^features of 1 of .* images are NaN or infinite"):
        evaluate.sysu(**table, permutations=permutations, metric=metric)
    for call in (embeddings.separation, embeddings.margins, embeddings.cross_similarities):
        features = torch.ones(4, 3)
        features[1, 1] = bad
        with pytest.raises(ValueError, match=r"^features of 1 of 4 images are NaN or infinite"):
            call(features, [1, 2, 1, 2], [0, 0, 1, 1])
    similarity = torch.eye(3)
    similarity[1, 2] = bad
    for given in (similarity, similarity.numpy(), similarity.tolist(), lambda rows: similarity[rows]):
        with pytest.raises(ValueError, match=r"^similarity has NaN or infinite entries"):
            ranking.rank_metrics(given, [1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize(
    "cast", [*list(CAST.values())[:10], CAST["whole numbers"]], ids=[*list(CAST)[:10], "whole numbers"]
)
def test_similarities_and_masks_of_any_kind(cast):
    similarity, query_pids, gallery_pids, exclude = problem(12, ties=True)
    expected = ranking.rank_metrics(similarity, query_pids, gallery_pids, exclude=exclude)
    for mask in (exclude, exclude.tolist(), torch.from_numpy(exclude), lambda rows: torch.from_numpy(exclude[rows])):
        same(ranking.rank_metrics(cast(similarity), query_pids, gallery_pids, exclude=mask), expected, 0)
    given = cast(similarity), query_pids, gallery_pids
    one, other = (evaluate.both_directions(*given, mask) for mask in (exclude.tolist(), torch.from_numpy(exclude)))
    assert one.equals(other)


EYE = np.eye(2)


@pytest.mark.parametrize(
    "given, text",
    [
        ((EYE[:0], [], [1, 2], None), "a search needs queries and a gallery, not 0 queries and 2 gallery images"),
        ((EYE[:, :0], [1, 2], [], None), "a search needs queries and a gallery, not 2 queries and 0 gallery images"),
        ((EYE, [1, 2, 3], [1, 2], None), "similarity must be (queries, gallery images) = (3, 2), not (2, 2)"),
        ((EYE[0], [1, 2], [1, 2], None), "similarity must be (queries, gallery images) = (2, 2), not (2,)"),
        (("scores.npy", [1, 2], [1, 2], None), "similarity must be (queries, gallery images) = (2, 2), not ()"),
        (([[1.0, 0], [1.0]], [1, 2], [1, 2], None), "rows of a list must be of one length"),
        ((lambda rows: EYE[0], [1, 2], [1, 2], None), "similarity gives (2,) for 2 queries: it must be (2, 2)"),
        ((EYE.astype(str), [1, 2], [1, 2], None), "similarity must be real numbers, not <U"),
        ((1j * EYE, [1, 2], [1, 2], None), "similarity must be real numbers, not complex128"),
        ((EYE, [1, 2], [1, 2], EYE), "exclude must be of type bool, not float64"),
        ((EYE, [1, 2], [1, 2], EYE.astype(int).tolist()), "exclude must be of type bool, not int64"),
        ((EYE, [1, 2], [1, 2], [0, 1]), "exclude must be (queries, gallery images) = (2, 2), not (2,)"),
        ((EYE, [1, 2], [1, 2], lambda rows: EYE), "exclude must be of type bool, not float64"),
    ],
    ids=lambda x: x[:40] if isinstance(x, str) else "",
)
def test_a_wrong_matrix_is_one_sentence(given, text):
    with pytest.raises(ValueError) as error:
        ranking.rank_metrics(*given[:3], exclude=given[3])
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    "query, gallery, text",
    [
        (EYE[0], EYE, "query features must be (n, D), a row of D numbers for each image, not (2,)"),
        (EYE, EYE[None], "gallery features must be (n, D), a row of D numbers for each image, not (1, 2, 2)"),
        (EYE[:0], EYE, "query and gallery features are (0, 2) and (2, 2): they must be (Q, D) and (G, D)"),
        (EYE, torch.eye(3), "query and gallery features are (2, 2) and (3, 3): they must be (Q, D) and (G, D)"),
        (EYE[:, :0], EYE, "query features must be (n, D), a row of D numbers for each image, not (2, 0)"),
        (EYE.astype(str), EYE, "query features must be real numbers, not <U"),
        (EYE * 1j, EYE, "query features must be real numbers, not complex128"),
        (torch.eye(2) * 1j, EYE, "query features must be real numbers, not torch.complex64"),
        ([[1.0], [1.0, 2.0]], EYE, "rows of a list must be of one length"),
        ("features.npy", EYE, "query features must be real numbers, not <U"),
    ],
    ids=lambda x: x[:40] if isinstance(x, str) else "",
)
def test_wrong_features_are_one_sentence(query, gallery, text, metric):
    with pytest.raises(ValueError) as error:
        ranking.similarity_matrix(query, gallery, metric)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


# SYSU-MM01


@pytest.fixture(scope="module")
def full():
    """Features drawn for every image of SYSU-MM01, of which the 96 test identities count, and the official galleries.

    The drawing is that on which the official evaluator was run: sums of an identity, a modality, a camera and noise.
    """
    facts = np.load(OFFICIAL / "sysu_mm01.npz")
    rng, dim = np.random.RandomState(20240601), 16
    identity, modality, camera = rng.randn(534, dim), 0.3 * rng.randn(2, dim), 0.3 * rng.randn(7, dim)
    parts, test = [], set(facts["test_ids"].tolist())
    for cam, of_cam in enumerate(facts["counts"], start=1):
        for pid, n in enumerate(of_cam.tolist(), start=1):
            drawn = identity[pid] + modality[int(cam in (3, 6))] + camera[cam] + 1.3 * rng.randn(n, dim)
            if pid in test and n:
                parts.append((np.round(drawn, 4), pid, cam))
    order = np.lexsort(([pid for _, pid, _ in parts], [cam for _, _, cam in parts]))
    parts = [parts[i] for i in order]
    table = {
        "features": np.concatenate([x for x, _, _ in parts]),
        "pids": np.concatenate([np.full(len(x), pid) for x, pid, _ in parts]),
        "cams": np.concatenate([np.full(len(x), cam) for x, _, cam in parts]),
        "numbers": np.concatenate([np.arange(1, len(x) + 1) for x, _, _ in parts]),
    }
    keys = map(tuple, facts["keys"].tolist())
    return table, dict(zip(keys, facts["draws"].astype(int), strict=True))


@pytest.mark.parametrize("shots", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_equals_the_official_evaluator(full, mode, shots):
    """All ten trials as printed by the official MATLAB evaluator (run under Octave) on the same features."""
    table, permutations = full
    expected = json.loads((OFFICIAL / "sysu_mm01.json").read_text())["results"][f"{mode}_search_{shots}shot"]
    found = evaluate.sysu(**table, mode=mode, shots=shots, permutations=permutations, metric="euclidean")
    assert list(found.columns) == COLUMNS and len(found) == 10
    ranks = found[[f"rank{r}" for r in RANKS]].to_numpy()
    np.testing.assert_allclose(ranks, expected["rank1_5_10_20_per_trial"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(found["mAP"], expected["map_per_trial"], atol=1e-9, rtol=0)
    assert set(found["queries"]) == {expected["valid_queries"]} == {3803 if mode == "all" else 2208}
    assert set(found["gallery"]) == {expected["gallery"]} == {{"all": 301, "indoor": 112}[mode] * shots}


@pytest.mark.slow
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


def changed(name, value, row=0):
    """small() with one value of a column replaced; as a list, which any value fits."""
    table, permutations = small()
    column = table[name].tolist()
    column[row] = value
    return table | {"permutations": permutations, name: column}


@pytest.mark.parametrize(
    "given, text",
    [
        (changed("cams", 0), "cams has the value 0: SYSU-MM01 has cameras 1 to 6"),
        (changed("cams", 7), "cams has the value 7: SYSU-MM01 has cameras 1 to 6"),
        (changed("cams", 1.5), "cams has the label 1.5: give whole numbers"),
        (changed("cams", "cam1"), "cams must be whole numbers or texts, of one kind, not 'cam1' among others"),
        (changed("pids", None), "pids must be whole numbers or texts, of one kind, not None among others"),
        (small()[0] | {"cams": small()[0]["cams"].astype(str)}, "cams must be whole numbers, not texts"),
        (small()[0] | {"numbers": small()[0]["numbers"][1:]}, "features, pids, cams and numbers must be as long as "),
        (small()[0] | {"numbers": np.ones(len(small()[0]["pids"]), int)}, "identity "),
        (small()[0] | {"permutations": Path("exp/rand_perm_cam.mat")}, "permutations must be what datasets.sysu_perm"),
        (
            small()[0] | {"permutations": "exp/rand_perm_cam.mat"},
            "permutations must be what datasets.sysu_permutations",
        ),
        (small()[0] | {"permutations": []}, "permutations must be what datasets.sysu_permutations(path) returns, not "),
        (small()[0] | {"mode": ["all"]}, "mode ['all'] is not known: choose all or indoor"),
        (small()[0] | {"permutations": {}}, "rand_perm_cam.mat has no permutation of identity 10 in camera 1"),
        (
            small()[0] | {"permutations": small()[1], "shots": 1.0},
            "shots and trials must be whole numbers of at least ",
        ),
        (
            small()[0] | {"permutations": small()[1], "trials": 0},
            "shots and trials must be whole numbers of at least 1",
        ),
        ({name: column[:0] for name, column in small()[0].items()}, "all search has no query with a match: "),
    ],
    ids=lambda x: x[:40] if isinstance(x, str) else "",
)
def test_a_wrong_sysu_table_is_one_sentence(given, text):
    with pytest.raises(ValueError) as error:
        evaluate.sysu(**given)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


def test_permutations_may_be_lists():
    table, permutations = small(seed=3)
    lists = {key: runs.tolist() for key, runs in permutations.items()}
    one, other = (evaluate.sysu(**table, permutations=p, trials=2) for p in (permutations, lists))
    assert one.equals(other)


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
    found = embeddings.margins(features, pids, modality).margin
    # thermal images of 1: 1 - 0 and 0 - 1, mean 0; of 2: 1 - 0
    assert found.to_dict() == {1: 0.0, 2: 100.0}


def test_what_queries_add_is_their_mean_over_trials_and_nan_without_a_match():
    nan = np.nan
    first = ranking.Ranked(np.array([1, 6, 0]), np.array([1.0, 0.2, nan]), np.array([1.0, 0.1, nan]))
    second = ranking.Ranked(np.array([2, 1, 0]), np.array([0.5, 1.0, nan]), np.array([0.5, 1.0, nan]))
    found = protocols.of_queries([first, second])
    assert found.rank1.tolist()[:2] == [0.5, 0.5] and found.rank5.tolist()[:2] == [1.0, 0.5]
    assert found.mAP.tolist()[:2] == [0.75, 0.6] and found.iloc[2].isna().all()


def test_people_who_lack_a_modality_have_no_margin():
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [1, 1]])
    found = embeddings.margins(features, ["a", "b", "a", "b", "c"], [0, 0, 1, 1, 1]).margin
    assert found.to_dict() == {"a": 100.0, "b": 100.0}


@pytest.mark.parametrize(
    "call, pids, modality, text",
    [
        ("margins", [1, 1, 1, 1], [0, 0, 1, 1], "a margin needs visible and thermal images of a person, and "),
        ("margins", [1, 2, 3, 4], [0, 0, 1, 1], "a margin needs visible and thermal images of a person, and "),
        ("separation", [1, 1, 1, 1], [0, 0, 1, 1], "visible-thermal pairs of one person and of two are needed"),
        ("separation", [1, 2, 3, 4], [0, 0, 1, 1], "visible-thermal pairs of one person and of two are needed"),
        ("separation", [1, 2, 1, 2], [0, 0, 0, 0], "visible-thermal pairs of one person and of two are needed"),
        ("separation", [1, 2, 1, 2], [1, 1, 2, 2], "modality has the value 2: 0 is visible and 1 is thermal"),
        ("separation", [1, 2, 1], [0, 0, 1, 1], "features, pids and modality must be as long as each other, not [4, 3"),
    ],
)
def test_wrong_pairs_are_one_sentence(call, pids, modality, text):
    with pytest.raises(ValueError) as error:
        getattr(embeddings, call)(torch.eye(4), pids, modality)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


def test_bins_are_counted():
    for bins in (0, 2.5):
        with pytest.raises(ValueError, match="bins must be a whole number of at least 1, not "):
            embeddings.separation(torch.eye(4), [1, 2, 1, 2], [0, 0, 1, 1], bins=bins)


def test_a_person_without_a_centre_is_named():
    with pytest.raises(ValueError, match=r"^identity carol has images of one modality"):
        embeddings.separation(torch.eye(5), ["a", "b", "a", "b", "carol"], [0, 0, 1, 1, 1], of_centres=True)


def pairs_at(same, different):
    """Features whose visible-thermal cosines are these: one visible person, whose thermal images and another's."""
    cosines = torch.tensor([1.0, *same, *different], dtype=torch.float64)
    features = torch.stack([cosines, (1 - cosines.square()).clamp(min=0).sqrt()], 1)
    return features, [1] * (1 + len(same)) + [2] * len(different), [0] + [1] * (len(same) + len(different))


def test_overlap_is_on_the_range_of_the_similarities():
    """Bins of a quarter of the range: by hand, at any place and width of it."""
    # of the same person 1, 1, 2, 4 and of others 1, 2, 3, 3 in bins 1 to 4: shares min(1/2, 1/4) + min(1/4, 1/4)
    same, different = np.array([0.0, 0.2, 0.3, 1.0]), np.array([0.1, 0.4, 0.6, 0.7])
    for low, high in ((-1, 1), (0.2, 0.4), (0.994, 0.998), (0.9999, 0.99999)):
        drawn = pairs_at(*(low + (high - low) * x for x in (same, different)))
        found = embeddings.separation(*drawn, bins=4)
        assert found["overlap"] == pytest.approx(0.5)
        assert found["same person"] == pytest.approx(low + (high - low) * 0.375)
    apart = embeddings.separation(*pairs_at([0.9971, 0.9972], [0.9970, 0.9969]))
    assert apart["overlap"] == 0


def test_overlap_of_equal_similarities_is_one():
    for value in (1.0, 0.3, -1.0):
        assert embeddings.separation(*pairs_at([value] * 3, [value] * 2))["overlap"] == 1
    noise = torch.ones(8, 2048) * (1 + 1e-7 * torch.randn(8, 1, generator=torch.Generator().manual_seed(0)))
    assert embeddings.separation(noise, [1, 1, 2, 2] * 2, [0] * 4 + [1] * 4)["overlap"] == 1


def test_an_interval_names_what_it_lacks():
    for given in ({"groups": [0]}, {"groups": [0, 1], "draws": 0}, {"groups": [0, 1], "level": 1.0}):
        with pytest.raises(ValueError, match=r"^an interval needs a group for each value"):
            bootstrap.interval(np.zeros((2, 1)), **given)


def test_no_images_give_no_features():
    net = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^there are no images to take features of"):
        inference.extract(net, np.zeros((4, 3, 8, 8), np.uint8), np.zeros(0, int), np.zeros(0, int))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_whole_similarities_that_floats_cannot_tell_apart_are_refused(dtype):
    wrong = np.array([[2**53, 2**53 + 1], [2**53 + 1, 2**53]], dtype)
    with pytest.raises(ValueError, match="whole numbers above 2\\^53"):
        ranking.rank_metrics(wrong, [1, 2], [1, 2])
    small = wrong - 2**53
    same(ranking.rank_metrics(small, [1, 2], [1, 2]), oracles.rank_metrics(small.astype(float), [1, 2], [1, 2]))


def test_labels_of_long_floats_above_2_63_do_not_merge():
    labels = np.array([2**63, 2**63 + 2048], np.longdouble)
    wrong = np.array([[0.1, 0.9], [0.9, 0.1]])
    try:
        assert ranking.rank_metrics(wrong, labels, labels).mAP == 0.5
    except ValueError as error:  # one sentence is right too
        assert "\n" not in str(error)
