"""Differences, bootstrap and verdicts: against a plain loop, hand-made cases, and what may not be paired."""

import random
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from vtlib.bootstrap import interval
from vtlib.runs import METRICS
from vtlib.suite import compare
from vtlib.suite.compare import Gain, differences, gains, verdict, what_decides


def run(rank1, pids=None, seed=0, split=1, rows=None):
    """A stand-in for a run with these hits; its other metrics are half of them."""
    rank1 = np.asarray(rank1, float)
    table = pd.DataFrame({m: rank1 if m == "rank1" else rank1 / 2 for m in METRICS})
    table.insert(0, "pid", np.arange(len(rank1)) // 2 if pids is None else pids)
    table.insert(1, "row", np.arange(len(rank1)) if rows is None else rows)
    experiment = SimpleNamespace(seed=seed, split=split, run_id=f"{seed}-{split}", profile="none")
    return SimpleNamespace(experiment=experiment, queries=lambda protocol: table)


def loop_interval(values, groups, draws):
    """The cluster bootstrap as the book has it: draw groups one by one, collect their values, take the mean."""
    rng, names = random.Random(3), sorted(set(groups))
    of = {name: [v for v, g in zip(values, groups, strict=True) if g == name] for name in names}
    means = []
    for _ in range(draws):
        sample = [v for _ in names for v in of[rng.choice(names)]]
        means.append(sum(sample) / len(sample))
    means.sort()
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


def test_interval_is_that_of_a_plain_loop():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    values = rng.normal(1.0, 1.0, 12)[groups] + rng.normal(0, 0.5, len(groups))
    found = interval(values[:, None], groups)[:, 0]
    assert found == pytest.approx(loop_interval(values.tolist(), groups.tolist(), 10_000), abs=0.04)
    assert (interval(values[:, None], groups)[:, 0] == found).all()  # the same draws again


def test_people_are_drawn_whole_and_that_is_wider():
    groups = np.repeat(np.arange(20), 10)
    values = np.random.default_rng(0).normal(size=20)[groups][:, None]  # ten equal queries a person: 20 witnesses
    people, queries = (np.ptp(interval(values, g)) for g in (groups, np.arange(200)))
    assert people == pytest.approx(np.sqrt(10) * queries, rel=0.1)
    assert people == pytest.approx(2 * 1.96 * values.std() / np.sqrt(20), rel=0.1)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(5), 0
    for _ in range(200):
        people = rng.normal(0.3, 1, 40)
        low, high = interval(np.repeat(people, 3)[:, None], np.repeat(np.arange(40), 3), draws=500)[:, 0]
        hits += low <= 0.3 <= high
    assert 0.89 <= hits / 200 <= 0.98


def test_differences_pair_by_seed_and_split_and_by_query():
    better = [run([1, 1, 0, 1], seed=0), run([1, 0, 0, 1], seed=1), run([0, 0, 0, 0], seed=7)]
    over = [run([1, 1, 1, 1], seed=1), run([0, 1, 0, 0], seed=0)]
    each = differences(better, over, "any")
    assert sorted(each.seed.unique()) == [0, 1] and len(each) == 8
    assert each[each.seed == 0].rank1.tolist() == [100, 0, 0, 100]
    found = gains(each)["rank1"]
    assert found.gain == pytest.approx(0.0) and found.pairs == 2
    assert found.sd == pytest.approx(np.std([50, -50], ddof=1))
    assert gains(each)["mAP"].sd == pytest.approx(found.sd / 2)
    assert gains(differences(better[2:], over, "any")) == {}
    with pytest.raises(ValueError, match="0-1 and 0-1 have different queries under any"):
        differences(better[:1], [run([1, 1, 1, 1], rows=[0, 1, 2, 9])], "any")


def test_a_query_without_a_match_counts_for_neither():
    each = differences([run([1, np.nan, 0, 1])], [run([0, np.nan, 0, 1])], "any")
    assert len(each) == 3 and gains(each)["rank1"].gain == pytest.approx(100 / 3)


def test_equal_rows_are_equivalent_and_a_clear_gain_holds():
    rng = np.random.default_rng(2)
    hits = [(rng.random(400) < 0.3).astype(float) for _ in range(3)]
    base = [run(h, seed=s) for s, h in enumerate(hits)]
    same = gains(differences(base, base, "any"))["rank1"]
    assert verdict(same) == "equivalent" and same[:4] == (0, 0, 0, 0) and what_decides(same) == ""
    clear = [run(np.where(rng.random(400) < 0.4, 1, h), seed=s) for s, h in enumerate(hits)]
    assert verdict(gains(differences(clear, base, "any"))["rank1"], 50) == "holds"
    assert verdict(gains(differences(base, clear, "any"))["rank1"], 50) == "fails"
    one = differences(clear[:1], base, "any")
    assert verdict(gains(one)["rank1"], 50) == "holds on one seed"
    assert verdict(gains(one, seed_sd={"rank1": 1.0})["rank1"], 50) == "holds"  # the profile's spread is known
    assert verdict(gains(one, seed_sd={"rank1": 30.0})["rank1"], 50) == "undecided"
    other = [run((rng.random(400) < 0.3).astype(float), seed=s) for s in range(3)]
    assert verdict(gains(differences(other, base, "any"))["rank1"]) == "undecided"


def test_the_error_over_people_is_that_of_the_bootstrap_and_of_a_mean():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    each = pd.DataFrame({"rank1": rng.normal(size=60)[groups] + rng.normal(size=len(groups)), "pid": groups})
    found = gains(each.assign(seed=0, split=1), ["rank1"])["rank1"]
    low, high = interval(each[["rank1"]].to_numpy(), groups)[:, 0]
    assert 2 * 1.96 * found.over_people == pytest.approx(high - low, rel=0.05)
    single = each.drop_duplicates("pid")  # a query each: the standard error of a mean
    of_mean = gains(single.assign(seed=0, split=1), ["rank1"])["rank1"]
    assert of_mean.over_people == pytest.approx(single.rank1.std(ddof=1) / np.sqrt(60))


def test_seeds_add_their_part_and_the_larger_of_known_and_seen_counts():
    each = pd.DataFrame({"rank1": [1.0, 3.0, 4.0, 8.0], "pid": [1, 2, 1, 2], "seed": [0, 0, 1, 1], "split": 1})
    for known, sd in ((None, np.std([2, 6], ddof=1)), (1.0, np.std([2, 6], ddof=1)), (9.0, 9.0)):
        found = gains(each, ["rank1"], known and {"rank1": known})["rank1"]
        assert found.over_seeds == pytest.approx(sd / np.sqrt(2)) and found.pairs == 2 and found.people == 2
        assert found.error == pytest.approx(np.hypot(found.over_people, found.over_seeds))
        assert found.high - found.gain == pytest.approx(12.706 * found.error, rel=1e-4)  # t of one degree of freedom


NAN = float("nan")


def gain_of(gain, error, pairs=3, people=211, over_seeds=0.0):
    half = 1.9713 * np.hypot(error, 0 if np.isnan(over_seeds) else over_seeds)
    return Gain(gain, gain - half, gain + half, 0.5, pairs, people, error, over_seeds)


@pytest.mark.parametrize(
    ("found", "among", "word"),
    [
        (gain_of(2.0, 0.5), 44, "holds"),
        (gain_of(2.0, 0.6), 44, "undecided"),  # 3.3 errors: enough for one comparison, not for 44
        (gain_of(2.0, 0.6), 1, "holds"),
        (gain_of(2.0, 0.5, over_seeds=0.6), 44, "undecided"),  # seeds disagree
        (gain_of(-2.0, 0.5), 44, "fails"),
        (gain_of(2.0, 0.5, pairs=1, over_seeds=NAN), 44, "holds on one seed"),
        (gain_of(-2.0, 0.5, pairs=1, over_seeds=NAN), 44, "fails on one seed"),
        (gain_of(0.2, 0.3), 44, "equivalent"),
        (gain_of(0.2, 0.5), 44, "undecided"),
        (gain_of(0.9, 0.2), 44, "holds"),  # small, and there
        (Gain(0.0, 0.0, 0.0, 0.0, 3, 70, 0.0, 0.0), 44, "equivalent"),
        (None, 44, "not measured"),
    ],
)
def test_verdicts(found, among, word):
    assert verdict(found, among) == word and word in compare.VERDICTS


def test_what_decides_brings_the_gain_over_the_bar():
    found = gain_of(2.5, 0.5, over_seeds=0.6)
    assert verdict(found, 44) == "undecided"
    seeds, people = (int(word.replace(",", "")) for word in what_decides(found, 44).split() if word[0].isdigit())
    for n, word in ((seeds, "holds"), (seeds - 1, "undecided")):
        assert verdict(found._replace(over_seeds=0.6 * np.sqrt(3 / n)), 44) == word
    for n, word in ((people, "holds"), (people - 1, "undecided")):
        assert verdict(found._replace(over_people=0.5 * np.sqrt(211 / n)), 44) == word
    assert what_decides(gain_of(2.0, 0.5, over_seeds=0.6), 44).endswith("seeds")  # no number of people is enough
    assert "both" in what_decides(gain_of(0.5, 0.5, over_seeds=0.6), 44)


@pytest.mark.parametrize(
    ("low", "high", "printed", "word"),
    [
        (1.4, 3.6, 3.34, "printed size inside"),
        (1.4, 3.6, 6.39, "smaller"),
        (22.9, 33.8, 16.67, "larger"),
        (-3.5, -0.5, 12.6, "smaller"),  # behind, where ahead is printed
        (1.4, 3.336, 3.34, "printed size inside"),  # printed with two decimals
        (1.4, 3.6, NAN, ""),
    ],
)
def test_sizes(low, high, printed, word):
    assert compare.size(Gain((low + high) / 2, low, high, 0.5, 3), printed) == word and word in {"", *compare.SIZES}
    assert compare.size(None, printed) == ""


def test_the_rule_is_one_text_with_every_word():
    words = {*compare.VERDICTS, *compare.SIZES}
    assert all(f"- *{word}*: " in compare.WHAT_IT_TAKES for word in words)
    assert "Rank-1 decides" in compare.WHAT_IT_TAKES and "Wang et al. 2022" in compare.TERMS
