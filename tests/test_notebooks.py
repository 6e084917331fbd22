"""Every notebook: anatomy read from its source, and executed by papermill on the quick profile."""

import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from vtlib import launch, runs
from vtlib.suite import items, report

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
QUICK = {  # fewer rows than by default, where the rest would only repeat itself
    "20_ablation": {"methods": ["Baseline", "DPAN+CMDC", "mc"]},  # and one that is no row of the paper
    "21_lambda_sweep": {"lambdas": [0.0, 3.0]},
    "40_tsne": {"people": 4},
    "42_transfer": {"methods": ["baseline", "mc"]},
}
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def quick(path, home):
    """What a notebook is given here; the set in RegDB's layout stands for real images."""
    given = {"profile": "quick", **QUICK.get(path.stem, {})}
    if path.stem == "42_transfer":
        given["root"] = str(home / "real")
        for modality in ("Visible", "Thermal"):
            (link := home / "real" / modality).parent.mkdir(exist_ok=True)
            link.is_symlink() or link.symlink_to(home / "data" / "synvt_regdb_quick" / modality)
    return given


def source(cell):
    return "".join(cell.source)


@named
def test_source_is_clean(path):
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code)
    assert set(nb.metadata) <= {"kernelspec", "language_info", "vtlib"}  # vtlib: what it needs
    assert len({c.id for c in nb.cells}) == len(nb.cells)
    text = "\n".join(map(source, code))
    assert not any(word in text for word in ("sys.path", "%%bash", "!pip", "warnings.", "class "))
    assert max(len(source(c).splitlines()) for c in code) <= 25


ANATOMY = ["## The idea", "## The runs", "## Verdict", "## Quick questions"]
OTHERWISE = {"10_train": {"## The runs"}, "42_transfer": {"## The runs"}, "41_synvt": {"## The runs"}}
OTHERWISE["90_report"] = {"## The runs"}  # it reads tables, and begins with its verdict


@named
def test_anatomy(path):
    nb = nbformat.read(path, 4)
    first, prose = source(nb.cells[0]), "\n".join(source(c) for c in nb.cells if c.cell_type == "markdown")
    assert first.startswith("# ") and first.splitlines()[0].endswith("?")
    assert all(word in first for word in ("**You will see**", "**Reads", "**Takes**"))
    code = [c for c in nb.cells if c.cell_type == "code"]
    headings = [line for line in prose.splitlines() if re.match("#+ ", line)]
    assert len(set(headings)) == len(headings), "a heading stands twice"
    kinds = [h for line in headings for h in ANATOMY if line.startswith(h)]  # "Verdict: did it hold?" is a verdict
    wanted = [h for h in ANATOMY if h not in OTHERWISE.get(path.stem, ())]
    assert sorted(kinds) == sorted(wanted) and headings[-1] == ANATOMY[-1]
    if path.stem != "90_report":
        assert kinds == wanted
        if "## Verdict" in kinds:  # what is judged stands above it
            above = headings[: headings.index("## Verdict")]
            assert any(re.search("table|figure|search", line, re.IGNORECASE) for line in above)
    assert "<details>" in prose or "report.answers(" in "\n".join(map(source, code))
    tags = [c.metadata.get("tags", []) for c in code]
    assert tags[0] == ["parameters"] and sum("parameters" in t for t in tags) == 1
    assert sum(t == ["record"] for t in tags) == 1
    assert "launch.strict(globals())" in source(code[1])


@named
def test_one_rule_one_name_and_one_line_of_facts(path):
    """The rule of verdicts is printed from compare, never written by hand; the start of a network has one name."""
    text = "\n".join(source(c) for c in nbformat.read(path, 4).cells)
    if path.stem in ("10_train", "42_transfer"):
        return
    assert not re.search(r"leaves 0 out and|standard error over runs|untrained|random network", text)
    assert "print(runs.environment(" not in text
    assert text.count("Markdown(compare.WHAT_IT_TAKES)") == (
        path.stem == "90_report" or "verdicts.verdict_text(" in text
    )


@named
def test_a_stranger_finds_both_papers_and_what_words_and_symbols_mean(path):
    cells = nbformat.read(path, 4).cells
    first, prose = source(cells[0]), [source(c) for c in cells if c.cell_type == "markdown"]
    for words in (
        "Wang, Zhang, Feng, Ji and Ding",
        "Learning Visible Thermal Person Re-Identification via Spatial Dependence and Dual-Constraint Loss",
        "https://doi.org/10.3390/e24040443",
        "Ling, Luo, Lin and Li",
        "A Multi-Constraint Similarity Learning with Adaptive Weighting for Visible-Thermal Person Re-Identification",
    ):
        assert words in first
    if path.stem == "10_train":
        (terms,) = (text for text in prose if "## What is measured" in text)
        assert all(f"**{term}**" in terms for term in ("query", "gallery", "rank-k", "mAP", "mINP", "shot", "trial"))
    else:
        assert "[10_train](10_train.ipynb#What-is-measured)" in first
    for below in (part for text in prose for part in text.split("$$")[2::2]):  # the text that follows an equation
        assert re.match(r"\n\S", below), "no words directly below an equation"


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("20_ablation", {"methods": ["Baseline", "mine"]}, "methods has 'mine', which is unknown: name some of"),
        ("20_ablation", {"methods": []}, "methods is empty: name at least one of untouched start"),
        ("21_lambda_sweep", {"lambdas": []}, "lambdas is empty"),
        ("22_convergence", {"layouts": ["sysu", "sysu"]}, "layouts has 'sysu' twice"),
        ("31_parts", {"rows": ["nonsense"]}, "rows has 'nonsense', which is unknown: name some of Baseline"),
        ("33_mining_and_weighting", {"batches": 0}, "batches=0 is too few: give 2 or more"),
        ("40_tsne", {"dataset": "folder"}, "dataset is 'folder' and data is empty: name the folder"),
        ("40_tsne", {"people": -1}, "people=-1 is too few"),
        ("41_synvt", {"levers": ["yaww=0.0"]}, "yaww"),
    ],
)
def test_what_a_parameter_cannot_be_is_said_before_any_run(home, monkeypatch, name, given, sentence):
    """The cells up to the first heading after the parameters, as a kernel would run them."""

    monkeypatch.setattr(runs, "run", lambda e: pytest.fail("a run was started"))
    cells = [c for c in nbformat.read(next(p for p in NOTEBOOKS if p.stem == name), 4).cells if c.cell_type == "code"]
    injected = "# Parameters\n" + "\n".join(f"{k} = {v!r}" for k, v in (given | {"profile": "quick"}).items())
    namespace = {"In": [source(cells[0]), injected, source(cells[1])]}
    for text in namespace["In"][:2]:
        exec(text, namespace)
    with pytest.raises(ValueError) as error:
        exec(namespace["In"][2], namespace)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@named
def test_every_parameter_is_documented_to_papermill(path):
    declared = papermill.inspect_notebook(str(path))
    nb = nbformat.read(path, 4)
    lines = next(source(c) for c in nb.cells if c.metadata.get("tags") == ["parameters"]).splitlines()
    assert len(declared) == len(lines) and all(
        p["inferred_type_name"] in launch.PYTHON_TYPES for p in declared.values()
    )


@named
def test_runs_on_the_quick_profile(path, home):
    if path.stem.startswith("9"):  # it reads what the others wrote
        for other in NOTEBOOKS[: NOTEBOOKS.index(path)]:
            launch.run_notebook(other, quick(other, home))
    launch.run_notebook(path, quick(path, home))
    (out,) = (home / "results" / "quick" / "notebooks").glob(f"{path.stem}*.ipynb")
    nb = nbformat.read(out, 4)
    outputs = [o for c in nb.cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    stderr = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stderr")
    assert "Warning" not in stderr and "Traceback" not in stderr
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert pictures or path.stem == "23_comparison"
    if path.stem == "42_transfer":
        assert (home / "results" / "quick" / "report" / "transfer.csv").is_file()


def test_every_item_of_the_paper_has_its_report(home):
    """Runs after the notebooks above; a report has printed and measured in columns of their own."""
    import pandas as pd

    for path in NOTEBOOKS:
        launch.run_notebook(path, quick(path, home))  # up to date: seconds
    folder = home / "results" / "quick" / "report"
    where, named = pd.read_csv(folder / "provenance.csv").set_index("run_id"), set()
    for key in items.ITEMS:
        table = pd.read_csv(folder / f"{key}.csv")
        assert {"row", "metric", "printed", "measured", "sd", "run_ids"} <= set(table), key
        assert table.measured.notna().any() and table[table.measured.notna()].run_ids.notna().all(), key
        assert (folder / f"{key}.txt").read_text().strip() and "\\toprule" in (folder / f"{key}.tex").read_text()
        claimed = pd.read_csv(folder / f"{key}.claims.csv")
        assert len(claimed) or key == "S2.F3" or not items.ITEMS[key].claims, key
        named |= {i for ids in pd.concat([table.run_ids, claimed.run_ids]).dropna() for i in ids.split()}
    named |= set(pd.read_csv(folder / "cues.csv").run_ids.dropna())  # a table of no paper
    assert named == set(where.index) and all((folder.parent / path).is_file() for path in where.config)
    table = pd.read_csv(folder / "S1.T3.csv")
    row = table[(table.row == "DPAN+CMDC") & (table.metric == "rank1")].iloc[0]
    assert row.printed == 57.74 and row.measured != row.printed and len(row.run_ids.split()) == row.runs


def test_the_report_is_one_page_without_a_network(home):
    """Runs after the notebooks above."""
    out = report.page(home / "results" / "quick" / "notebooks" / "90_report.ipynb")
    text = out.read_text()
    assert out.name == "90_report.html" and "DPAN+CMDC over Baseline" in text and "data:image/png;base64" in text
    assert "<script" not in text and "@import" not in text
    assert not re.search(r"<(link|img|iframe|source)[^>]*(src|href)=.?(https?:)?//", text)
    assert 'href="20_ablation.ipynb"' in text and 'href="../report/S1.T3.tex"' in text
    files = set(re.findall(r'href="(\.\./report/[^"]+)"', text))
    assert len(files) > 60 and all((out.parent / link).is_file() for link in files)
    assert set(re.findall(r'href="(\w+)\.ipynb"', text)) == {item.notebook for item in items.ITEMS.values()}
    assert {item.notebook for item in items.ITEMS.values()} < {path.stem for path in NOTEBOOKS}
    assert "report.overview(" not in text  # results, not code


def test_train_notebook_searches_real_images(home, shared):
    path = next(p for p in NOTEBOOKS if p.stem == "10_train")
    root = str(shared / "realdata" / "kaist_ped")
    launch.run_notebook(path, {"profile": "quick", "dataset": "folder", "data": root})
    (out,) = (home / "results" / "quick" / "notebooks").glob("10_train-*folder*.ipynb")
    text = json.dumps(nbformat.read(out, 4))
    assert "histograms of gradients" in text and "folder v2t" in text and "kaist_ped" in text


def test_a_misspelled_parameter_stops_papermill_itself(home, tmp_path):
    path = next(p for p in NOTEBOOKS if p.stem == "21_lambda_sweep")
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'lamdas': did you mean 'lambdas'"):
        papermill.execute_notebook(
            str(path), str(tmp_path / "out.ipynb"), {"profile": "quick", "lamdas": [1.0]}, progress_bar=False,
            kernel_name="python3",
        )  # fmt: skip
