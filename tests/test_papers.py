"""The printed tables: spot checks against the paper's text, and what each item needs."""

import pandas as pd
import pytest

from vtlib import papers


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


def test_the_paper_profile_is_ten_splits_on_regdb():
    rows = papers.ITEMS["S1.T2"].experiments("paper")
    assert sorted(e.split for e in rows["DPAN+CMDC"]) == list(range(1, 11))


def test_lambda_sentence_claims_nothing_from_one_seed():
    one = pd.DataFrame({"lambda": [0.0, 3.0, 5.0], "value": [10.0, 20.0, 15.0]})
    assert papers.lambda_sentence(one).endswith("One seed: no claim.")
    three = pd.concat([one, pd.DataFrame({"lambda": [3.0, 3.0], "value": [21.0, 19.0]})])
    assert "best at lambda 3" in papers.lambda_sentence(three) and "lambda 3." in papers.lambda_sentence(three)


def test_convergence_sentence_reads_the_curve():
    falling = [10.0, 4.0, 2.0, 1.5, 1.2, 1.1, 1.05, 1.02, 1.01]
    rising = [1.0, 1.1, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 9.0]
    curves = pd.concat(
        pd.DataFrame({"layout": "sysu", "part": part, "epoch": range(1, 10), "cmdc": values})
        for part, values in (("training", falling), ("validation", rising))
    )
    sentence = papers.convergence_sentence(curves)
    assert "sysu training 10.00 to 1.01, quick, stable" in sentence
    assert "sysu validation 1.00 to 9.00, not quick, not stable" in sentence


def frame(rank1, m_ap):
    return pd.DataFrame({"seed": range(len(rank1)), "split": 1, "rank1": rank1, "mAP": m_ap})


def test_differences_are_paired_by_seed(monkeypatch):
    runs = {  # seed moves both rows alike: the gain is 2, 2, 2.3 though the rows overlap
        "Baseline": frame([0.10, 0.14, 0.20], [0.2, 0.2, 0.2]),
        "Baseline+DPAN": frame([0.12, 0.16, 0.223], [0.2, 0.3, 0.1]),
        "one seed": frame([0.5], [0.5]),
    }
    monkeypatch.setattr(papers, "collect", lambda group, protocol: group)
    table = papers.differences(runs, "Baseline", "any").set_index(["row", "metric"])
    gain = table.loc[("Baseline+DPAN", "rank1")]
    assert gain.gain == pytest.approx(2.1) and gain.standard_error == pytest.approx(0.1) and gain.pairs == 3
    assert gain.counts and not table.loc[("Baseline+DPAN", "mAP")].counts
    one = table.loc[("one seed", "rank1")]
    assert one.pairs == 1 and not one.counts and pd.isna(one.standard_error)
    sentence = papers.ablation_sentence(table.reset_index(), "Baseline")
    assert "Baseline+DPAN +2.1 +- 0.1," in sentence and sentence.endswith("One seed: no claim.")


def test_wide_keeps_printed_and_measured_apart_and_in_the_papers_order():
    measured = pd.DataFrame(
        [["Baseline", "all", "rank1", 10.0, 1.0, 3, "a b c"], ["DPAN+CMDC", "all", "rank1", 12.0, 2.0, 3, "d e f"]],
        columns=["row", "setting", "metric", "measured", "sd", "runs", "run_ids"],
    )
    table = papers.beside("S1.T3", measured)
    shown = papers.wide(table, "measured on X", ["rank1", "mAP"]).data
    assert list(shown.index) == ["Baseline", "Baseline+DPAN", "Baseline+CMDC", "DPAN+CMDC"]
    assert shown.loc["DPAN+CMDC", ("printed", "all", "rank1")] == 57.74
    assert shown.loc["DPAN+CMDC", ("measured on X", "all", "rank1")] == 12.0
    assert pd.isna(shown.loc["Baseline+DPAN", ("measured on X", "all", "rank1")])
