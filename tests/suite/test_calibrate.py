"""Worlds without a gain have none, planted gains are there, and the rule that ships is that of compare.verdict."""

import numpy as np
import pandas as pd
import pytest

from vtlib.suite import calibrate, compare

PEOPLE = tuple(range(40))


def some(count=3, pairs=(3, 1, 2), seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(40, s) for s in pairs[:count]]
    return [
        calibrate.Table(
            str(i), 2 + rng.normal(0, 4, (40, 1)) + rng.normal(0, 1, (1, s)) + rng.normal(0, 3, (40, s)), PEOPLE
        )
        for i, (_, s) in enumerate(shapes)
    ]


@pytest.mark.parametrize("kind", ["people", "people and seeds"])
def test_a_world_without_a_gain_has_none_and_keeps_its_spread(kind):
    found = some()
    for table, world in zip(found, calibrate.worlds(found, 4000, 1.0, kind), strict=True):
        assert world.shape == (4000, *table.values.shape)
        mean = world.mean((1, 2))
        assert abs(mean.mean()) < 5 * mean.std() / np.sqrt(4000)
        # as spread as a mean of people, and of seeds where they are tossed too
        over_people = table.values.mean(1).std() / np.sqrt(40)
        assert mean.std() > 0.9 * over_people
        seeds = calibrate.see(world).sd
        assert np.isnan(seeds).all() == (table.values.shape[1] == 1)


def test_labels_are_exchanged_for_a_person_in_all_comparisons_at_once():
    found = some()
    worlds = calibrate.worlds(found, 5, 1.0, "people")
    signs = [np.sign(w[:, :, :1] * t.values[None, :, :1]) for w, t in zip(worlds, found, strict=True)]
    assert (signs[0] == signs[1]).all() and (signs[0] == signs[2]).all() and set(np.unique(signs[0])) == {-1.0, 1.0}


def test_the_rule_that_ships_is_that_of_compare():
    found = some()
    worlds = [t.values[None] for t in found]
    p = np.stack([calibrate.standard_error("larger")(calibrate.see(w), 1.0, None)(0.0) for w in worlds])
    said = calibrate.share(p)[:, 0]
    for table, holds in zip(found, said, strict=True):
        rows = [(i, s, v) for i, line in enumerate(table.values) for s, v in enumerate(line)]
        each = pd.DataFrame(rows, columns=["pid", "seed", "rank1"]).assign(split=1)
        gain = compare.gains(each, ["rank1"], {"rank1": 1.0})["rank1"]
        assert (compare.verdict(gain, len(found)) in ("holds", "fails")) == holds
        bar = compare.bar(gain, len(found))
        shift = bar - gain.gain  # the planted gain at which it begins to hold
        test = calibrate.standard_error("larger")(calibrate.see(table.values[None]), 1.0, None)
        assert test(shift * 1.001 + 1e-6)[0] < 2 * compare.FAMILY / len(found) < test(shift - 0.01)[0]


def test_holm_is_that_of_a_plain_loop():
    rng = np.random.default_rng(3)
    p = 10 ** rng.uniform(-6, 0, (8, 200))
    found = calibrate.holm(p)
    for column, said in zip(p.T, found.T, strict=True):
        passed, alive = set(), True
        for rank, i in enumerate(np.argsort(column)):
            alive &= column[i] < 2 * compare.FAMILY / (8 - rank)
            if alive:
                passed.add(int(i))
        assert set(np.flatnonzero(said).tolist()) == passed


def test_rules_are_as_often_wrong_as_they_say_and_see_what_is_large():
    found = some(3, (3, 3, 3), seed=1)
    made = calibrate.measure(found, 250).set_index(["world", "rule"])
    alone = made.loc[("people", "percentile interval, 95 % each")]
    assert 0.5 < alone.false_holds < 6 and alone.false_holds <= alone.family_holds <= 3 * alone.false_holds + 1e-9
    assert made.loc[("people", calibrate.SHIPPED)].family_holds <= 2
    assert (made.power_10 >= made["power_0.5"]).all() and made.loc[("people", calibrate.SHIPPED)].power_10 > 95
    text = calibrate.sentence(made.reset_index(), calibrate.facts(found, 44))
    assert text.startswith("In reports of 3 comparisons") and "nan" not in text


def test_the_bootstraps_agree_with_the_standard_error():
    seen = calibrate.see(some(1)[0].values[None])
    rng = np.random.default_rng(0)
    for ends in (calibrate.percentile, calibrate.bca):
        low, high = ends(seen, rng)
        assert high[0] - low[0] == pytest.approx(2 * 1.96 * seen.people[0], rel=0.1) and low[0] < 0 < high[0]
    low, high = calibrate.hierarchical(seen, rng)
    assert high[0] - low[0] > 2 * 1.96 * seen.people[0]  # seeds make it wider


def test_people_who_are_all_equal_break_no_rule():
    import warnings

    equal = calibrate.Table("equal", np.zeros((40, 2)), PEOPLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = calibrate.measure([equal, *some(2)], 20)
    assert made.notna().all().all() or made.drop(columns="power_three_seeds_3").notna().all().all()
