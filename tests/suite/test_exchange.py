"""Results as one file: numbers alone go out, and a file that comes in is believed in nothing that was not checked."""

import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from vtlib import config, launch, runs
from vtlib.config import experiment
from vtlib.suite import exchange, items
from vtlib.suite import items as papers


@pytest.fixture(scope="module")
def made(home):
    """The runs of S1 Table 3 and one of RegDB on the quick profile, one of them on data given by its path."""
    wanted = [experiment("quick", m) for m in ("baseline", "dpan", "dpan_cmdc")]
    wanted += [experiment("quick", "baseline", dataset="regdb")]
    wanted += [experiment("quick", "cmdc", data=str(home / "data" / "synvt_sysu_quick"))]
    return [runs.run(e) for e in wanted]


@pytest.fixture
def results(home, made, tmp_path, monkeypatch):
    """A results folder with copies of these runs and a report."""
    for run in made:
        shutil.copytree(run.folder, tmp_path / "results" / "quick" / "runs" / run.experiment.run_id)
    aside = f"{made[0].experiment.run_id}-before-20260101T000000000000"
    shutil.copytree(made[0].folder, tmp_path / "results" / "quick" / "runs" / aside)
    (tmp_path / "results" / "quick" / "report").mkdir()
    (tmp_path / "results" / "quick" / "report" / "S1.T3.csv").write_text("row,measured\nBaseline,1.0\n")
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path / "results"))
    return tmp_path


def content(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_a_file_holds_numbers_alone(results, made, home):
    said = exchange.export("quick", results / "ours.zip")
    assert "5 runs on synvt_regdb_quick, synvt_sysu_quick" in said
    files = content(results / "ours.zip")
    ids = {r.experiment.run_id for r in made}
    names = {f"runs/{i}/{n}" for i in ids for n in ("experiment.json", "metrics.json", "history.jsonl")}
    assert set(files) == names | {"manifest.json", "report/S1.T3.csv"}  # a run set aside stays at home
    whole = "".join(files.values())
    assert not any(str(place) in whole for place in (home, results, Path.home()))
    assert not re.search(r'[":=, ]/\w', whole)  # nor any other path from the root
    by_path = files[f"runs/{made[-1].experiment.run_id}/experiment.json"]
    assert json.loads(by_path)["data"] == "synvt_sysu_quick"
    manifest = json.loads(files["manifest.json"])
    assert manifest["schema"] == exchange.SCHEMA and manifest["profile"] == "quick" and manifest["runs"] == 5
    assert manifest["data"]["synvt_sysu_quick"] == {"digests": [made[0].metrics["data_digest"]], "drawn_by_synvt": True}


def test_a_file_of_a_machine_with_another_precision_is_written_and_compared(results, made, monkeypatch):
    there = made[0].experiment.precision
    other = "float32" if there == "bf16" else "bf16"
    monkeypatch.setenv("VTLIB_PRECISION", there)
    one = exchange.export("quick", results / "ours.zip") and exchange.compare([results / "ours.zip"])
    monkeypatch.setenv("VTLIB_PRECISION", other)
    assert "5 runs" in exchange.export("quick", results / "ours.zip")
    assert exchange.compare([results / "ours.zip"]) == one


def test_only_known_facts_of_a_run_go_along(results, made):
    path = results / "results" / "quick" / "runs" / made[0].experiment.run_id / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "mymachine", "user": "me"}))
    exchange.export("quick", results / "ours.zip")
    assert "mymachine" not in "".join(content(results / "ours.zip").values())


def test_the_same_results_give_the_same_bytes(results):
    first, again = (exchange.export("quick", results / n) and (results / n).read_bytes() for n in ("a.zip", "b.zip"))
    assert first == again
    assert (
        exchange.export("quick", results / "a.zip") and (results / "a.zip").read_bytes() == first
    )  # over an older one


@pytest.mark.parametrize("there", ["folder", "text", "other.zip"])
def test_an_export_overwrites_nothing_else(results, there):
    path = results / there
    if there == "folder":
        path.mkdir()
    elif there == "text":
        path.write_text("mine")
    else:
        zipfile.ZipFile(path, "w").writestr("mine.txt", "mine")
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(ValueError, match=f"{there} is there and no file of `results export`"):
        exchange.export("quick", path)
    assert path.is_dir() or path.read_bytes() == before


def test_runs_of_no_table_stay_here(results, made, monkeypatch):
    monkeypatch.setattr(papers, "ITEMS", {"S1.T2": items.ITEMS["S1.T2"]})  # the baseline on RegDB's layout
    said = exchange.export("quick", results / "ours.zip")
    assert "1 runs on synvt_regdb_quick" in said and f"{len(made) - 1} runs of no table are left out" in said
    fields = made[0].experiment.model_dump(mode="json")
    assert exchange.run_id_of(fields) == made[0].experiment.run_id
    assert exchange.run_id_of(fields | {"losses": {"my_own": {"weight": 1.0}}}) == ""


def test_an_export_of_nothing_or_of_a_broken_run_or_of_a_path_is_refused(results, made, home):
    with pytest.raises(ValueError, match="no run of a table is finished under"):
        exchange.export("cpu", results / "ours.zip")
    report = results / "results" / "quick" / "report" / "S1.T3.csv"
    report.write_text(f"row,file\nBaseline,{home}/x.png\n".replace(str(home), str(results / "results")))
    with pytest.raises(ValueError, match=r"report/S1\.T3\.csv holds the path"):
        exchange.export("quick", results / "ours.zip")
    (results / "results" / "quick" / "runs" / made[0].experiment.run_id / "history.jsonl").unlink()
    with pytest.raises(ValueError, match="is not whole"):
        exchange.export("quick", results / "ours.zip")
    assert not (results / "ours.zip").exists()


def test_a_file_comes_back_as_it_was(results, made):
    exchange.export("quick", results / "ours.zip")
    received = exchange.read(results / "ours.zip")
    assert received.name == "ours.zip" and set(received.runs) == {r.experiment.run_id for r in made}
    for run in made[:-1]:
        back = received.runs[run.experiment.run_id]
        assert back.experiment == run.experiment and back.metrics["protocols"] == run.metrics["protocols"]
        pd.testing.assert_frame_equal(back.history, run.history, check_dtype=False)


def test_compare_shows_each_file_in_columns_of_its_own(results, made, capsys):
    assert launch.main(["results", "export", str(results / "one.zip"), "--profile", "quick"]) == 0
    shutil.rmtree(results / "results" / "quick" / "runs" / made[1].experiment.run_id)  # the other has no DPAN
    exchange.export("quick", results / "two.zip")
    out = results / "table.csv"
    assert (
        launch.main(["results", "compare", *(str(results / f"{n}.zip") for n in ("one", "two")), "--out", str(out)])
        == 0
    )
    said = capsys.readouterr().out
    assert "S1 Table 3" in said and "of the print: The last row" in said
    assert (
        "one.zip: synvt_sysu_quick is NOT the real set" in said and "two.zip: profile quick is not the papers'" in said
    )
    table = pd.read_csv(out)
    rows = table[(table["item"] == "S1.T3") & (table.metric == "rank1")].set_index("row")
    assert rows.printed.to_dict() == {
        "Baseline": 51.35,
        "Baseline+DPAN": 55.1,
        "Baseline+CMDC": 54.69,
        "DPAN+CMDC": 57.74,
    }
    mean = 100 * made[1].trials(items.MAIN_PROTOCOL).rank1.mean()
    assert rows["one.zip"]["Baseline+DPAN"] == pytest.approx(mean, abs=1e-3) and pd.isna(
        rows["two.zip"]["Baseline+DPAN"]
    )
    assert list(rows.index) == list(items.ITEMS["S1.T3"].printed.row.unique())  # in the order of the paper
    assert rows["one.zip"]["Baseline"] == rows["two.zip"]["Baseline"]
    assert rows["one.zip"].isna()["Baseline+CMDC"]  # its run is of data named by a path: of no table
    regdb = table[(table["item"] == "S1.T2") & (table["row"] == "Baseline") & (table.metric == "mAP")]
    regdb = regdb[regdb.setting == "v2t"]
    assert regdb["one.zip"].item() == pytest.approx(100 * made[3].trials("regdb v2t").mAP.item(), abs=1e-3)


def rewritten(source, target, change):
    """A file whose manifest agrees with what `change` made of its contents, as a careful hand would write it."""
    files = content(source)
    manifest = json.loads(files.pop("manifest.json"))
    change(files, manifest)
    manifest["files"] = {name: exchange.digest(text) for name, text in files.items()}
    exchange.write(target, {"manifest.json": json.dumps(manifest)} | files)


def edited(name, edit):
    """A change of the JSON file that ends in `name` of every run."""

    def change(files, manifest):
        for key in [k for k in files if k.endswith(name)]:
            value = json.loads(files[key])
            edit(value)
            files[key] = json.dumps(value)

    return change


def first_trial(values):
    return lambda m: next(iter(m["protocols"].values()))[0].update(values)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (edited("metrics.json", first_trial({"rank1": 1.5})), "a metric that is not a number from 0 to 1"),
        (edited("metrics.json", first_trial({"mAP": float("nan")})), "a metric that is not a number from 0 to 1"),
        (edited("metrics.json", first_trial({"mAP": 10**400})), "a metric that is not a number from 0 to 1"),
        (edited("metrics.json", first_trial({"mAP": "0.3"})), "a metric that is not a number from 0 to 1"),
        (edited("metrics.json", first_trial({"rank1": 1.0, "rank5": 0.5})), "finds fewer people at a higher rank"),
        (edited("metrics.json", lambda m: m.update(protocols={})), "it has no protocol"),
        (edited("metrics.json", lambda m: m.update(protocols={"x": []})), "x has no trial"),
        (edited("metrics.json", lambda m: m.update(data_digest="../..")), "data_digest is no digest"),
        (edited("metrics.json", lambda m: m.update(device="\x1b[2J")), "must be plain text"),
        (edited("metrics.json", lambda m: m.update(run_id="0" * 12)), "metrics of another run"),
        (edited("experiment.json", lambda e: e.update(shoe=1)), "unknown field|Extra inputs|shoe"),
        (edited("experiment.json", lambda e: e.update(lr="fast")), "lr: Input should be a valid number"),
        (edited("experiment.json", lambda e: e.update(profile="cpu")), "not of the one profile"),
        (lambda files, m: m.update(schema=99), "has schema 99, this version reads 1: export it again"),
        (lambda files, m: m.update(data=[]), "it has no manifest of one"),
        (lambda files, m: files.update({"../../evil.py": "x"}), "no export writes '../../evil.py'"),
        (lambda files, m: files.update({"report/x.csv": "y" * (exchange.LARGEST + 1)}), "larger than results can be"),
        (lambda files, m: files.pop(next(k for k in files if "history" in k)), "is no whole run"),
        (lambda files, m: [files.pop(k) for k in list(files) if "runs/" in k], "not of the one profile"),
        (
            lambda files, m: files.update({k: "[" * 100_000 for k in files if k.endswith("metrics.json")}),
            "is not JSON",
        ),
    ],
)
def test_what_cannot_be_a_result_is_refused_in_one_sentence(results, capsys, change, sentence):
    exchange.export("quick", results / "ours.zip")
    rewritten(results / "ours.zip", results / "theirs.zip", change)
    before = sorted(results.rglob("*"))
    assert launch.main(["results", "compare", str(results / "theirs.zip")]) == 1
    error = capsys.readouterr().err
    assert "theirs.zip" in error and re.search(sentence, error) and len(error.strip().splitlines()) == 1
    assert sorted(results.rglob("*")) == before  # nothing is unpacked


def test_a_file_that_came_broken_is_refused(results, capsys):
    exchange.export("quick", results / "ours.zip")
    whole = (results / "ours.zip").read_bytes()
    middle = len(whole) // 2
    broken = {
        "cut": whole[:middle],
        "bits": whole[:middle] + bytes(b ^ 255 for b in whole[middle : middle + 64]) + whole[middle + 64 :],
        "text": b"not a zip",
        "empty": b"",
    }
    for name, data in broken.items():
        (results / f"{name}.zip").write_bytes(data)
        assert launch.main(["results", "compare", str(results / f"{name}.zip")]) == 1
        error = capsys.readouterr().err
        assert f"{name}.zip" in error and len(error.strip().splitlines()) == 1, name
    assert launch.main(["results", "compare", str(results / "nowhere.zip")]) == 1
    assert "nowhere.zip does not exist" in capsys.readouterr().err
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("manifest.json", json.dumps(json.loads(content(results / "ours.zip")["manifest.json"])))
    (results / "bare.zip").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match="is missing, or not the one that was exported"):
        exchange.read(results / "bare.zip")


def test_other_bytes_of_a_set_never_share_a_column(results, made, capsys):
    exchange.export("quick", results / "ours.zip")

    def other_data(files, manifest):
        for run in made[:2]:
            key = f"runs/{run.experiment.run_id}/metrics.json"
            files[key] = json.dumps(json.loads(files[key]) | {"data_digest": "f" * 64})

    rewritten(results / "ours.zip", results / "mixed.zip", other_data)
    parts = exchange.versions(exchange.read(results / "mixed.zip"))
    kinds = [
        {r.metrics["data_digest"] for r in p.runs.values() if r.experiment.data.endswith("sysu_quick")} for p in parts
    ]
    assert len(parts) == 2 and all(len(kind) == 1 for kind in kinds)
    assert sum(len(p.runs) for p in parts) == 5
    said = exchange.compare([results / "ours.zip", results / "mixed.zip"])
    assert "mixed.zip, data version 2" in said
    assert "were measured on different versions of synvt_sysu_quick" in said


def test_differing_profiles_and_protocols_and_missing_runs_are_said(results, monkeypatch):
    exchange.export("quick", results / "ours.zip")
    rewritten(
        results / "ours.zip",
        results / "fewer.zip",
        edited("metrics.json", lambda m: m["protocols"].pop("sysu all 10-shot official", None)),
    )
    received = {n: exchange.read(results / f"{n}.zip") for n in ("ours", "fewer")}
    received["paper"] = received["ours"]._replace(manifest=received["ours"].manifest | {"profile": "paper"})
    notes = exchange.warnings(received)
    assert "ours and fewer differ in protocols: only one has sysu all 10-shot official" in notes
    assert "ours and paper are of different profiles" in notes
    assert not any("paper: profile" in n for n in notes) and any("ours: profile quick" in n for n in notes)
    twice = items.ITEMS["S1.T3"]._replace(
        rows=lambda p: {"Baseline": [experiment(p, "baseline", seed=s) for s in (0, 9)]}
    )
    monkeypatch.setattr(papers, "ITEMS", {"S1.T3": twice})
    assert "note: ours.zip: S1.T3, Baseline: 1 of 2 runs, the mean is of those" in exchange.compare(
        [results / "ours.zip"]
    )


def test_whether_a_set_is_the_real_one_is_said(results, made, monkeypatch):
    exchange.export("quick", results / "ours.zip")
    one = exchange.read(results / "ours.zip")
    monkeypatch.setitem(config.DATA, "paper", {"sysu": "synvt_sysu_quick", "regdb": "synvt_regdb_quick"})  # so named
    for known, note in ((True, "is NOT the real set"), (None, "whether it is the real set is unknown"), (False, None)):
        facts = {name: {"drawn_by_synvt": known} for name in one.manifest["data"]}
        notes = exchange.warnings({"x": one._replace(manifest=one.manifest | {"data": facts, "profile": "paper"})})
        assert notes == [] if note is None else all(note in n for n in notes) and len(notes) == 2


def test_a_run_of_other_defaults_is_of_no_table(results, made):
    exchange.export("quick", results / "ours.zip")
    run = exchange.read(results / "ours.zip").runs[made[0].experiment.run_id]
    assert exchange.is_of(run, made[0].experiment) and not exchange.is_of(run, made[0].experiment.but(momentum=0.8))


def test_the_table_of_a_changed_set_goes_both_ways():
    named = "report/transfer_synvt_sysu,realism=1.0.csv"
    assert exchange.ENTRY.fullmatch(named) and not exchange.ENTRY.fullmatch("report/a/b.csv")
