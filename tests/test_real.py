"""The paper profile from check to comparison, at the size of a toy, on sets in the exact layouts of the real ones.

The sets here have every camera, list and gap of SYSU-MM01 and RegDB, but few of their images. With all of them,
45,863 and 8,240 small images: `VTLIB_SLOW=FOLDER pytest tests/test_real.py` (20 minutes the first time; FOLDER keeps
the sets).
"""

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vtlib import config, evaluate, launch, runs, synvt
from vtlib.batch import forecast
from vtlib.data import check, datasets
from vtlib.suite import items
from vtlib.suite.items import experiments

ROOT = Path(__file__).parents[1]
SMALL = {"backbone": "thin", "weights": "none", "train_on": "train+val", "pad": 2, "epochs": 1, "steps_per_epoch": 2}
SMALL |= {"warmup_epochs": 0, "identities_per_batch": 4, "images_per_identity": 2, "over_parts": "mean"}
SIZES = {"height": 32, "width": 16}
GALLERIES = {("all", 1): 301, ("all", 10): 3010, ("indoor", 1): 112, ("indoor", 10): 1120}


# in this process and, as sitecustomize.py, in every job of a graph
SHRINK = """
import json
import os

from vtlib import config
from vtlib.batch import forecast
from vtlib.data import check

small = json.loads(os.environ["SMALL"])
config.PROFILES["paper"] = small["fields"]
for both in config.RECIPES.values():
    for layout, fields in both.items():
        both[layout] = {name: value for name, value in fields.items() if name not in small["fields"]}
check.PUBLISHED |= small["published"]
forecast.PROBE = 3.0
"""


def shrink(monkeypatch, published, **size):
    """The paper profile with a small network and two steps a run; what else its recipes say stays."""
    for module, name in ((config, "PROFILES"), (config, "RECIPES"), (check, "PUBLISHED"), (forecast, "PROBE")):
        monkeypatch.setattr(module, name, copy.deepcopy(getattr(module, name)))
    monkeypatch.setenv("SMALL", json.dumps({"fields": SMALL | size, "published": published}))
    exec(SHRINK, {})


def like_sysu(one_in: int = 5) -> synvt.Structure:
    """SYSU-MM01's structure thinned out: numbers with gaps, people who are in no list, cameras that missed some.

    As there, validation people were not seen by cameras 1 and 2, four in seven test people were seen by them, and
    people outside the lists mostly lack thermal images; a test person has ten images in each visible camera.
    """
    g = np.random.default_rng(0)
    parts = np.split(1 + g.permutation(533), np.cumsum([296, 99, 96]))
    train, val, test, outside = (np.sort(part[::one_in]).tolist() for part in parts)
    inside = {p for ids in (train, test) for p in ids if g.random() < 4 / 7}
    counts = {cam: {} for cam in datasets.SYSU.values()}
    for (cam, modality), seen in counts.items():
        for pid in sorted(train + val + test + outside):
            if (cam <= 3 and pid not in inside) if pid not in outside else cam not in (1, 2):
                continue
            if g.random() < 0.97 or cam > 4:  # some gaps
                seen[pid] = int(g.integers(10, 13) if pid in test and not modality else g.integers(1, 4))
    return synvt.Structure({cam: seen for (cam, _), seen in counts.items()}, tuple(train), tuple(val), tuple(test))


def published(made: synvt.Structure) -> dict[str, str]:
    """What a publication would say of a set of this structure, counted without the readers."""
    listed, sizes = {"train": made.train, "val": made.val, "test": made.test}, {}

    def count(ids):
        seen = {cam: {p: n for p, n in people.items() if p in ids} for cam, people in made.counts.items()}
        visible = sum(n for cam, people in seen.items() if cam not in (3, 6) for n in people.values())
        thermal = sum(n for cam, people in seen.items() if cam in (3, 6) for n in people.values())
        return len({p for people in seen.values() for p in people}), visible, thermal

    everyone = {p for people in made.counts.values() for p in people}
    sizes["images on disk"] = "{1} visible, {2} thermal".format(*count(everyone))
    groups = {"train": ["train"], "train+val": ["train", "val"], "test": ["test"], "all splits": list(listed)}
    for item, names in groups.items():
        sizes[item] = "{} identities, {} visible, {} thermal".format(*count({p for n in names for p in listed[n]}))
    galleries = {cam: len([p for p in made.counts[cam] if p in made.test]) for cam in (1, 2, 4, 5)}
    every, indoor = sum(galleries.values()), galleries[1] + galleries[2]
    sizes["gallery"] = f"all-search {every} (1 shot), {10 * every} (10 shots); indoor-search {indoor}, {10 * indoor}"
    return sizes


def walk(results: Path, monkeypatch, capsys, names: str, galleries: dict) -> float:
    """Plan, run, plan again, export, compare, as the README tells it; returns the seconds of the second plan."""
    monkeypatch.setattr(items, "ITEMS", {key: items.ITEMS[key] for key in names.split()})
    wanted = experiments("paper", items.ITEMS)
    assert launch.main(["plan", "--profile", "paper"]) == 0
    said = capsys.readouterr().out
    assert f"paper: {len(wanted)} runs, 0 finished" in said and "time: about" in said and "disk: results" in said
    assert "SYSU-MM01: " in said and "RegDB: " in said and said.count("NOT the real set") == 2
    done = [runs.run(e) for e in wanted]

    sysu = [r for r in done if r.experiment.dataset == "sysu"]
    drawn = datasets.sysu_permutations(datasets.locate("SYSU-MM01") / runs.PERMUTATIONS)
    for (mode, shots), size in galleries.items():
        trials = sysu[0].trials(f"sysu {mode} {shots}-shot official")
        assert len(trials) == 10 and set(trials.gallery) == {size}
        f = sysu[0].features
        rows = (f["features"], f["pid"], f["cam"], f["number"])
        again = evaluate.sysu(*rows, mode=mode, shots=shots, permutations=drawn)  # the lists that came with the set
        np.testing.assert_allclose(again[runs.METRICS], trials[runs.METRICS], atol=1e-12)
        mean = runs.collect(sysu[:1], f"sysu {mode} {shots}-shot official")
        np.testing.assert_allclose(mean.rank1, trials.rank1.mean())
    regdb = [r for r in done if r.experiment.dataset == "regdb"]
    methods = {r.experiment.method for r in regdb}
    for method in methods:  # ten models, one a split, each tested on its own people
        ten = [r for r in regdb if r.experiment.method == method]
        assert sorted(r.experiment.split for r in ten) == list(range(1, 11))
        assert len({r.metrics["data_digest"] for r in ten}) == len({r.experiment.run_id for r in ten}) == 10
        assert all(set(r.metrics["protocols"]) == {"regdb v2t", "regdb t2v"} for r in ten)
        assert len({tuple(sorted(set(r.features["pid"].tolist()))) for r in ten}) == 10

    start = time.perf_counter()
    assert launch.main(["plan", "--profile", "paper"]) == 0
    seconds = time.perf_counter() - start
    assert f"{len(wanted)} finished, 0 to make" in capsys.readouterr().out
    file, out = results / "ours.zip", results / "ours.csv"
    assert launch.main(["results", "export", str(file)]) == 0
    assert launch.main(["results", "compare", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert all(items.ITEMS[item].title in said for item in names.split())
    assert "ours.zip: SYSU-MM01 is NOT the real set" in said and "ours.zip: RegDB is NOT the real set" in said
    assert "the mean is of those" not in said  # every row has all its runs
    return seconds


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Both sets thinned out, in one folder, and the structure of SYSU's."""
    root, made = tmp_path_factory.mktemp("sets"), like_sysu()
    spec = synvt.Spec("sysu", identities=(296, 99, 96), **SIZES)
    synvt.make(spec, root / "SYSU-MM01", plan=made, workers=1, progress=False)
    spec = synvt.Spec("regdb", identities=(206, 0, 206), images=1, **SIZES)
    synvt.make(spec, root / "RegDB", workers=1, progress=False)
    return root, made


@pytest.fixture
def toy(sets, tmp_path, monkeypatch):
    """A copy of both sets in tmp_path/data, and the paper profile at their size; the structure of SYSU's."""
    root, made = sets
    shutil.copytree(root, tmp_path / "data")
    monkeypatch.setenv("VTLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path / "results"))
    regdb = {
        item: text.replace("4120", "412").replace("2060", "206") for item, text in check.PUBLISHED["regdb"].items()
    }
    shrink(monkeypatch, {"sysu": published(made), "regdb": regdb}, height=96, width=48)  # six stripes need 96 rows
    return made


def test_the_paper_profile_from_check_to_comparison(toy, tmp_path, monkeypatch, capsys):
    listed = {p for ids in toy[1:] for p in ids}
    assert any(p not in listed for people in toy.counts.values() for p in people)  # people outside the lists
    every, indoor = (sum(p in toy.test for cam in cams for p in toy.counts[cam]) for cams in ((1, 2, 4, 5), (1, 2)))
    sizes = {("all", 1): every, ("all", 10): 10 * every, ("indoor", 1): indoor, ("indoor", 10): 10 * indoor}
    walk(tmp_path, monkeypatch, capsys, "S1.T1 S1.T2", sizes)


def test_one_command_runs_the_paper_profile_on_the_set_that_is_there(toy, tmp_path, monkeypatch):
    """Its check, its plan and its graph, in processes of their own; the other set is left out, then comes."""
    (tmp_path / "sitecustomize.py").write_text(SHRINK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("VTLIB_DATA")
    root, results = tmp_path / "data", tmp_path / "results" / "paper"

    def call(*more):
        command = [sys.executable, "-m", "vtlib.launch", "all", "--profile", "paper", "--data", str(root), *more]
        done = subprocess.run([*command, "S1.T1", "23_comparison"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (root / "RegDB").rename(root / "later")
    said = call("--jobs", "2")
    assert "left out: " in said and "RegDB" in said and "NOT the real set" in said and "time: about" in said
    of_sysu = experiments("paper", ["S1.T1"], absent=True)
    of_sysu = {e.run_id for e in of_sysu if e.dataset == "sysu"}
    assert {file.parent.name for file in results.glob("runs/*/metrics.json")} == of_sysu
    assert "S1.T1: " in said and f"{len(of_sysu) + 2} ran, 0 cached, 0 failed, 0 not run" in said
    (root / "later").rename(root / "RegDB")
    said = call("--dry-run")
    assert "left out: " not in said and f"{len(of_sysu)} done" in said


@pytest.mark.skipif("VTLIB_SLOW" not in os.environ, reason="20 minutes: VTLIB_SLOW=FOLDER names where the sets may lie")
def test_the_paper_profile_with_all_image_files_of_the_real_sets(shared, tmp_path, monkeypatch, capsys):
    items, root = "S1.T1 S2.T1 S2.T2", Path(os.environ["VTLIB_SLOW"])
    monkeypatch.setenv("VTLIB_DATA", str(root))
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path / "results"))
    real = shared / "protocol"
    ids = json.loads((real / "sysu_structure.json").read_text())["ids"]
    made = synvt.read_structure(real / "rand_perm_cam.mat", *(ids[part] for part in datasets.SPLITS))
    spec = synvt.Spec("sysu", identities=(296, 99, 96), images=15, **SIZES)
    synvt.make(spec, root / "SYSU-MM01", plan=made, progress=False)
    shutil.copy(real / "rand_perm_cam.mat", root / "SYSU-MM01" / "exp")  # the official draw itself
    assert len(list((root / "SYSU-MM01").glob("cam*/*/*.jpg"))) == 45_863
    spec = synvt.Spec("regdb", identities=(206, 0, 206), images=10, **SIZES)
    synvt.make(spec, root / "RegDB", progress=False)
    shrink(monkeypatch, {}, height=96, width=48)
    assert walk(tmp_path, monkeypatch, capsys, items, GALLERIES) < 10
