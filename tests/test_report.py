"""Measured beside printed: tables, claims, the report folder; on runs of the quick profile."""

import math

import numpy as np
import pandas as pd
import pytest

from vtlib import compare, papers, plots, report, runs
from vtlib.compare import Gain
from vtlib.config import experiment


@pytest.fixture(scope="module")
def done(home):
    """Two rows of S1 Table 3 on quick, two seeds each, and the untouched start."""
    made = {row: [experiment("quick", m, seed=s) for s in (0, 1)] for row, m in (("Baseline", "baseline"),)}
    made["DPAN+CMDC"] = [experiment("quick", "dpan_cmdc", seed=s) for s in (0, 1)]
    made[papers.UNTOUCHED] = [experiment("quick", "identity", epochs=0)]
    return {row: [runs.run(e) for e in group] for row, group in made.items()}


def test_lambda_sentence_claims_nothing_from_one_seed():
    one = pd.DataFrame({"lambda": [0.0, 3.0, 5.0], "value": [10.0, 20.0, 15.0]})
    assert report.lambda_sentence(one).endswith("One seed: no claim.")
    three = pd.concat([one, pd.DataFrame({"lambda": [3.0, 3.0], "value": [21.0, 19.0]})])
    assert "Best at lambda 3" in report.lambda_sentence(three) and "lambda 3." in report.lambda_sentence(three)


def test_convergence_claims_read_the_curve(done):
    falling = [10.0, 4.0, 2.0, 1.5, 1.2, 1.1, 1.05, 1.02, 1.01]
    rising = [1.0, 1.1, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 9.0]
    curves = pd.concat(
        pd.DataFrame({"layout": "sysu", "part": part, "epoch": range(1, 10), "cmdc": values})
        for part, values in (("training", falling), ("validation", rising))
    )
    found = report.convergence_claims(curves, {"sysu": done["Baseline"]}).set_index("claim")
    assert found.loc["training: CMDC drops quickly"].verdict == "holds on one seed"
    assert found.loc["training: CMDC drops quickly"].gain == pytest.approx(100 * 8.5 / 8.99)
    assert found.loc["training: CMDC becomes stable"].gain == pytest.approx(100 * 0.04 / 8.99)
    assert set(found[found.index.str.startswith("validation")].verdict) == {"fails on one seed"}
    few = report.convergence_claims(curves[curves.epoch < report.EPOCHS], {"sysu": done["Baseline"]})
    assert set(few.verdict) == {"undecided"} and set(few.metric) == {"too few epochs, 5"}
    text = report.verdict_text("S1.F5", found.reset_index())
    assert "4 claims" in text and "no drop, from 1.00 to 9.00." in text


def test_a_table_has_printed_measured_and_both_differences(done):
    made = report.table("S1.T3", done)
    assert list(dict.fromkeys(made.row)) == [*dict.fromkeys(papers.ITEMS["S1.T3"].printed.row), papers.UNTOUCHED]
    row = made[(made.row == "DPAN+CMDC") & (made.metric == "rank1")].iloc[0]
    assert row.printed == 57.74 and row.printed_difference == pytest.approx(6.39) and row.over == "Baseline"
    levels = {name: 100 * runs.collect(group, papers.MAIN_PROTOCOL).rank1 for name, group in done.items()}
    assert row.measured == pytest.approx(levels["DPAN+CMDC"].mean())
    assert row.sd == pytest.approx(levels["DPAN+CMDC"].std(ddof=1))
    ahead = (levels["DPAN+CMDC"] - levels["Baseline"]).to_numpy()
    assert row.difference == pytest.approx(ahead.mean()) and row.pairs == 2
    assert row.difference_sd == pytest.approx(ahead.std(ddof=1))
    assert row.difference_low <= row.difference <= row.difference_high
    assert row.run_ids.split() == [r.experiment.run_id for r in done["DPAN+CMDC"]] and row.runs == 2
    base = made[(made.row == "Baseline") & (made.metric == "rank1")].iloc[0]
    assert base.over == papers.UNTOUCHED and base.pairs == 1 and math.isnan(base.printed_difference)
    dpan = made[(made.row == "Baseline+DPAN") & (made.metric == "mAP")].iloc[0]  # printed alone
    assert math.isnan(dpan.measured) and math.isnan(dpan.difference) and dpan.printed_difference == pytest.approx(2.25)


def test_printed_and_measured_never_share_a_column(done):
    made = report.in_words(report.table("S1.T3", done), ["rank1", "rank10", "mAP"])
    blocks = list(dict.fromkeys(made.columns.get_level_values(0)))
    measured, ahead = "measured on synvt_sysu_quick", ("difference, printed", "difference, measured")
    assert blocks == ["printed", measured, *ahead, "difference to"]
    assert made.loc["DPAN+CMDC", ("printed", "all", "rank-1")] == "57.74"
    assert " +- " in made.loc["DPAN+CMDC", (blocks[1], "all", "rank-1")]
    assert made.loc["DPAN+CMDC", (blocks[2], "all", "rank-1")] == "+6.39"
    assert "[" in made.loc["DPAN+CMDC", (blocks[3], "all", "mAP")]
    assert made.loc["Baseline+DPAN", (blocks[1], "all", "rank-1")] == ""
    text = report.latex(report.table("S1.T3", done))
    assert "\\toprule" in text and "$\\pm$" in text and "synvt\\_sysu\\_quick" in text and "57.74" in text
    assert text.count("{") == text.count("}") and not set("_%&#") & set(text.replace("\\_", "").replace(" & ", "")) - {
        "&"
    }


def test_claims_say_what_is_printed_measured_and_not_measured(done):
    found = report.claims("S1.T3", done).set_index(["claim", "metric"])
    both = found.loc[("DPAN+CMDC over Baseline", "rank1")]
    assert both.printed == pytest.approx(6.39) and both.pairs == 2 and both.verdict in compare.VERDICTS
    each = compare.differences(done["DPAN+CMDC"], done["Baseline"], papers.MAIN_PROTOCOL)
    assert both.gain == pytest.approx(compare.gains(each)["rank1"].gain) and both.low <= both.gain <= both.high
    assert set(both.run_ids.split()) == {r.experiment.run_id for row in ("Baseline", "DPAN+CMDC") for r in done[row]}
    assert found.loc[("Baseline+DPAN over Baseline", "mAP")].verdict == "not measured"
    same = report.claims("S1.T3", dict.fromkeys(("Baseline", "DPAN+CMDC"), done["Baseline"]))
    assert set(same[same.pairs > 0].verdict) == {"no difference"}
    # a method that nobody rebuilt is printed, and not measured
    hat = (
        report.claims("S1.T1", done)
        .set_index(["claim", "setting", "metric"])
        .loc[("DPAN+CMDC over HAT", "all", "rank1")]
    )
    assert hat.printed == pytest.approx(2.45) and hat.verdict == "not measured" and hat.run_ids == ""
    text = report.verdict_text("S1.T3", found.reset_index(), "More.")
    assert text.splitlines()[0].startswith("S1 Table 3: each component") and "3 claims" in text.splitlines()[0]
    assert "not measured: 2" in text and text.endswith("More.")
    assert "printed +6.39" in text and "over 2 pairs of runs" in text


def test_nothing_printed_is_a_comparison_and_not_a_claim(done):
    rows = {"two-stream + CMDC": done["Baseline"], "two-stream + MC": done["DPAN+CMDC"]}
    found = report.claims("X.T1", rows)
    assert set(found.claim) == {"two-stream + MC over two-stream + CMDC"} and found.printed.isna().all()
    row = report.claim_row("X.T1", "a", "", "rank1", math.nan, Gain(-2.0, -3.0, -1.0, 0.5, 3), [done["Baseline"]], "")
    assert row[report.CLAIM_COLUMNS.index("verdict")] == "lower"


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
        report.table("S1.T3", done | {"Baseline": [other]})
    changed = copied(first, tmp_path / "data", data_digest="0" * 64)
    with pytest.raises(ValueError, match=r"data of sysu all 1-shot official differ.*digest 000000000000"):
        report.table("S1.T3", done | {"Baseline": [changed]})
    fewer = {name: trials[:1] for name, trials in first.metrics["protocols"].items()}
    with pytest.raises(ValueError, match=r"trials of sysu all 1-shot official differ, 1 .* and 2 "):
        report.claims("S1.T3", done | {"Baseline": [copied(first, tmp_path / "trials", protocols=fewer)]})


def test_a_report_is_written_with_its_provenance_and_refuses_another_profile(done, tmp_path, monkeypatch):
    root = tmp_path / "results" / "quick"
    monkeypatch.setattr(report, "results_root", lambda: root.parent)
    root.mkdir(parents=True)
    (root / "runs").symlink_to(done["Baseline"][0].folder.parent)
    made, found = report.table("S1.T3", done), report.claims("S1.T3", done)
    text = report.verdict_text("S1.T3", found)
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
    assert "1 differences were tested" in report.by_chance(of.claims)
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
    found = runs.chance(run, papers.MAIN_PROTOCOL, draws=20)
    people = len(np.unique(run.features["pid"]))
    assert found.rank1 == pytest.approx(1 / people, rel=0.5) and found.rank20 == 1
