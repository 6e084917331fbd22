"""The command line: strict names, one clear sentence on failure, nothing finished made again."""

import json

import nbformat
import numpy as np
import pytest
from scipy.io import savemat

from vtlib import datasets, launch, runs


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
    launch.strict(space)


@pytest.mark.parametrize("text", ["[1, 2", "@x", "a: b: c", "%x", "*x"])
def test_text_that_is_neither_json_nor_yaml_stays_text(text):
    assert launch.parse(text) == text


def test_values_are_typed():
    given = launch.pairs(["a=1e-3", "b=3", "c=true", "d=[1, 2.5]", "e=text", 'f={"x": {"weight": 5e-05}}', "g="])
    assert given["a"] == 0.001 and given["b"] == 3 and given["c"] is True and given["d"] == [1, 2.5]
    assert given["e"] == "text" and given["f"] == {"x": {"weight": 5e-5}} and given["g"] == ""


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (["train", "profile=quick", "epoch=3"], "unknown field 'epoch': did you mean 'epochs'?"),
        (["train", "profile=quick", "method=1"], "unknown method 1: choose one of"),
        (["train", "profile=quick", "dataset=[1]"], "dataset: Input should be"),
        (["data", "make", "synvt_susy"], "unknown data set 'synvt_susy': did you mean 'synvt_sysu'?"),
        (["data", "describe", "nowhere"], "nowhere"),
        (["all", "--profile", "quick", "S1.T9"], "unknown table, figure or notebook 'S1.T9': did you mean"),
        (["all", "--profile", "quik"], "unknown profile 'quik': did you mean 'quick'"),
        (["notebook", "nowhere.ipynb"], "notebook nowhere.ipynb does not exist"),
    ],
)
def test_failures_are_one_sentence_and_a_non_zero_exit(home, capsys, call, sentence):
    assert launch.main(call) == 1
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1


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
    folder = runs.results_root() / "quick" / "runs"
    assert all(json.loads(p.read_text())["protocols"] for p in folder.glob("*/metrics.json"))
