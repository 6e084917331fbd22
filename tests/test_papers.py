"""The printed tables: spot checks against the paper's text, and what each item needs."""

import math

import numpy as np
import pandas as pd
import pytest

from vtlib import compare, papers, plots, runs
from vtlib.compare import Gain
from vtlib.config import experiment


def value(key, row, setting, metric):
    p = papers.ITEMS[key].printed
    return p[(p.row == row) & (p.setting == setting) & (p.metric == metric)].printed.item()


def test_printed_numbers_of_the_abstract_and_the_text():
    assert value("S1.T1", "DPAN+CMDC", "all", "rank1") == 57.74 and value("S1.T1", "DPAN+CMDC", "all", "mAP") == 54.35
    assert value("S1.T2", "DPAN+CMDC", "v2t", "rank1") == 76.07 and value("S1.T2", "DPAN+CMDC", "v2t", "mAP") == 69.43
    # section 4.2: HAT is passed by 2.45 and 0.46, NFS by 0.83; section 4.3: 3.75, 3.34 and 6.39 over the baseline
    assert 57.74 - value("S1.T1", "HAT", "all", "rank1") == pytest.approx(2.45)
    assert 57.74 - value("S1.T1", "NFS", "all", "rank1") == pytest.approx(0.83)
    base = value("S1.T3", "Baseline", "all", "rank1")
    rows = ("Baseline+DPAN", "Baseline+CMDC", "DPAN+CMDC")
    assert [value("S1.T3", r, "all", "rank1") - base for r in rows] == pytest.approx([3.75, 3.34, 6.39])


def test_what_is_not_printed_is_missing_and_not_zero():
    assert pd.isna(value("S1.T1", "BDTR", "indoor", "rank1")) and pd.isna(value("S1.T2", "AGW", "v2t", "rank10"))
    assert len(papers.ITEMS["S1.T1"].printed) == 13 * 8 and len(papers.ITEMS["S1.T2"].printed) == 12 * 4


def test_shared_experiments_are_needed_once():
    every = papers.experiments("cpu", papers.ITEMS)
    assert len({e.run_id for e in every}) == len(every)
    table_3 = {e.run_id for e in papers.experiments("cpu", ["S1.T3"])}
    assert {e.run_id for e in papers.experiments("cpu", ["S1.T1"])} <= table_3  # Table 1 costs nothing more
    at_three = {e.run_id for e in papers.ITEMS["S1.F4"].experiments("cpu")["3.0"]}
    assert at_three <= table_3 and len(at_three) == 3


def test_cpu_spends_its_seeds_on_the_main_verdicts():
    def seeds(key, row, profile="cpu"):
        return [(e.dataset, e.seed) for e in papers.ITEMS[key].experiments(profile)[row]]

    three = [("sysu", s) for s in (0, 1, 2)]
    assert seeds("S1.T3", "DPAN+CMDC") == seeds("S1.T1", "DPAN+CMDC") == seeds("S2.T1", "Ours") == three
    assert seeds("S2.T3", "+MC (w/ Part)") == [*three, ("regdb", 0)] and seeds("S2.T2", "Ours") == [("regdb", 0)]
    one = [("S2.T4", "+C2I"), ("S2.T6", papers.PLAIN), ("X.T1", papers.WEIGHTED), ("S1.F4", "2.0")]
    assert all(seeds(*row) == [("sysu", 0)] for row in one)
    assert len(papers.experiments("cpu", papers.ITEMS)) <= 62  # half an hour on two cores
    every = papers.experiments("gpu", [k for k in papers.ITEMS if k != "S1.F5"])
    assert {sum(e.but(seed=0) == f.but(seed=0) for f in every) for e in every if e.epochs} == {3}


def test_the_untouched_start_is_a_run_of_no_epochs():
    for profile in ("quick", "cpu", "gpu", "paper"):
        (start,) = papers.ITEMS["S1.T3"].experiments(profile)[papers.UNTOUCHED]
        assert (start.method, start.epochs, start.seed) == ("identity", 0, 0)
    assert papers.LADDER["S1.T3"]["Baseline"] == papers.UNTOUCHED


def test_the_paper_profile_is_ten_splits_on_regdb():
    rows = papers.ITEMS["S1.T2"].experiments("paper")
    assert sorted(e.split for e in rows["DPAN+CMDC"]) == list(range(1, 11))


def test_lambda_sentence_claims_nothing_from_one_seed():
    one = pd.DataFrame({"lambda": [0.0, 3.0, 5.0], "value": [10.0, 20.0, 15.0]})
    assert papers.lambda_sentence(one).endswith("One seed: no claim.")
    three = pd.concat([one, pd.DataFrame({"lambda": [3.0, 3.0], "value": [21.0, 19.0]})])
    assert "Best at lambda 3" in papers.lambda_sentence(three) and "lambda 3." in papers.lambda_sentence(three)


def test_convergence_claims_read_the_curve(done):
    falling = [10.0, 4.0, 2.0, 1.5, 1.2, 1.1, 1.05, 1.02, 1.01]
    rising = [1.0, 1.1, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 9.0]
    curves = pd.concat(
        pd.DataFrame({"layout": "sysu", "part": part, "epoch": range(1, 10), "cmdc": values})
        for part, values in (("training", falling), ("validation", rising))
    )
    found = papers.convergence_claims(curves, {"sysu": done["Baseline"]}).set_index("claim")
    assert found.loc["training: CMDC drops quickly"].verdict == "holds on one seed"
    assert found.loc["training: CMDC drops quickly"].gain == pytest.approx(100 * 8.5 / 8.99)
    assert found.loc["training: CMDC becomes stable"].gain == pytest.approx(100 * 0.04 / 8.99)
    assert set(found[found.index.str.startswith("validation")].verdict) == {"fails on one seed"}
    text = papers.verdict_text("S1.F5", found.reset_index())
    assert "4 claims" in text and "no drop, from 1.00 to 9.00." in text


@pytest.fixture(scope="module")
def done(home):
    """Two rows of S1 Table 3 on quick, two seeds each, and the untouched start."""
    made = {row: [experiment("quick", m, seed=s) for s in (0, 1)] for row, m in (("Baseline", "baseline"),)}
    made["DPAN+CMDC"] = [experiment("quick", "dpan_cmdc", seed=s) for s in (0, 1)]
    made[papers.UNTOUCHED] = [experiment("quick", "identity", epochs=0)]
    return {row: [runs.run(e) for e in group] for row, group in made.items()}


def test_a_table_has_printed_measured_and_both_differences(done):
    made = papers.table("S1.T3", done)
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
    made = papers.in_words(papers.table("S1.T3", done), ["rank1", "rank10", "mAP"])
    blocks = list(dict.fromkeys(made.columns.get_level_values(0)))
    measured, ahead = "measured on synvt_sysu_quick", ("difference, printed", "difference, measured")
    assert blocks == ["printed", measured, *ahead, "difference to"]
    assert made.loc["DPAN+CMDC", ("printed", "all", "rank-1")] == "57.74"
    assert " +- " in made.loc["DPAN+CMDC", (blocks[1], "all", "rank-1")]
    assert made.loc["DPAN+CMDC", (blocks[2], "all", "rank-1")] == "+6.39"
    assert "[" in made.loc["DPAN+CMDC", (blocks[3], "all", "mAP")]
    assert made.loc["Baseline+DPAN", (blocks[1], "all", "rank-1")] == ""
    text = papers.latex(papers.table("S1.T3", done))
    assert "\\toprule" in text and "$\\pm$" in text and "synvt\\_sysu\\_quick" in text and "57.74" in text
    assert text.count("{") == text.count("}") and not set("_%&#") & set(text.replace("\\_", "").replace(" & ", "")) - {
        "&"
    }


def test_claims_say_what_is_printed_measured_and_not_measured(done):
    found = papers.claims("S1.T3", done).set_index(["claim", "metric"])
    both = found.loc[("DPAN+CMDC over Baseline", "rank1")]
    assert both.printed == pytest.approx(6.39) and both.pairs == 2 and both.verdict in compare.VERDICTS
    each = compare.differences(done["DPAN+CMDC"], done["Baseline"], papers.MAIN_PROTOCOL)
    assert both.gain == pytest.approx(compare.gains(each)["rank1"].gain) and both.low <= both.gain <= both.high
    assert set(both.run_ids.split()) == {r.experiment.run_id for row in ("Baseline", "DPAN+CMDC") for r in done[row]}
    assert found.loc[("Baseline+DPAN over Baseline", "mAP")].verdict == "not measured"
    same = papers.claims("S1.T3", dict.fromkeys(("Baseline", "DPAN+CMDC"), done["Baseline"]))
    assert set(same[same.pairs > 0].verdict) == {"no difference"}
    # a method that nobody rebuilt is printed, and not measured
    hat = (
        papers.claims("S1.T1", done)
        .set_index(["claim", "setting", "metric"])
        .loc[("DPAN+CMDC over HAT", "all", "rank1")]
    )
    assert hat.printed == pytest.approx(2.45) and hat.verdict == "not measured" and hat.run_ids == ""
    text = papers.verdict_text("S1.T3", found.reset_index(), "More.")
    assert text.splitlines()[0].startswith("S1 Table 3: each component") and "3 claims" in text.splitlines()[0]
    assert "not measured: 2" in text and text.endswith("More.")
    assert "printed +6.39" in text and "over 2 pairs of runs" in text


def test_nothing_printed_is_a_comparison_and_not_a_claim(done):
    rows = {"two-stream + CMDC": done["Baseline"], "two-stream + MC": done["DPAN+CMDC"]}
    found = papers.claims("X.T1", rows)
    assert set(found.claim) == {"two-stream + MC over two-stream + CMDC"} and found.printed.isna().all()
    row = papers.claim_row("X.T1", "a", "", "rank1", math.nan, Gain(-2.0, -3.0, -1.0, 0.5, 3), [done["Baseline"]], "")
    assert row[papers.CLAIM_COLUMNS.index("verdict")] == "lower"


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
        papers.table("S1.T3", done | {"Baseline": [other]})
    changed = copied(first, tmp_path / "data", data_digest="0" * 64)
    with pytest.raises(ValueError, match=r"data of sysu all 1-shot official differ.*digest 000000000000"):
        papers.table("S1.T3", done | {"Baseline": [changed]})
    fewer = {name: trials[:1] for name, trials in first.metrics["protocols"].items()}
    with pytest.raises(ValueError, match=r"trials of sysu all 1-shot official differ, 1 .* and 2 "):
        papers.claims("S1.T3", done | {"Baseline": [copied(first, tmp_path / "trials", protocols=fewer)]})


def test_a_report_is_written_with_its_provenance_and_refuses_another_profile(done, tmp_path, monkeypatch):
    root = tmp_path / "results" / "quick"
    monkeypatch.setattr(papers, "results_root", lambda: root.parent)
    root.mkdir(parents=True)
    (root / "runs").symlink_to(done["Baseline"][0].folder.parent)
    made, found = papers.table("S1.T3", done), papers.claims("S1.T3", done)
    text = papers.verdict_text("S1.T3", found)
    names = papers.report("S1.T3", "quick", made, found, text, {"": plots.figure()[0], "more": plots.figure()[0]})
    kinds = ("claims.csv", "csv", "pdf", "png", "tex", "txt")
    assert set(names) == {*(f"S1.T3.{kind}" for kind in kinds), "S1.T3-more.pdf", "S1.T3-more.png"}
    where = pd.read_csv(root / "report" / "provenance.csv").set_index("run_id")
    assert set(where.index) == {r.experiment.run_id for group in done.values() for r in group}
    run = done["DPAN+CMDC"][1]
    row = where.loc[run.experiment.run_id]
    assert (row.method, row.seed, row.profile, row.used_in) == ("dpan_cmdc", 1, "quick", "S1.T3")
    assert row.data_digest == run.metrics["data_digest"] and row.device == run.metrics["device"]
    assert (root / row.config).is_file() and "torch=" in row.versions
    of = papers.gathered("quick")
    assert list(of.tables) == ["S1.T3"] and "S2.T1" in of.missing and len(of.claims) == len(found)
    assert papers.levels(of).index[0] == "chance: random features" and "S1 Table 3: Baseline" in papers.levels(of).index
    assert "1 differences were tested" in papers.by_chance(of.claims)
    assert 'href="20_ablation.ipynb"' in papers.overview(of.claims).to_html()
    assert "<td" not in papers.overview(of.claims[:0]).to_html()
    with pytest.raises(ValueError, match="runs of profile quick cannot stand in the report of cpu"):
        papers.report("S1.T3", "cpu", made, found, text)
    made.assign(run_ids="abcdefabcdef").to_csv(root / "report" / "S1.T3.csv")
    with pytest.raises(ValueError, match=r"names run abcdefabcdef, which is not there: run 20_ablation again"):
        papers.gathered("quick")
    with pytest.raises(FileNotFoundError, match="run the notebooks 20 to 34"):
        papers.gathered("cpu")


def test_chance_is_that_of_a_random_order(done):
    run = done["Baseline"][0]
    found = runs.chance(run, papers.MAIN_PROTOCOL, draws=20)
    people = len(np.unique(run.features["pid"]))
    assert found.rank1 == pytest.approx(1 / people, rel=0.5) and found.rank20 == 1


def test_every_claim_is_of_printed_rows_or_of_measured_ones():
    for item, pairs in papers.CLAIMS.items():
        rows = {row for claim in pairs for row in claim[:2]}
        known = set(papers.ITEMS[item].printed.row) | set(papers.ITEMS[item].experiments("quick"))
        assert rows <= known, item
        assert set(papers.LADDER[item].items()) <= {(a, b) for a in known for b in known}, item
        assert all(claim.better in papers.ITEMS[item].experiments("quick") for claim in pairs), item
    # S2: +16.67 over the printed baseline, +3.14 over HC-TRI; every claim of Tables 3, 5 and 6 is as printed positive
    value_of = {key: lambda row, key=key: value(key, row, "all", "rank1") for key in papers.CLAIMS}
    assert value_of["S2.T3"]("+MC (w/ Part)") - value_of["S2.T3"]("HC-TRI") == pytest.approx(3.14)
    assert value("S2.T3", "HC-TRI", "all", "rank1") == value("S2.T1", "HC-TRI", "single", "rank1")
    assert all(value_of[k](c[0]) > value_of[k](c[1]) for k in ("S2.T3", "S2.T5", "S2.T6") for c in papers.CLAIMS[k])


def test_printed_numbers_of_the_second_paper():
    # abstract and section 4.2 of S2; rows shared by several of its tables agree
    assert value("S2.T1", "Ours", "single", "rank1") == 64.82 and value("S2.T1", "Ours", "single", "mAP") == 60.81
    assert value("S2.T2", "Ours", "v2t", "rank1") == 93.83 and value("S2.T2", "Ours", "v2t", "mAP") == 87.55
    assert value("S2.T3", "+MC (w/ Part)", "t2v", "rank1") == value("S2.T2", "Ours", "t2v", "rank1") == 91.55
    assert len(papers.ITEMS["S2.T1"].printed) == 14 * 4 and len(papers.ITEMS["S2.T2"].printed) == 13 * 4
    for setting in ("t2v", "all"):
        for metric in ("rank1", "mAP"):
            base = {value(f"S2.T{n}", papers.PLAIN, setting, metric) for n in (3, 4, 5, 6)}
            full = [("S2.T3", "+MC (w/o Part)"), ("S2.T4", "+I2I+C2I+C2C"), ("S2.T6", "+Our Loss")]
            assert len(base) == 1 and len({value(key, row, setting, metric) for key, row in full}) == 1
            assert value("S2.T4", "+I2I", setting, metric) == value("S2.T5", "+AWL", setting, metric)
    assert value("S2.T4", "+I2I+C2I", "all", "mAP") > value("S2.T4", "+I2I+C2I+C2C", "all", "mAP")  # against the text


def test_tables_of_the_second_paper_share_their_runs():
    def ids(key, row, profile="cpu"):
        return [e.run_id for e in papers.ITEMS[key].experiments(profile)[row]]

    assert ids("S2.T4", "+I2I") == ids("S2.T5", "+AWL") and ids("S2.T4", "+I2I+C2I+C2C") == ids("S2.T6", "+Our Loss")
    assert ids("S2.T5", "+MS (MS mining)") == ids("S2.T6", "+MS Loss(cm-Mining)")
    assert ids("S2.T6", "+Triplet Loss(Hard)")[0] in ids("S1.T3", "Baseline")
    # on the papers' own recipes they differ: S1's baseline has another rate, P and K than S2's triplet row
    assert not set(ids("S2.T6", "+Triplet Loss(Hard)", "paper")) & set(ids("S1.T3", "Baseline", "paper"))
    rows = papers.ITEMS["S2.T3"].experiments("paper")
    assert rows["+MC (w/ Part), schedule as printed"][0].run_id == rows["+MC (w/ Part)"][0].run_id
    assert rows["+MC (w/ Part), schedule of HC-Tri"][0].lr == 0.1
