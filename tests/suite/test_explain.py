"""The page for one's own people and loss does what it says: its code is run, its table is that of the code."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtlib import config, launch, losses, methods, runs, systems
from vtlib.data import datasets
from vtlib.suite import compare, explain, transfer

PAGE = (Path(__file__).parents[2] / "data" / "own.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


@pytest.fixture
def mine(home):
    """The folder of the page: eight people, half of them to train on."""
    root = home / "data" / "mine"
    if not root.is_dir():
        for m, modality in enumerate(("Visible", "Thermal")):
            for pid in range(1, 9):
                for k in range(3):
                    pixels = np.random.default_rng([m, pid, k]).integers(0, 99, (48, 24, 3), np.uint8)
                    pixels[: 5 * pid] += 100
                    path = root / modality / str(pid) / f"{k}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
        rows = "".join(f"{pid},{'train' if pid < 5 else 'test'}\n" for pid in range(1, 9))
        (root / "split.csv").write_text("id,split\n" + rows)
    return root


@pytest.fixture
def own_loss(monkeypatch):
    """The loss of the page, put where the page puts it."""
    space = {"__name__": "vtlib.losses.own", "__package__": "vtlib.losses"}
    exec(PYTHON[0], space)
    monkeypatch.setitem(losses.LOSSES, "cross_nce", space["cross_nce"])
    return space["cross_nce"]


def test_the_table_of_fields_is_that_of_the_code(capsys):
    assert launch.main(["fields"]) == 0
    assert capsys.readouterr().out.strip() in PAGE  # else put there what `python -m vtlib.launch fields` prints


def test_the_loss_of_the_page_pulls_a_persons_images_together(own_loss):
    labels, modality = torch.arange(4).repeat(4), torch.arange(2).repeat_interleave(8)
    apart, features = torch.eye(4)[labels], torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    assert own_loss(10 * apart, labels, modality) < 0.5 * own_loss(features, labels, modality)
    features.requires_grad_()
    own_loss(features, labels, modality).backward()
    assert torch.isfinite(features.grad).all() and features.grad.abs().sum() > 0


def test_check_training_comparison_and_verdict_on_the_folder(mine, own_loss, capsys, monkeypatch):
    assert launch.main(["data", "check", "folder", "mine"]) == 0
    few = ["profile=quick", "dataset=folder", "data=mine", "identities_per_batch=4"]
    loss = 'losses.cross_nce={"weight": 1, "temperature": 0.1}'
    assert launch.main(["train", "method=identity", loss, *few]) == 0
    out = capsys.readouterr().out
    assert "folder v2t" in out and "folder t2v" in out
    monkeypatch.setitem(methods.METHODS, "mine", methods.method({"cross_nce": {"weight": 1.0, "temperature": 0.1}}))
    assert launch.main(["train", "method=mine", *few]) == 0
    space = {}
    exec(PYTHON[1].replace('"cpu"', '"quick"').replace("(0, 1, 2)", "(0, 1)"), space)
    out = capsys.readouterr().out
    assert compare.verdict(space["gain"]) in out and "rank1" in out
    text = explain.experiment(space["ours"][0].experiment)
    assert "cross_nce" in text and "Each visible image picks its person" in text


def test_a_wrong_argument_of_ones_own_loss_is_named(own_loss):
    with pytest.raises(ValueError, match="unknown argument of loss cross_nce 'temprature': did you mean 'temperature'"):
        config.experiment("quick", "identity", **{"losses.cross_nce": {"weight": 1.0, "temprature": 0.1}})
    with pytest.raises(ValueError, match=r"losses\.cross_nce\.temperature must be of type float"):
        config.experiment("quick", "identity", **{"losses.cross_nce": {"weight": 1.0, "temperature": "hot"}})


def test_losses_and_evaluator_work_without_the_rest(capsys):
    exec(PYTHON[2], {})
    assert "v2t" in capsys.readouterr().out


def test_a_folder_without_people_to_train_on_is_searched_as_a_whole(mine, home, tmp_path):
    import shutil

    root = shutil.copytree(mine, tmp_path / "all")
    (root / "split.csv").unlink()
    assert transfer.names_training_people(mine) and not transfer.names_training_people(root)
    assert not datasets.obstacles("folder", datasets.read("folder", root), train=False)
    run = runs.run(config.experiment("quick", "baseline"))
    found = transfer.transferred(run, root).summary(1)
    assert list(found.index) == ["folder v2t", "folder t2v"] and (found.people == 8).all()
    np.testing.assert_allclose(found.chance_rank1, 100 / 8)


def test_no_formula_is_of_a_loss_that_is_gone():
    assert set(explain.FORMULAS) <= set(systems.LOSSES)  # others are said by the first line of their docstring


@pytest.mark.parametrize("profile", ["quick", "paper"])
@pytest.mark.parametrize("method", methods.METHODS)
def test_the_words_of_a_method_are_those_of_its_fields(profile, method):
    e = config.experiment(profile, method)
    text = explain.experiment(e)
    assert ("position attention" in text) == e.attention and ("stripes" in text) == bool(e.parts)
    assert all(f"**{name}**" in text for name in e.losses) and text.count("- ") >= len(e.losses)
    assert ("stages 1 and 2 of a ResNet" in text) == (e.specific_stages == 3)
    assert "nothing is trained" in explain.experiment(e.but(epochs=0))
