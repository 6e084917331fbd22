"""Results as an RO-Crate and sets as Croissant: whole, flat, without a path, and read by the official libraries."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from vtlib import launch, synvt
from vtlib.config import experiment
from vtlib.data import croissant as croissant_module
from vtlib.data import datasets
from vtlib.data.croissant import facts_of, write_croissant
from vtlib.suite import crate, exchange
from vtlib.synvt.make import VERSION

DIGEST = "0123456789abcdef" * 4


def finished_run(root, method, seconds, **fields):
    """The three files of a finished run, as runs.make() writes them, of made-up numbers."""
    one = experiment("quick", method, **fields)
    (folder := root / "quick" / "runs" / one.run_id).mkdir(parents=True)
    trial = {"rank1": 0.1, "rank5": 0.2, "rank10": 0.3, "rank20": 0.4, "mAP": 0.2, "mINP": 0.1}
    metrics = {
        "run_id": one.run_id,
        "protocols": {"sysu all 1-shot official": [trial]},
        "data_digest": DIGEST,
        "train_seconds": 60.0,
        "last_call_seconds": seconds,
        "versions": {"vtlib": "0.1.0", "torch": "2.11"},
        "device": "cpu: some processor",
        "precision": one.precision,
        "commit": "abc123+",
        "finished": "2026-11-28T14:00:00+00:00",
        "host": "mymachine",
    }
    (folder / "experiment.json").write_text(json.dumps(one.model_dump(mode="json")))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "history.jsonl").write_text('{"epoch": 0, "loss": 1.0}\n')
    return one.run_id


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Three runs of tables, one of data named by a path, a run of none, and a report with pictures of people."""
    root = tmp_path / "results"
    monkeypatch.setenv("VTLIB_RESULTS", str(root))
    monkeypatch.setenv("VTLIB_DATA", str(tmp_path / "data"))
    ids = [finished_run(root, "baseline", 90.0), finished_run(root, "dpan", 30.0)]
    ids.append(finished_run(root, "cmdc", 90.0, data=str(tmp_path / "data" / "synvt_sysu_quick")))
    finished_run(root, "baseline", 90.0, seed=99)
    (report := root / "quick" / "report").mkdir()
    for name in ("S1.T3.csv", "S1.T3.claims.csv", "S1.T3.txt", "S1.T3.tex", "provenance.csv", "transfer_a,b=1.csv"):
        (report / name).write_text("row,measured\nBaseline,1.0\n")
    for name in ("S1.T3.png", "S2.T6-epochs.pdf", "tsne.png", "people.png", "S1.T3-people.png", ".lock", "mine.csv"):
        (report / name).write_bytes(b"PNG")
    (tmp_path / "ids").write_text(" ".join(ids))
    return tmp_path


def graph_of(path):
    """The entities of a crate by id, and the names of all its files."""
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("ro-crate-metadata.json"))
        assert metadata["@context"] == "https://w3id.org/ro/crate/1.1/context" and set(metadata) == {
            "@context",
            "@graph",
        }
        entities = {entity["@id"]: entity for entity in metadata["@graph"]}
        assert len(entities) == len(metadata["@graph"])
        return entities, archive.namelist()


def references(entity):
    for value in entity.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                assert set(one) == {"@id"}  # flat: an entity stands in no other
                yield one["@id"]


def test_a_crate_lists_every_file_and_holds_every_file_that_it_lists(results, capsys):
    assert launch.main(["results", "crate", str(results / "out" / "crate.zip"), "--profile", "quick"]) == 0
    said = capsys.readouterr().out
    assert "3 runs and 9 files of the report" in said and "1 runs of no table are left out" in said
    entities, names = graph_of(results / "out" / "crate.zip")
    files = {unquote(i): e for i, e in entities.items() if e["@type"] == "File"}
    assert {*files, "ro-crate-metadata.json"} == set(names) and len(names) == len(set(names)) == 9 + 3 * 3 + 1
    assert {unquote(one["@id"]) for one in entities["./"]["hasPart"]} == set(files)
    assert all(e["description"] and e["encodingFormat"] and e["name"] for e in files.values())
    assert "report/transfer_a,b=1.csv" in files and not any("people" in n or "mine" in n or "lock" in n for n in names)
    assert files["report/S1.T3.csv"]["description"].startswith("S1 Table 3: each component")
    known = {*entities, "https://w3id.org/ro/crate/1.1"}
    assert all(i in known for entity in entities.values() for i in references(entity))
    root, descriptor = entities["./"], entities["ro-crate-metadata.json"]
    assert descriptor["about"] == {"@id": "./"} and descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["datePublished"] == "2026-11-28T14:00:00+00:00" and root["license"]["@id"].endswith("MIT")
    assert "synvt_sysu_quick: its folder was not at hand" in root["description"]


def test_each_run_of_a_crate_is_an_action_with_its_software_data_and_files(results):
    crate.crate("quick", results / "crate.zip")
    entities, _ = graph_of(results / "crate.zip")
    ids = (results / "ids").read_text().split()
    made = entities[f"#run-{ids[0]}"]
    assert made["@type"] == "CreateAction" and made["endTime"] == "2026-11-28T14:00:00+00:00"
    assert made["startTime"] == "2026-11-28T13:58:30+00:00" and "startTime" not in entities[f"#run-{ids[1]}"]
    program, data = entities[made["instrument"]["@id"]], entities[made["object"]["@id"]]
    assert program["@type"] == "SoftwareApplication" and program["softwareVersion"] == "0.1.0, commit abc123+"
    assert data["name"] == "synvt_sysu_quick" and data["identifier"] == f"sha256:{DIGEST}"
    assert [one["@id"].rpartition("/")[2] for one in made["result"]] == list(exchange.OF_RUN)
    assert {one["@id"] for one in entities["./"]["mentions"]} == {f"#run-{i}" for i in ids}


def test_a_crate_names_no_place_and_is_the_same_each_time(results):
    first, again = (crate.crate("quick", results / n) and (results / n).read_bytes() for n in ("a.zip", "b.zip"))
    assert first == again and crate.crate("quick", results / "a.zip")  # over an older one
    with zipfile.ZipFile(results / "a.zip") as archive:
        whole = b"".join(archive.read(name) for name in archive.namelist())
    assert not any(str(place).encode() in whole for place in (results, Path.home())) and b"mymachine" not in whole
    (results / "results" / "quick" / "report" / "tsne.png").write_bytes(b"PNG" + str(results / "results").encode())
    with pytest.raises(ValueError, match=r"report/tsne\.png holds the path"):
        crate.crate("quick", results / "c.zip")
    assert not (results / "c.zip").exists()


@pytest.mark.parametrize("there", ["folder", "text", "other.zip", "ours.zip"])
def test_a_crate_overwrites_nothing_else_and_needs_finished_runs(results, capsys, there):
    path = results / there
    if there == "folder":
        path.mkdir()
    elif there == "ours.zip":
        exchange.export("quick", path)
    else:
        path.write_text("mine")
    before = None if path.is_dir() else path.read_bytes()
    for call, sentence in (
        ([str(path), "--profile", "quick"], f"{there} is there and no file of `results crate`"),
        ([str(results / "ids" / "x.zip"), "--profile", "quick"], "ids"),  # no folder can be made in a file
        ([str(results / "x.zip"), "--profile", "cpu"], "no run of a table is finished under"),
    ):
        assert launch.main(["results", "crate", *call]) == 1
        error = capsys.readouterr().err
        assert sentence in error and len(error.strip().splitlines()) == 1
    assert path.is_dir() or path.read_bytes() == before


def test_the_library_of_ro_crate_reads_a_crate(results, tmp_path):
    rocrate = pytest.importorskip("rocrate.rocrate")
    crate.crate("quick", results / "crate.zip")
    with zipfile.ZipFile(results / "crate.zip") as archive:
        archive.extractall(tmp_path / "crate")
    for place in (results / "crate.zip", tmp_path / "crate"):
        read = rocrate.ROCrate(place)
        assert read.name == "Results of vtlib, profile quick" and len(read.get_by_type("File")) == 9 + 3 * 3
        made = read.get_by_type("CreateAction")
        assert len(made) == 3 and {m["instrument"]["name"] for m in made} == {"vtlib"}
    read.write(tmp_path / "again")
    names = {p.relative_to(tmp_path / "crate") for p in (tmp_path / "crate").rglob("*")}
    assert names == {p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small SynVT set in each layout, and a plain folder with two cameras in its manifest."""
    root = tmp_path_factory.mktemp("data")
    for layout, identities in (("sysu", (2, 1, 1)), ("regdb", (2, 0, 2))):
        spec = replace(synvt.PRESETS[f"synvt_{layout}_quick"], identities=identities, images=1, gallery_images=0)
        synvt.make(spec, root / f"tiny_{layout}", workers=1, progress=False)
    lines = ["modality,id,camera,frame,file"]
    for folder in ("Visible", "Thermal"):
        (root / "mine" / folder / "07").mkdir(parents=True)
        for camera, name in ((1, "a.PNG"), (2, "b.jpg")):
            Image.new("RGB", (4, 8)).save(root / "mine" / folder / "07" / name)
            lines.append(f"{folder.lower()},7,{camera},,{folder}/07/{name}")
    (root / "mine" / "manifest.csv").write_text("\n".join(lines))
    return root


def described(data, layout, name):
    return croissant_module.croissant(layout, data / name, datasets.read(layout, data / name))


@pytest.mark.parametrize("layout", ["sysu", "regdb"])
def test_a_croissant_file_describes_a_drawn_set(data, layout, monkeypatch, capsys):
    monkeypatch.setenv("VTLIB_DATA", str(data))
    assert launch.main(["data", "describe", f"tiny_{layout}", "--croissant"]) == 0
    about = json.loads(text := capsys.readouterr().out)
    assert str(data) not in text and about == json.loads(json.dumps(described(data, layout, f"tiny_{layout}")))
    assert about["conformsTo"] == "http://mlcommons.org/croissant/1.0" and about["license"].endswith("MIT")
    assert "SynVT" in about["citeAs"] and about["version"] == f"{VERSION}.0.0" and about["datePublished"]
    images, *files = about["distribution"]
    disk = {p.relative_to(data / f"tiny_{layout}").as_posix() for p in (data / f"tiny_{layout}").rglob("*.*")}
    found = {p for glob in images["includes"] for p in disk if Path(p).match(glob)}
    assert found == set(datasets.read(layout, data / f"tiny_{layout}").path)
    assert {f["contentUrl"] for f in files} == {p for p in disk - found if Path(p).name != "croissant.json"}
    assert all(len(f["sha256"]) == 64 for f in files)
    sets = {one["name"]: one for one in about["recordSet"]}
    assert list(sets) == ["images", "folders", "factors"]
    names = {n: [f["name"] for f in one["field"]] for n, one in sets.items()}
    assert names["images"] == ["image", "path", "folder", "pid", "camera", "modality", "split"]
    assert {"path", "pid", "hat", "yaw"} < set(names["factors"])
    kinds = {f["name"]: f["dataType"] for f in sets["factors"]["field"]}
    assert (kinds["pid"], kinds["hat"], kinds["yaw"]) == ("sc:Integer", "sc:Text", "sc:Float")
    table = datasets.read(layout, data / f"tiny_{layout}")
    assert len(sets["folders"]["data"]) == len(table.groupby(["cam", "pid"]))


def test_a_set_of_ones_own_and_a_real_one_are_described_with_what_is_known(data):
    mine = described(data, "folder", "mine")
    assert "license" not in mine and "citeAs" not in mine and "1 people" in mine["description"]
    assert mine["distribution"][0]["includes"] == [
        f"{f}/*/*{s}" for f in ("Thermal", "Visible") for s in (".PNG", ".jpg")
    ]
    assert mine["distribution"][0]["encodingFormat"] == ["image/jpeg", "image/png"]
    assert [row["folders/camera"] for row in mine["recordSet"][1]["data"]] == [None, None]  # two cameras in a folder
    real = facts_of(data / "SYSU-MM01", "")
    assert real["license"].startswith("https://github.com/wuancong/SYSU-MM01") and "ICCV 2017" in real["citeAs"]


def test_a_croissant_file_is_written_over_its_like_alone(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VTLIB_DATA", str(data))
    call = ["data", "describe", "mine", "--croissant", str(path := tmp_path / "new" / "croissant.json")]
    for _ in range(2):
        assert launch.main(call) == 0 and "croissant.json: mine, 4 images of 1 people" in capsys.readouterr().out
    assert json.loads(path.read_text())["name"] == "mine"
    path.write_text("mine")
    for wrong, sentence in (
        (call, "is there and no Croissant file"),
        ([*call[:-1], str(tmp_path)], "is there and no Croissant file"),
        (["data", "show", *call[2:]], "--croissant belongs to data describe, not to data show"),
    ):
        assert launch.main(wrong) == 1
        error = capsys.readouterr().err
        assert sentence in error and len(error.strip().splitlines()) == 1
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("layout", "name"), [("sysu", "tiny_sysu"), ("regdb", "tiny_regdb"), ("folder", "mine")])
def test_the_library_of_croissant_reads_a_set(data, layout, name):
    croissant = pytest.importorskip("mlcroissant")
    write_croissant(path := data / name / "croissant.json", described(data, layout, name))
    read = croissant.Dataset(jsonld=path)
    warnings = read.metadata.ctx.issues.warnings
    assert not read.metadata.ctx.issues.errors and len(warnings) == (4 if name == "mine" else 0), warnings
    if layout == "regdb":
        return  # BMP
    table = datasets.read(layout, data / name).set_index("path")
    rows = {row["images/path"].decode(): row for row in read.records("images")}
    assert set(rows) == set(table.index)
    for where, row in rows.items():
        known = table.loc[where]
        assert row["images/pid"] == known.pid and row["images/image"].size in ((48, 96), (4, 8))
        assert row["images/camera"] == (None if name == "mine" else known.cam)
        assert row["images/split"].decode() == known.split
        assert row["images/modality"].decode() == datasets.MODALITIES[known.modality]
    if layout == "sysu":
        factors = {row["factors/path"].decode(): row for row in read.records("factors")}
        assert set(factors) >= set(rows) and all(factors[where]["factors/pid"] == table.pid[where] for where in rows)
