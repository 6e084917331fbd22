"""The page of all tables and figures: it fills up, names what is missing, and shows text of files as text."""

import json
import subprocess
import sys

import pytest

from vtlib.suite import index

CSV = "row,setting,metric,printed,measured,sd,over,difference,difference_low,difference_high\n"
CSV += "Baseline,all,mAP,49.48,25.0,0.8,,,,\nDPAN,all,mAP,51.73,25.24,,Baseline,0.24,-0.04,0.5\n"
CSV += "DPAN,all,rank1,,22.2,,Baseline,,,\nDPAN,all,rank5,,99.9,,Baseline,,,\n"


@pytest.fixture
def plan(tmp_path):
    """A plan of three items and two notebooks; S1.T3 is finished, S2.T1 has one of two runs, X.T1 none."""
    runs = {name: f"runs/{name}/metrics.json" for name in "abc"}
    for folder in ("report", "notebooks", "jobs", "runs/a", "runs/b", "runs/c"):
        (tmp_path / folder).mkdir(parents=True)
    jobs = {name: {"rule": "train", "what": f"run {name}", "output": output} for name, output in runs.items()}
    jobs |= {name: {"rule": "notebook", "what": name, "output": f"notebooks/{name}.json"} for name in ("20_a", "30_b")}
    items = {
        "S1.T3": {"title": "S1 Table 3: parts", "notebook": "20_a", "runs": [runs["a"]]},
        "S2.T1": {"title": "S2 Table 1: others", "notebook": "30_b", "runs": [runs["a"], runs["b"]]},
        "X.T1": {"title": "Crossed: both", "notebook": "31_c", "runs": [runs["c"]]},
    }
    finish(tmp_path, "S1.T3", "20_a", "a")
    return {"results": str(tmp_path), "profile": "cpu", "jobs": jobs, "items": items}


def finish(folder, item, notebook, *runs):
    for run in runs:
        (folder / "runs" / run / "metrics.json").write_text("{}")
    for suffix in ("ipynb", "json"):
        (folder / "notebooks" / f"{notebook}.{suffix}").write_text("{}")
    (folder / "report" / f"{item}.csv").write_text(CSV)
    (folder / "report" / f"{item}.txt").write_text("Of 2 claims: holds: 1.\n- [holds, larger] DPAN over Baseline.\n")
    (folder / "report" / f"{item}.png").write_bytes(b"a figure")


def test_a_half_finished_tree_has_its_table_and_says_what_the_others_wait_for(plan, tmp_path):
    path = index.write(plan)
    text = path.read_text()
    assert path == tmp_path / "report" / "index.html" and not list(path.parent.glob("*.tmp"))
    assert "1 of 3 tables and figures are there, 1 of 3 runs are done" in text
    for cell in ("49.48", "25.0 ± 0.8", "25.2", "+0.2 [0.0, +0.5]", "22.2"):
        assert f"<td>{cell}</td>" in text
    assert "99.9" not in text and text.index("rank-1 measured") < text.index("mAP printed")
    assert '<b class="holds">holds, larger</b> DPAN over Baseline.' in text
    assert 'href="../notebooks/20_a.ipynb"' in text and 'href="../notebooks/30_b.ipynb"' not in text
    assert "1 of 2 runs done." in text and "0 of 1 runs done; this call was not asked for it." in text
    (tmp_path / "jobs" / "b.json").write_text(json.dumps({"state": "failed", "reason": "no memory"}))
    assert "no memory" not in index.page(plan)  # it runs, and its record is written again at its end
    (tmp_path / "jobs" / "b.json").write_text(json.dumps({"state": "failed", "reason": "no memory", "seconds": 3}))
    assert "1 of 2 runs done; run b failed: no memory." in index.page(plan)
    (tmp_path / "runs" / "b" / "metrics.json").write_text("{}")
    assert "2 of 2 runs done, waits for 30_b." in index.page(plan)


def test_a_finished_tree_misses_nothing_and_an_old_table_is_said_to_be_made_again(plan, tmp_path):
    finish(tmp_path, "S2.T1", "30_b", "b")
    finish(tmp_path, "X.T1", "31_c", "c")
    text = index.page(plan)
    assert "3 of 3 tables and figures are there" in text and 'class="missing"' not in text
    assert text.count('src="data:image/png;base64,') == 3
    (tmp_path / "notebooks" / "20_a.json").unlink()  # as the graph does where the code has changed
    text = index.page(plan)
    assert "2 of 3 tables" in text and "1 of 1 runs done, waits for 20_a." in text and "25.0 ± 0.8" in text


def test_text_of_files_is_text_and_nothing_comes_from_elsewhere(plan, tmp_path):
    evil = '<script src="http://x.org/a.js">alert(1)</script>"\'&'
    plan["items"]["S1.T3"]["title"] = plan["jobs"]["b"]["what"] = plan["profile"] = evil
    report = tmp_path / "report"
    cell = '"' + evil.replace('"', '""') + '"'
    (report / "S1.T3.csv").write_text(CSV + f"{cell},{cell},mAP,{cell},nan,inf,{cell},,,\n", encoding="utf-8")
    (report / "S1.T3.txt").write_text(f"{evil}\n- [{evil}] {evil}\n- {evil}\n")
    (report / "S1.T3-<b>.png").write_bytes(b"")
    (tmp_path / "jobs" / "b.json").write_text(json.dumps({"state": "failed", "reason": evil, "seconds": 1}))
    text = index.page(plan)
    assert "<script" not in text and "<b>.png" not in text and text.count("&lt;script") > 8
    assert "default-src 'none'" in text and "http" not in text.replace("http://x.org", "").replace("http-equiv", "")


def test_the_page_needs_neither_torch_nor_matplotlib(plan, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    call = "import json, sys; from vtlib.suite import index; index.write(json.load(open(sys.argv[1])));"
    call += "print({'torch', 'matplotlib', 'pandas', 'numpy'} & sys.modules.keys())"
    command = [sys.executable, "-c", call, str(tmp_path / "plan.json")]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "set()" and (tmp_path / "report" / "index.html").is_file()
