"""Measured beside printed: tables, claims, the report folder; on runs of the quick profile."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from vtlib import protocols, runs
from vtlib.config import experiment
from vtlib.suite import compare, items, plots, report, tables, verdicts
from vtlib.suite.compare import Gain


@pytest.fixture(scope="module")
def done(home):
    """Two rows of S1 Table 3 on quick, two seeds each, and the untouched start."""
    made = {row: [experiment("quick", m, seed=s) for s in (0, 1)] for row, m in (("Baseline", "baseline"),)}
    made["DPAN+CMDC"] = [experiment("quick", "dpan_cmdc", seed=s) for s in (0, 1)]
    made[items.UNTOUCHED] = [experiment("quick", "identity", epochs=0)]
    return {row: [runs.run(e) for e in group] for row, group in made.items()}


def test_lambda_sentence_claims_nothing_from_one_seed():
    one = pd.DataFrame({"lambda": [0.0, 3.0, 5.0], "value": [10.0, 20.0, 15.0]})
    assert verdicts.lambda_sentence(one).endswith("One seed: no claim.")
    three = pd.concat([one, pd.DataFrame({"lambda": [3.0, 3.0], "value": [21.0, 19.0]})])
    assert "Best at lambda 3" in verdicts.lambda_sentence(three) and "lambda 3." in verdicts.lambda_sentence(three)


def curves_of(**parts):
    """S1 Figure 5's tidy table of some curves of one layout."""
    return pd.concat(
        pd.DataFrame({"layout": "sysu", "part": part, "epoch": range(1, len(values) + 1), "cmdc": values})
        for part, values in parts.items()
    )


def test_convergence_claims_read_the_curve(done):
    falling = [10.0, 4.0, 2.0, 1.5, 1.2, 1.1, 1.05, 1.02, 1.01]
    late = [10.0, 11.0, 12.0, 12.0, 12.0, 9.0, 6.0, 3.0, 1.0]  # rises first: no share of the drop, but a level
    curves = curves_of(training=falling, validation=late)
    found = verdicts.convergence_claims(curves, {"sysu": done["Baseline"]}).set_index("claim")
    assert found.verdict.to_dict() == {
        "training: CMDC drops quickly": "holds on one seed",
        "training: CMDC becomes stable": "holds on one seed",
        "validation: CMDC drops quickly": "fails on one seed",
        "validation: CMDC becomes stable": "fails on one seed",
    }
    levels = "from 10.000 over 1.500 after a third to 1.010 at the end, in feature distance"
    assert found.metric.iloc[0] == levels and found.gain.isna().all() and not found.metric.str.contains("percent").any()
    few = verdicts.convergence_claims(curves[curves.epoch < verdicts.EPOCHS], {"sysu": done["Baseline"]})
    assert set(few.verdict) == {"undecided"} and set(few.metric) == {"too few epochs, 5"}
    assert "4 claims" in verdicts.verdict_text("S1.F5", found.reset_index())


@pytest.mark.parametrize(
    "values",
    [
        [0.349, 0.347, 0.344, 0.340, 0.335, 0.331, 0.330, 0.329],  # 6 percent, as measured
        [0.329, 0.333, 0.332, 0.331, 0.331, 0.331, 0.330, 0.331],  # not at all
        [1.0, 1.1, 1.2, 1.5, 2.0, 2.5, 3.0, 9.0],  # rises
    ],
)
def test_a_curve_without_a_drop_decides_nothing_and_has_no_percents(done, values):
    found = verdicts.convergence_claims(curves_of(validation=values), {"sysu": done["Baseline"]})
    assert set(found.verdict) == {"undecided"} and found.metric.str.startswith("no drop to judge: from").all()
    text = verdicts.verdict_text("S1.F5", found)
    assert "percent" not in text and f"{values[0]:.3f}" in text and f"{values[-1]:.3f}" in text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.04, "0.0"), (0.04, "0.0"), (-0.06, "-0.1"), (2.25, "+2.2"), (np.float64(-1e-12), "0.0")]
)
def test_what_rounds_to_zero_has_no_sign(value, text):
    assert tables.fixed(value, 1, "+") == text


def test_an_end_near_zero_shows_its_sign():
    assert tables.between(-0.04, 3.6) == " [-0.04, +3.6]" and tables.between(0.03, 4.2) == " [+0.03, +4.2]"
    assert tables.between(0.0, 0.0) == " [0.0, 0.0]" and tables.between(math.nan, 1.0) == ""
    assert tables.spread(-0.01, 0.0, 1, "+") == "0.0 +- 0.0"


def row_of(item, claim, gain, key, pairs=3, metric="rank1", printed=math.nan):
    """A row of claims()."""
    word, size = compare.verdict(gain), compare.size(gain, printed)
    numbers = [*gain._replace(pairs=pairs), word, size]
    note = compare.what_decides(gain) if word == "undecided" else ""
    return [item, claim, "all", metric, printed, *numbers, "synvt", "cpu", items.MAIN_PROTOCOL, "", key, "", note, ""]


def gain_of(mean, low, high, sd, pairs):
    """A gain of 211 people whose error is all over people; on one pair nothing is known of seeds."""
    error = (high - low) / 2 / 1.9713
    return Gain(mean, low, high, sd, pairs, 211, error, math.nan if pairs == 1 else 0.0)


def frame_of(*rows):
    return pd.DataFrame(rows, columns=verdicts.CLAIM_COLUMNS)


def test_one_comparison_counts_once_by_the_table_with_most_pairs():
    one, three = gain_of(4.2, 1.0, 7.0, math.nan, 1), gain_of(3.6, 1.6, 5.5, 0.5, 3)
    found = frame_of(
        row_of("S1.T1", "both", three, "a over b, sysu", 3),
        row_of("S1.T3", "both", three, "a over b, sysu", 3),  # the same, of another table
        row_of("S2.T3", "MC", three, "c over d, sysu", 3),
        row_of("S2.T6", "Ours", one, "c over d, sysu", 1),  # the same with fewer seeds
        row_of("S2.T6", "other", one, "c over e, sysu", 1),
    )
    kept = verdicts.once(found)
    assert kept.item.tolist() == ["S1.T3", "S2.T3", "S2.T6"]
    assert verdicts.counted(found) == "holds: 2, holds on one seed: 1"
    assert verdicts.by_chance(found).startswith("3 different comparisons were made")
    page = report.overview(found).to_html()
    assert page.count("counted in S1 Table 3") == page.count("counted in S2 Table 3") == 1
    alone = found[found.item == "S2.T6"]
    assert verdicts.counted(alone) == "holds on one seed: 2" and "counted in" not in report.overview(alone).to_html()


def test_a_verdict_says_what_its_size_is_and_which_metric_decides():
    small, sign = gain_of(2.5, 1.4, 3.6, 0.5, 3), gain_of(1.8, -0.04, 3.6, 0.5, 3)
    text = verdicts.verdict_text(
        "S1.T3",
        frame_of(
            row_of("S1.T3", "far", small, "", printed=6.4),
            row_of("S1.T3", "far", small, "", metric="mAP", printed=2.0),
            row_of("S1.T3", "near", sign, "", printed=2.0),
            row_of("S1.T3", "near", small, "", metric="mAP"),
        ),
    )
    assert "by rank-1: holds: 1, undecided: 1." in text.splitlines()[0]
    assert "- [holds, smaller than printed] far. rank-1 +2.5" in text
    assert "- [undecided, printed size inside the interval] near. rank-1 +1.8" in text
    assert "[-0.04, +3.6]" in text and "mAP +2.5 +- 0.5 over 3 pairs of runs [+1.4, +3.6] (by itself: holds)" in text
    sentences = report.did_it_hold(frame_of(row_of("S1.T3", "far", small, "", printed=6.4)), "S1")
    assert (
        "**holds, smaller than printed**" in sentences and "printed +6.4" in sentences and "**holds: 1**" in sentences
    )
    assert report.did_it_hold(frame_of(), "S2") == "No claim of S2 was measured."


def test_a_classifier_that_guesses_is_named(done, tmp_path):
    import json
    import shutil

    run = done["Baseline"][0]
    n = report.people(run)
    learned = report.learned(done)
    assert list(learned.row) == ["Baseline", "DPAN+CMDC"]  # of no epochs there is nothing to say
    assert learned.guess.iloc[0] == pytest.approx(math.log(n)) and learned.people.iloc[0] == n
    assert learned.end.iloc[0] == pytest.approx(np.mean([r.history["id"].iloc[-1] for r in done["Baseline"]]))
    stripes = [{"stripes": 3, "width": 8, "share": 0.5}, {"stripes": 6, "width": 8, "share": 0.5}]
    for over_parts, logged in (("sum", 9 * math.log(n)), ("mean", math.log(n))):  # the same state, logged in two ways
        shutil.copytree(run.folder, tmp_path / over_parts)
        (tmp_path / over_parts / "history.jsonl").write_text(json.dumps({"epoch": 1, "id": logged}))
        parts = runs.Run(run.experiment.but(parts=stripes, over_parts=over_parts), tmp_path / over_parts)
        (text,) = report.unlearned({"parts": [parts]})
        assert f"a guess costs ln {n} = {math.log(n):.2f}: parts {math.log(n):.2f}." in text
    (tmp_path / "mean" / "history.jsonl").write_text(json.dumps({"epoch": 1, "id": 0.5 * math.log(n)}))
    assert report.unlearned({"parts": [runs.Run(parts.experiment, tmp_path / "mean")]}) == []


def test_two_changes_that_help_each_other(done, monkeypatch):
    base = pd.DataFrame(0.0, index=range(40), columns=runs.METRICS)
    base = base.assign(pid=np.arange(40) // 2, seed=0, split=1)
    gain = {("both", "a"): 30.0, ("b", "base"): 10.0}
    monkeypatch.setattr(
        verdicts, "differences", lambda x, y, protocol: base.assign(**dict.fromkeys(runs.METRICS, gain[x[0], y[0]]))
    )
    monkeypatch.setattr(verdicts, "under", lambda rows, protocol: rows)

    class Named(str):
        experiment = SimpleNamespace(profile="none")

    rows = {name: [Named(name)] for name in ("both", "a", "b", "base")}
    assert verdicts.together(rows, "both", "a", "b", "base").endswith("+20.0 [+20.0, +20.0], so they help each other.")
    gain["both", "a"] = -5.0
    assert verdicts.together(rows, "both", "a", "b", "base").endswith("so they take from each other.")


def test_own_rows_stand_beside_those_of_the_paper(done):
    made = tables.table("S1.T3", done | {"mine": done["DPAN+CMDC"]}, {"mine": "Baseline"})
    mine, paper = (made[(made.row == row) & (made.metric == "rank1")].iloc[0] for row in ("mine", "DPAN+CMDC"))
    assert mine.difference == paper.difference and mine.over == "Baseline" and math.isnan(mine.printed)
    assert report.gained(made, "mine").endswith(" over Baseline") and report.gained(made, "x") == "not measured"
    assert float(report.level(made, "mine")) == pytest.approx(mine.measured, abs=0.05)


def test_the_facts_are_one_line_and_a_gallery_of_one_draw_is_said(done):
    line = report.facts_line(done["Baseline"][0].experiment)
    assert "\n" not in line and "{" not in line and "torch" in line and "threads" in line
    assert report.one_gallery(done, items.MAIN_PROTOCOL) == ""  # its draws differ
    assert "all 2 draws give the same gallery" in report.one_gallery(done, "sysu all 10-shot official")
    assert report.one_gallery(done, "regdb v2t") == ""  # no run has it


def test_a_table_has_printed_measured_and_both_differences(done):
    made = tables.table("S1.T3", done)
    assert list(dict.fromkeys(made.row)) == [*dict.fromkeys(items.ITEMS["S1.T3"].printed.row), items.UNTOUCHED]
    row = made[(made.row == "DPAN+CMDC") & (made.metric == "rank1")].iloc[0]
    assert row.printed == 57.74 and row.printed_difference == pytest.approx(6.39) and row.over == "Baseline"
    levels = {name: 100 * runs.collect(group, items.MAIN_PROTOCOL).rank1 for name, group in done.items()}
    assert row.measured == pytest.approx(levels["DPAN+CMDC"].mean())
    assert row.sd == pytest.approx(levels["DPAN+CMDC"].std(ddof=1))
    ahead = (levels["DPAN+CMDC"] - levels["Baseline"]).to_numpy()
    assert row.difference == pytest.approx(ahead.mean()) and row.pairs == 2
    assert row.difference_sd == pytest.approx(ahead.std(ddof=1))
    assert row.difference_low <= row.difference <= row.difference_high
    assert row.run_ids.split() == [r.experiment.run_id for r in done["DPAN+CMDC"]] and row.runs == 2
    base = made[(made.row == "Baseline") & (made.metric == "rank1")].iloc[0]
    assert base.over == items.UNTOUCHED and base.pairs == 1 and math.isnan(base.printed_difference)
    dpan = made[(made.row == "Baseline+DPAN") & (made.metric == "mAP")].iloc[0]  # printed alone
    assert math.isnan(dpan.measured) and math.isnan(dpan.difference) and dpan.printed_difference == pytest.approx(2.25)


def test_printed_and_measured_never_share_a_column(done):
    made = tables.in_words(tables.table("S1.T3", done), ["rank1", "rank10", "mAP"])
    blocks = list(dict.fromkeys(made.columns.get_level_values(0)))
    measured, ahead = "measured on synvt_sysu_quick", ("difference, printed", "difference, measured")
    assert blocks == ["printed", measured, *ahead, "difference to"]
    assert made.loc["DPAN+CMDC", ("printed", "all", "rank-1")] == "57.74"
    assert " +- " in made.loc["DPAN+CMDC", (blocks[1], "all", "rank-1")]
    assert made.loc["DPAN+CMDC", (blocks[2], "all", "rank-1")] == "+6.39"
    assert "[" in made.loc["DPAN+CMDC", (blocks[3], "all", "mAP")]
    assert made.loc["Baseline+DPAN", (blocks[1], "all", "rank-1")] == ""
    text = tables.latex(tables.table("S1.T3", done))
    assert "\\toprule" in text and "$\\pm$" in text and "synvt\\_sysu\\_quick" in text and "57.74" in text
    assert text.count("{") == text.count("}") and not set("_%&#") & set(text.replace("\\_", "").replace(" & ", "")) - {
        "&"
    }


def test_claims_say_what_is_printed_measured_and_not_measured(done):
    found = verdicts.claims("S1.T3", done).set_index(["claim", "metric"])
    both = found.loc[("DPAN+CMDC over Baseline", "rank1")]
    assert both.printed == pytest.approx(6.39) and both.pairs == 2 and both.verdict in compare.VERDICTS
    each = compare.differences(done["DPAN+CMDC"], done["Baseline"], items.MAIN_PROTOCOL)
    assert both.gain == pytest.approx(compare.gains(each)["rank1"].gain) and both.low <= both.gain <= both.high
    if both.verdict == "undecided":
        assert both.note.startswith(("a gain of this size would take", "more people and more seeds"))
    assert set(both.run_ids.split()) == {r.experiment.run_id for row in ("Baseline", "DPAN+CMDC") for r in done[row]}
    assert found.loc[("Baseline+DPAN over Baseline", "mAP")].verdict == "not measured"
    same = verdicts.claims("S1.T3", dict.fromkeys(("Baseline", "DPAN+CMDC"), done["Baseline"]))
    assert set(same[same.pairs > 0].verdict) == {"equivalent"}
    # a method that nobody rebuilt is printed, and not measured
    hat = (
        verdicts.claims("S1.T1", done)
        .set_index(["claim", "setting", "metric"])
        .loc[("DPAN+CMDC over HAT", "all", "rank1")]
    )
    assert hat.printed == pytest.approx(2.45) and hat.verdict == "not measured" and hat.run_ids == ""
    text = verdicts.verdict_text("S1.T3", found.reset_index(), "More.")
    assert text.splitlines()[0].startswith("S1 Table 3: each component") and "3 claims" in text.splitlines()[0]
    assert "not measured: 2" in text and text.endswith("More.")
    assert "printed +6.39" in text and "over 2 pairs of runs" in text


def test_nothing_printed_is_a_comparison_and_not_a_claim(done):
    rows = {"two-stream + CMDC": done["Baseline"], "two-stream + MC": done["DPAN+CMDC"]}
    found = verdicts.claims("X.T1", rows)
    assert set(found.claim) == {"two-stream + MC over two-stream + CMDC"} and found.printed.isna().all()
    row = verdicts.claim_row(
        "X.T1", "a", "", "rank1", math.nan, gain_of(-2.0, -2.8, -1.2, 0.5, 3), [done["Baseline"]], ""
    )
    assert list(row) == verdicts.CLAIM_COLUMNS and row["verdict"] == "lower"


def copied(run, folder, **changes):
    """A run with the same files and other fields of its metrics.json."""
    import json
    import shutil

    shutil.copytree(run.folder, folder)
    stored = json.loads((folder / "metrics.json").read_text()) | changes
    (folder / "metrics.json").write_text(json.dumps(stored))
    return runs.Run(run.experiment, folder)


def test_runs_that_cannot_be_compared_are_refused(done, tmp_path):
    first = done["Baseline"][0]
    other = runs.Run(first.experiment.but(profile="cpu"), first.folder)
    with pytest.raises(ValueError, match=r"profiles differ, cpu .* and quick .*cannot stand in one table"):
        tables.table("S1.T3", done | {"Baseline": [other]})
    changed = copied(first, tmp_path / "data", data_digest="0" * 64)
    with pytest.raises(ValueError, match=r"data of sysu all 1-shot official differ.*digest 000000000000"):
        tables.table("S1.T3", done | {"Baseline": [changed]})
    fewer = {name: trials[:1] for name, trials in first.metrics["protocols"].items()}
    with pytest.raises(ValueError, match=r"trials of sysu all 1-shot official differ, 1 .* and 2 "):
        verdicts.claims("S1.T3", done | {"Baseline": [copied(first, tmp_path / "trials", protocols=fewer)]})


def test_a_report_is_written_with_its_provenance_and_refuses_another_profile(done, tmp_path, monkeypatch):
    root = tmp_path / "results" / "quick"
    monkeypatch.setattr(report, "results_root", lambda: root.parent)
    root.mkdir(parents=True)
    (root / "runs").symlink_to(done["Baseline"][0].folder.parent)
    made, found = tables.table("S1.T3", done), verdicts.claims("S1.T3", done)
    text = verdicts.verdict_text("S1.T3", found)
    names = report.write("S1.T3", "quick", made, text, found, {"": plots.figure()[0], "more": plots.figure()[0]})
    kinds = ("claims.csv", "csv", "pdf", "png", "tex", "txt")
    assert set(names) == {*(f"S1.T3.{kind}" for kind in kinds), "S1.T3-more.pdf", "S1.T3-more.png"}
    where = pd.read_csv(root / "report" / "provenance.csv").set_index("run_id")
    assert set(where.index) == {r.experiment.run_id for group in done.values() for r in group}
    run = done["DPAN+CMDC"][1]
    row = where.loc[run.experiment.run_id]
    assert (row.method, row.seed, row.profile, row.used_in) == ("dpan_cmdc", 1, "quick", "S1.T3")
    assert row.data_digest == run.metrics["data_digest"] and row.device == run.metrics["device"]
    assert (root / row.config).is_file() and "torch=" in row.versions
    of = report.gathered("quick")
    assert list(of.tables) == ["S1.T3"] and "S2.T1" in of.missing and len(of.claims) == len(found)
    assert report.levels(of).index[0] == "chance: random features" and "S1 Table 3: Baseline" in report.levels(of).index
    assert "1 different comparisons were made" in verdicts.by_chance(of.claims)
    assert 'href="20_ablation.ipynb"' in report.overview(of.claims).to_html()
    assert "<td" not in report.overview(of.claims[:0]).to_html()
    with pytest.raises(ValueError, match="runs of profile quick cannot stand in the report of cpu"):
        report.write("S1.T3", "cpu", made, text, found)
    made.assign(run_ids="abcdefabcdef").to_csv(root / "report" / "S1.T3.csv")
    with pytest.raises(ValueError, match=r"names run abcdefabcdef, which is not there: run 20_ablation again"):
        report.gathered("quick")
    with pytest.raises(FileNotFoundError, match="run the notebooks 20 to 34"):
        report.gathered("cpu")


def test_chance_is_that_of_a_random_order(done):
    run = done["Baseline"][0]
    found = runs.chance(run, items.MAIN_PROTOCOL)
    people, drawn = len(np.unique(run.features["pid"])), []
    assert found.rank1 == pytest.approx(1 / people, rel=0.05)
    search = protocols.named(items.MAIN_PROTOCOL)
    for seed in range(60):
        noise = torch.randn(len(run.features["pid"]), 64, generator=torch.Generator().manual_seed(seed))
        test = protocols.Embedded("sysu", {**run.features, "features": noise}, run.embedded(search).permutations)
        drawn.append(test.queries(search, 2)[["rank1", "mAP"]].mean())
    np.testing.assert_allclose(found[["rank1", "mAP"]], np.mean(drawn, axis=0), atol=0.02)


def test_a_figure_of_rows_shows_chance_and_differences(done):
    made = tables.table("S1.T3", done)
    fig = report.row_figure("S1.T3", done, made)
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == ["rank-1", "mAP", "gain in rank-1", "gain in mAP"]
    lowest = 100 * runs.chance(done["Baseline"][0], items.MAIN_PROTOCOL)
    assert fig.axes[0].get_legend().get_texts()[0].get_text() == f"chance {lowest.rank1:.1f}"
    assert [t.get_text() for t in fig.axes[-1].texts] == ["to Baseline", f"to {items.UNTOUCHED}"] or [
        t.get_text() for t in fig.axes[-1].texts
    ] == [f"to {items.UNTOUCHED}", "to Baseline"]
    low, high = fig.axes[0].get_xlim()
    assert low == 0 and high > made[(made.metric == "rank1") & made.measured.notna()].measured.max()


def test_an_axis_of_its_own_is_marked():
    rng = np.random.default_rng(0)
    scale = {"untouched start": (0.996, 0.0005), "trained": (0.1, 0.2)}
    table = pd.concat(
        pd.DataFrame({"panel": panel, "level": level, "kind": kind, "similarity": rng.normal(mean, sd, 200)})
        for panel, (mean, sd) in scale.items()
        for level in ("images", "centres")
        for kind in ("same person", "different people")
    )
    fig = plots.similarity_distributions(table)
    ends = table[table.panel == "untouched start"].similarity
    assert fig.axes[0].get_title() == f"untouched start\n{ends.min():.3f} to {ends.max():.3f}"
    tinted = [ax.get_facecolor() != fig.axes[1].get_facecolor() for ax in fig.axes]
    assert tinted == [True, False, True, False]


def test_people_have_colours_that_differ():
    colour = plots.colours_of(range(12))
    assert len(set(colour.values())) == 12 == len(colour) and len(set(plots.PEOPLE)) == len(plots.PEOPLE) >= 12
