"""The command line: strict names, one clear sentence on failure, nothing finished made again."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from scipy.io import savemat

from vtlib import launch
from vtlib.common import results_root
from vtlib.data import datasets


@pytest.fixture
def note(tmp_path):
    """A tiny notebook with typed parameters, one of which makes it fail."""
    cells = [
        nbformat.v4.new_code_cell(
            'profile: str = "quick"\nweight: float = 1.0  # a number\nnames: list = []\nfail: bool = False',
            metadata={"tags": ["parameters"]},
        ),
        nbformat.v4.new_code_cell("from vtlib import launch\nlaunch.strict(globals())\nprint('weight is', weight)"),
        nbformat.v4.new_code_cell("assert not fail, 'told to fail'"),
    ]
    path = tmp_path / "note.ipynb"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("wieght=2", "unknown parameter 'wieght': did you mean 'weight'?"),
        ("weight=heavy", "weight='heavy' is not of type float"),
        ("fail=1", "fail=1 is not of type bool"),
        ("names=abc", "names='abc' is not of type list"),
        ("weight", "'weight' is not of the form key=value"),
        ("weight=1e400", "weight=1e400: numbers must be finite"),
        ("weight=nan", "weight=nan: numbers must be finite"),
        ('names=[{"a": -Infinity}]', "numbers must be finite"),
        ("weight=null", "weight=None is not of type float"),
        ("root=~nobody_of_this_name/x", "names the home folder of nobody: write the whole path"),
        ("profile=quik", "did you mean 'quick'"),
    ],
)
def test_a_wrong_parameter_stops_before_the_notebook_starts(note, home, capsys, pair, sentence):
    assert launch.main(["notebook", str(note), pair]) == 1
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1


def test_a_notebook_runs_once_and_again_when_asked_or_changed(note, home, capsys):
    call = ["notebook", str(note), "weight=1e-3"]
    assert launch.main(call) == 0 and "up to date" not in capsys.readouterr().out
    target = home / "results" / "quick" / "notebooks" / "note-weight=0.001.ipynb"
    assert "weight is 0.001" in target.read_text()
    assert launch.main(call) == 0 and "up to date" in capsys.readouterr().out
    assert launch.main([*call, "--force"]) == 0 and "up to date" not in capsys.readouterr().out


def test_the_name_of_a_copy_is_plain_short_stable_and_its_own():
    given = [
        {},
        {"seed": 1, "method": "mc"},
        {"lambdas": [0, 3]},
        {"overrides": {"epochs": 3}},
        {"overrides": {"epochs": 3.0}},
        {"a": "x/y"},
        {"a": "x_y"},
        {"a": "x y"},
        {"a": "xy"},
        {"a": "x-b=2"},
        {"a": "x", "b": 2},
        {"a": "é" * 300},
        {"a": "é" * 300 + "x"},
        {"a": list(range(500))},
        {"a": "../../x"},
        {"a": "x\ny"},
    ]
    names = [launch.called("20_ablation", one) for one in given]
    assert len(set(names)) == len(names) and names == [launch.called("20_ablation", dict(one)) for one in given]
    assert names[:3] == ["20_ablation", "20_ablation-method=mc-seed=1", "20_ablation-lambdas=[0,3]"]
    for name in [*names, launch.called("é" * 120, {})]:
        assert len(name.encode()) < 200 and not set(name) & set("/\\{}'\": \n?*<>|")


def test_a_notebook_takes_a_group_of_values_from_the_command_line(note, home, capsys):
    text = note.read_text().replace("names: list = []", "names: list = []\\noverrides: dict = {}")
    (path := note.with_name("{braces} in it.ipynb")).write_text(text)
    assert launch.main(["notebook", str(path), 'overrides={"epochs": 3}']) == 0, capsys.readouterr().err
    (target,) = (home / "results" / "quick" / "notebooks").glob("_braces__in_it-overrides=*.ipynb")
    stamp = target.with_suffix(".json")
    stamp.write_text("")  # cut: it is made again
    assert launch.main(["notebook", str(path), 'overrides={"epochs": 3}']) == 0
    assert json.loads(stamp.read_text())["key"] and "up to date" not in capsys.readouterr().out
    path.write_text(text[:99])
    assert launch.main(["notebook", str(path)]) == 1
    assert "in it.ipynb cannot be read" in capsys.readouterr().err


def test_a_failing_notebook_names_its_cell_is_kept_and_is_not_done(note, home, capsys):
    for _ in range(2):
        assert launch.main(["notebook", str(note), "fail=true"]) == 1
        error = capsys.readouterr().err
        assert "cell [" in error and "told to fail" in error and "note-fail=True.ipynb" in error
    assert (home / "results" / "quick" / "notebooks" / "note-fail=True.ipynb").is_file()


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (["weight: float = 1.0", "# Parameters\nwieght = 2.0"], "unknown parameter 'wieght': did you mean 'weight'"),
        (["weight: float = 1.0", "# Parameters\nweight = '2'"], "weight='2' is not of type float"),
        (["weight: float = 'x'"], "weight='x' is not of type float"),  # edited by hand in JupyterLab
        (["n: int = 3\nname: str = ''", "# Parameters\nn = True"], "n=True is not of type int"),
    ],
)
def test_strict_finds_what_papermill_lets_pass(cells, sentence):
    space = {"In": cells}
    for source in cells:
        exec(source, space)
    with pytest.raises(ValueError, match=sentence):
        launch.strict(space)


def test_strict_lets_right_parameters_pass():
    space = {"In": ["%matplotlib inline", "n: int = 3\nweights: list = []", "# Parameters\nn = 4", "x = n"]}
    for source in space["In"][1:]:
        exec(source, space)
    assert launch.strict(space) is None


@pytest.mark.parametrize("text", ["[1, 2", "@x", "a: b: c", "%x", "*x"])
def test_text_that_is_neither_json_nor_yaml_stays_text(text):
    assert launch.parse(text) == text


def test_values_are_typed():
    given = launch.pairs(["a=1e-3", "b=3", "c=true", "d=[1, 2.5]", "e=text", 'f={"x": {"weight": 5e-05}}', "g="])
    assert given["a"] == 0.001 and given["b"] == 3 and given["c"] is True and given["d"] == [1, 2.5]
    assert given["e"] == "text" and given["f"] == {"x": {"weight": 5e-5}} and given["g"] == ""
    given = launch.pairs(["a=2026-11-28", "b=null", "c=~/x", "d=x~y", "e=[a, b]"])
    assert given["a"] == "2026-11-28" and given["b"] is None and given["c"] == str(Path.home() / "x")
    assert given["d"] == "x~y" and given["e"] == ["a", "b"]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (["train", "profile=quick", "epoch=3"], "unknown field 'epoch': did you mean 'epochs'?"),
        (["train", "profile=quick", "method=1"], "unknown method 1: choose one of"),
        (["train", "profile=quick", "dataset=[1]"], "dataset: "),
        (["data", "make", "synvt_susy"], "unknown data set 'synvt_susy': did you mean 'synvt_sysu'?"),
        (["data", "describe", "nowhere"], "nowhere"),
        (["all", "--profile", "quick", "S1.T9"], "unknown table, figure or notebook 'S1.T9': did you mean"),
        (["all", "--profile", "quik"], "unknown profile 'quik': did you mean 'quick'"),
        (["notebook", "nowhere.ipynb"], "notebook nowhere.ipynb does not exist"),
        (["train", "profile=quick", "seed=1", "seed=1"], "seed is given twice"),
        (["train", "profile=quick", "lr=inf"], "lr=inf: numbers must be finite"),
        (["train", "profile=quick", "epochs="], "epochs: "),
        (["train", "profile=quick", "epochs=null"], "epochs: "),
        (["data", "check", "folder"], "data check folder NAME: name the folder"),
        (["data", "check", "folder", "nowhere"], "no data set 'nowhere'"),
    ],
)
def test_failures_are_one_sentence_and_a_non_zero_exit(home, capsys, call, sentence):
    assert launch.main(call) == 1
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["all", "plan"])
@pytest.mark.parametrize("jobs", ["-1", "0", "1.5", "many", ""])
def test_a_number_of_jobs_is_from_one(capsys, command, jobs):
    with pytest.raises(SystemExit) as stop:
        launch.main([command, f"--jobs={jobs}"])
    assert stop.value.code == 2 and f"argument --jobs: '{jobs}' is no whole number from 1" in capsys.readouterr().err


def test_a_path_from_the_home_folder_is_found_by_every_command(note, home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("VTLIB_RESULTS", "~/results")
    monkeypatch.setenv("VTLIB_DATA", str(tmp_path / "data"))
    (tmp_path / "me").mkdir()
    monkeypatch.chdir(tmp_path)
    note.rename(tmp_path / "me" / "note.ipynb")
    assert launch.main(["notebook", "~/note.ipynb"]) == 0
    assert (tmp_path / "me" / "results" / "quick" / "notebooks" / "note.ipynb").is_file()
    for folder in (tmp_path / "me" / "set", tmp_path / "data" / "mine"):
        folder.mkdir(parents=True)
        for modality in ("Visible", "Thermal"):
            (folder / modality).symlink_to(home / "data" / "synvt_regdb_quick" / modality)
    capsys.readouterr()
    for name in ("~/set", "mine", str(tmp_path / "data" / "mine")):  # as `describe` finds it
        launch.main(["data", "check", "folder", name])
        assert "images on disk" in capsys.readouterr().out
    assert launch.main(["data", "make", "synvt_regdb_quick", "~/set"]) == 1
    assert f"{tmp_path / 'me' / 'set'} holds files but no synvt.json" in capsys.readouterr().err
    assert launch.main(["data", "show", "synvt_regdb_quick", "~/people.png"]) == 1  # not in this data root
    assert launch.main(["data", "show", "mine", "~/people.png"]) == 0
    assert launch.main(["weights", "describe", "thin", "~/none.safetensors"]) == 1
    assert launch.main(["results", "export", "~/ours.zip", "--profile", "quick"]) == 1
    assert "~" not in capsys.readouterr().err
    assert (tmp_path / "me" / "people.png").is_file() and not list(tmp_path.rglob("~*"))
    with pytest.raises(SystemExit):
        launch.main(["notebook", "~nobody_of_this_name/x.ipynb"])
    assert "names the home folder of nobody" in capsys.readouterr().err


def test_the_command_line_starts_without_the_modules_of_unix():
    blocked = "import psutil, sys; sys.modules |= {'fcntl': None, 'resource': None}\n"
    use = (
        "from vtlib import launch; from vtlib.batch import graph, resources; resources.children();"
        "launch.main(['data', 'describe', 'nowhere'])"
    )
    done = subprocess.run([sys.executable, "-c", blocked + use], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.startswith("vtlib: no data set 'nowhere'"), done.stderr


def test_every_command_has_help(capsys):
    for command in ("", "notebook", "train", "all", "job", "data", "plan", "results"):
        with pytest.raises(SystemExit) as stop:
            launch.main([command, "--help"] if command else ["--help"])
        assert stop.value.code == 0 and "usage" in capsys.readouterr().out


def test_describe_and_check_of_a_made_set(home, capsys):
    assert launch.main(["data", "describe", "synvt_sysu_quick"]) == 0
    assert "672 images of 22 identities" in capsys.readouterr().out
    assert launch.main(["data", "check", "sysu", str(home / "data" / "synvt_sysu_quick")]) == 1
    assert "22258" in capsys.readouterr().out.replace(",", "")  # it is not the real set, and the table says so


def test_a_set_is_made_like_another_one(tmp_path, capsys):
    cells = np.empty((6, 1), object)
    for cam in range(6):
        cells[cam, 0] = np.empty((4, 1), object)
        for pid in range(4):  # person 4 is in no list
            cells[cam, 0][pid, 0] = np.tile(np.arange(1, 2 + (cam + pid) % 2, dtype=np.uint16), (10, 1))
    savemat(tmp_path / "rand_perm_cam.mat", {"rand_perm_cam": cells})
    for part, ids in {"train": "1", "val": "3", "test": "2"}.items():
        (tmp_path / f"{part}_id.txt").write_text(ids)
    root = tmp_path / "made"
    assert launch.main(["data", "make", "synvt_sysu_quick", str(root), "--like", str(tmp_path)]) == 0
    assert len(list(root.glob("cam*/*/*.jpg"))) == 6 * 6 and len(list(root.glob("cam*/0004/*.jpg"))) == 9
    table = datasets.read("sysu", root)
    assert set(table.pid) == {1, 2, 3} and set(table.pid[table.split == "test"]) == {2}
    (tmp_path / "val_id.txt").unlink()
    assert launch.main(["data", "make", "synvt_sysu_quick", str(root), "--like", str(tmp_path)]) == 1
    assert "val_id.txt is missing" in capsys.readouterr().err


def test_metrics_json_is_valid_and_printed_by_train(home, capsys):
    assert launch.main(["train", "profile=quick", "method=cmdc"]) == 0
    assert "sysu all 1-shot official" in capsys.readouterr().out
    folder = results_root() / "quick" / "runs"
    assert all(json.loads(p.read_text())["protocols"] for p in folder.glob("*/metrics.json"))
