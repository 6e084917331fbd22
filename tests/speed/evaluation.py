"""The evaluator beside loops over queries: a split of RegDB, SYSU-MM01 at full size, galleries of up to a million."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from vtlib import evaluate, ranking
from vtlib.evaluate import SysuSearch
from vtlib.ranking import Metrics, rank_metrics, rank_queries

from .timing import HAS_MEMORY, Row, compare, devices, fresh, interleaved, peak, share

REGDB = (206, 10)  # test identities of a split, images of each in a modality
CAMERAS = {1: 56, 2: 56, 3: 56, 4: 96, 5: 93, 6: 96}  # SYSU-MM01's test: the camera has identities 1 to n
VISIBLE, THERMAL = 6775, 3803  # images; 301 pairs of identity and visible camera, 112 of them indoors, as published
DIM, TRIALS = 2048, 10
GOAL = 3000  # ms for all trials of all settings
SETTINGS = [("all", 1), ("all", 10), ("indoor", 1), ("indoor", 10)]
# queries, gallery images; the largest gallery with fewer queries, since 10,000 would take minutes
CHUNKS = [(10_000, 10_000), (10_000, 100_000), (1_000, 1_000_000)]
MATCHES, WIDTH, CHECKED = 10, 64, 2  # images of an identity; numbers a feature; queries that are ranked by the loop too


class Sysu(NamedTuple):
    """Images (N,), their features (N, D), and the draws {(cam, pid): (trials, n)} of the official file's form."""

    features: torch.Tensor
    pids: np.ndarray
    cams: np.ndarray
    numbers: np.ndarray
    permutations: dict[tuple[int, int], np.ndarray]


def measure(repeats: int) -> Iterator[Row]:
    """Raises: RuntimeError if loop and evaluator differ by more than 1e-12 in any number."""
    data = sysu_set()
    yield from matrices(data, repeats)
    yield from settings(data, repeats)
    yield from chunks()


def loop(similarity, query_pids, gallery_pids, exclude=None, by_identity=False, *, kind=None, ranks=False) -> Metrics:
    """rank_metrics() as public code has it: each query sorts the whole gallery and goes through it.

    kind: of the argsort; a stable one alone keeps the gallery's order in ties, the default is faster.
    ranks: precision is computed at every rank, a Python division each, as published evaluators do; else at the matches.
    """
    cmc = np.zeros(len(np.unique(gallery_pids) if by_identity else gallery_pids))
    aps, inps = [], []
    for q, pid in enumerate(query_pids):
        order = np.argsort(-similarity[q], kind=kind)
        if exclude is not None:
            order = order[~exclude[q][order]]
        found = gallery_pids[order]
        match = found == pid
        if not match.any():
            continue
        seen = found[np.sort(np.unique(found, return_index=True)[1])] == pid if by_identity else match
        cmc[seen.argmax() :] += 1
        places, n = np.flatnonzero(match) + 1, match.sum()
        if ranks:
            precision = [so_far / (place + 1.0) for place, so_far in enumerate(match.cumsum())]
            aps.append((np.asarray(precision) * match).sum() / n)
        else:
            aps.append((np.arange(1, n + 1) / places).mean())
        inps.append(n / places[-1])
    return Metrics(cmc / len(aps), float(np.mean(aps)), float(np.mean(inps)), len(aps))


def check_same(part: str, ours, theirs) -> None:
    """Raise RuntimeError unless the numbers of two sequences are equal to 1e-12."""
    a, b = (np.concatenate([np.ravel(v) for v in values]).astype(float) for values in (ours, theirs))
    if a.shape != b.shape or not np.abs(a - b).max() <= 1e-12:
        raise RuntimeError(f"{part}: the forms disagree")


def matrices(data: Sysu, repeats: int) -> Iterator[Row]:
    """One similarity matrix: a direction of a RegDB split, and a single-shot trial of all-search of SYSU-MM01."""
    query, gallery, rng = queries(data), drawn(data, "all", 1), np.random.default_rng(0)
    blind = evaluate.same_place(data.cams[query], data.cams[gallery])
    regdb = np.repeat(np.arange(REGDB[0]), REGDB[1])
    for part, arguments in {
        "rank_metrics, RegDB": (regdb, regdb, None, False),
        "rank_metrics, SYSU 1-shot": (data.pids[query], data.pids[gallery], blind, True),
    }.items():
        shape = len(arguments[0]), len(arguments[1])
        # all scores of a row differ, so that every way of sorting gives the same
        similarity = rng.permuted(np.broadcast_to(np.arange(shape[1], dtype=np.float32), shape), axis=1)

        def ours(s=similarity, a=arguments):
            return rank_metrics(s, *a[:2], exclude=a[2], first_match_per_identity=a[3])

        references = {
            "loop over queries": lambda s=similarity, a=arguments: loop(s, *a),
            "loop over ranks": lambda s=similarity, a=arguments: loop(s, *a, ranks=True),
        }
        for name, reference in references.items():
            check_same(f"{part}: {name}", ours(), reference())

        (sort,) = interleaved([lambda s=similarity: np.sort(s, axis=1)], repeats)

        def limit(ms, sort=sort):
            return f"np.sort alone takes {share(sort, ms)} of it"

        yield from compare(part, f"{shape[0]:,} x {shape[1]:,}", ours, references, repeats=repeats, limit=limit)


def sysu_set() -> Sysu:
    """Test images as many as SYSU-MM01's, at random: features (N, DIM) float32 around a mean of the identity."""
    rng, counts = np.random.default_rng(0), {}
    for cams, images in (((1, 2, 4, 5), VISIBLE), ((3, 6), THERMAL)):
        keys = [(cam, pid) for cam in cams for pid in range(1, CAMERAS[cam] + 1)]
        counts |= {key: images // len(keys) + (i < images % len(keys)) for i, key in enumerate(keys)}
    rows = np.array([(pid, cam, n + 1) for (cam, pid), images in counts.items() for n in range(images)])
    means, noise = (rng.standard_normal((n, DIM), np.float32) for n in (max(CAMERAS.values()) + 1, len(rows)))
    features = torch.from_numpy(0.2 * means[rows[:, 0]] + noise)
    draws = {key: np.stack([1 + rng.permutation(images) for _ in range(TRIALS)]) for key, images in counts.items()}
    return Sysu(features, *rows.T, draws)


def queries(data: Sysu) -> np.ndarray:
    """Rows of the thermal images in the order of SysuSearch: by identity."""
    rows = np.flatnonzero(np.isin(data.cams, (3, 6)))
    return rows[np.argsort(data.pids[rows], kind="stable")]


def drawn(data: Sysu, mode: str, shots: int, trial: int = 0) -> np.ndarray:
    """Rows of a trial's gallery: identities ascending, cameras ascending within each."""
    keys = zip(data.cams.tolist(), data.pids.tolist(), data.numbers.tolist(), strict=True)
    where = {key: r for r, key in enumerate(keys)}
    pairs = sorted(
        (pid, cam) for cam, pid in data.permutations if cam in ((1, 2) if mode == "indoor" else (1, 2, 4, 5))
    )
    numbers = ((cam, pid, n) for pid, cam in pairs for n in data.permutations[cam, pid][trial][:shots].tolist())
    return np.array([where[key] for key in numbers])


def settings(data: Sysu, repeats: int) -> Iterator[Row]:
    """A trial of each setting beside the loop, both from known similarities; then all 40 trials from the features."""
    labels = data.pids, data.cams, data.numbers
    search, query = SysuSearch(data.features, *labels), queries(data)
    candidates = np.flatnonzero(~np.isin(data.cams, (3, 6)))
    for mode, shots in SETTINGS:
        gallery = drawn(data, mode, shots)
        scores = search.scores[:, np.searchsorted(candidates, gallery)]
        arguments = data.pids[query], data.pids[gallery], scores == -np.inf, True

        def ours(mode=mode, shots=shots):
            return search.table(mode, shots, "official", data.permutations, trials=1)

        def reference(s=scores, a=arguments):
            return loop(s, *a)

        part = f"SysuSearch.table, {mode} {shots}-shot"
        # real scores have ties, so the stable sort is checked; the default one, as in public code, is timed
        expected = evaluate.row(loop(scores, *arguments, kind="stable"), len(gallery), trial=0)
        found = ours().iloc[0]
        check_same(part, found.to_list(), [expected[name] for name in found.index])
        size = f"1 trial, {len(query):,} x {len(gallery):,}"
        yield from compare(part, size, ours, {"loop over queries": reference}, repeats=repeats)

    def everything():
        search = SysuSearch(data.features, *labels)
        return [search.table(*setting, "official", data.permutations, TRIALS) for setting in SETTINGS]

    columns = [np.searchsorted(candidates, drawn(data, *s, trial=t)) for s in SETTINGS for t in range(TRIALS)]
    product, sort = interleaved(
        [
            lambda: ranking.similarity_matrix(data.features[query], data.features[candidates]),
            lambda: [np.sort(search.scores[:, c], axis=1) for c in columns],
        ],
        1,
    )
    entries = len(query) * sum(map(len, columns))
    yield from compare(
        f"SysuSearch and its tables, {len(SETTINGS)} x {TRIALS} trials",
        f"{len(query):,} x {len(candidates):,}, {DIM:,} numbers",
        everything,
        repeats=repeats,
        limit=lambda ms: (
            f"{share(ms, GOAL)} of {GOAL / 1000:g} s; matrix product {share(product, ms)} of it; "
            f"np.sort alone of its {entries / 1e6:.0f} M entries takes {share(sort, ms)} of it"
        ),
    )


def chunks() -> Iterator[Row]:
    """Similarities in rows, as they are needed, on growing galleries; once each, in a process of its own."""
    for device in devices() if HAS_MEMORY else []:
        for number, gallery in CHUNKS:
            seconds, grown = fresh(chunked, number, gallery, device)
            size = f"{number:,} x {gallery:,}, {WIDTH} numbers" + ("" if device == "cpu" else f", {device}")
            limit = f"{seconds / number / gallery * 1e9:.2f} ns an entry, +{grown:.0f} MB"
            yield Row("rank_queries in chunks", size, "", None, 1000 * seconds, None, limit)


def chunked(number: int, gallery: int, device: str) -> tuple[float, float]:
    """Seconds, and MB of memory beyond the features at most, of rank_queries() with a function for rows."""
    generator = torch.Generator().manual_seed(0)
    query, images = (F.normalize(torch.randn(n, WIDTH, generator=generator)).to(device) for n in (number, gallery))
    gallery_pids, kept, seconds, ranked = np.arange(gallery) // MATCHES, {}, [], []
    query_pids = np.arange(number) % max(1, min(number, gallery) // MATCHES)

    def rows(index):
        similarity = query[index] @ images.T
        kept.update({index[i]: similarity[i].cpu().numpy().copy() for i in np.flatnonzero(index < CHECKED)})
        return similarity

    def call():
        start = time.perf_counter()
        ranked.append(rank_queries(rows, query_pids, gallery_pids))
        seconds.append(time.perf_counter() - start)

    rank_queries(query[:2] @ images[:100].T, query_pids[:2], gallery_pids[:100])  # loads libraries
    grown = peak(call)
    some = sorted(kept)
    ours = ranking.mean_over_queries(ranking.Ranked(*(column[some] for column in ranked[0])), gallery)
    theirs = loop(np.stack([kept[q] for q in some]), query_pids[some], gallery_pids, kind="stable")
    check_same("rank_queries in chunks", ours, theirs)
    return seconds[0], grown
