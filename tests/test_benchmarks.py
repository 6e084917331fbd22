"""Benchmarks: a loop form is its loss, in value and gradient; table, file and wrong words. No time is ever asserted."""

import csv
import io
import re
import runpy
import sys
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path

import pytest
import torch
from test_losses import batch, ragged
from test_losses_mc import MININGS, RELATIONS, label_of, options, structured, value_and_gradients

from vtlib.losses import LOSSES

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is no part of the package

from benchmarks import __main__ as cli
from benchmarks import losses
from benchmarks.loops import LOOPS, pair_by_pair

EVERY = [
    ("batch_hard_triplet", {}),
    ("batch_hard_triplet", {"cross_modality": True}),
    ("cmdc", {}),
    ("cmdc", {"margin": 1.7}),
    ("cmdc", {"hinge": False}),
    ("center_constraint", {}),
    ("hetero_center", {}),
    ("hetero_center", {"margin": 2.5}),
    ("hetero_center_triplet", {}),
    ("hetero_center_triplet", {"local": 3, "local_weight": 0.4, "margin": 1.1}),
    ("hetero_center_triplet", {"local": 3, "over_stripes": "mean"}),
    ("center_metric", {}),
    ("center_metric", {"instance_weight": 2.5, "margin": 1.2}),
    ("margin_mmd", {"margin": 0.0}),
    ("margin_mmd", {"margin": 0.5, "kernels": 2}),
    *(("multi_similarity", {"mining": m, "cross_modality": c}) for m, c in product(MININGS, (True, False))),
    ("multi_similarity", {"alpha": 5.0, "beta": 20.0, "threshold": 0.3, "mining_margin": 0.4}),
    *(("adaptive_weighting", {"relation": r, "mining": m}) for r, m in product(RELATIONS, MININGS)),
    ("adaptive_weighting", {"weighting": False, "mining_margin": 0.0, "threshold": 0.3}),
    ("adaptive_weighting", {"detach_weights": False}),
    ("multi_constraint", {}),
    ("multi_constraint", {"local": 3}),
    ("multi_constraint", {"alpha": 0.0, "beta": 0.3, "omega": 0.7, "local": 2, "mining": "ms"}),
    ("multi_constraint", {"beta": 0.0, "omega": 0.0}),
]
BATCHES = {
    "balanced": batch([(3, 3)] * 4, seed=1),
    "structured": structured(batch([(2, 2)] * 5, seed=2), pull=1.5),
    "ragged": structured(ragged(3, low=2), seed=3),
}


def loop(name, drawn, **given):
    """Value, gradient on the features, gradient on local (None without) of the loop form."""
    x = drawn[0].clone().requires_grad_()
    if "local" in given:
        given["local"] = given["local"].clone().requires_grad_()
    value = LOOPS[name](x, *drawn[1:], **given)
    value.backward()
    grad = torch.zeros_like(x) if x.grad is None else x.grad
    return value.detach(), grad, given["local"].grad if "local" in given else None


def test_every_loss_has_a_loop_form():
    assert set(LOOPS) == set(LOSSES) - {"id"} == {name for name, _ in EVERY}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name, given", EVERY, ids=label_of)
def test_loop_form_is_the_loss(name, given, kind):
    drawn = BATCHES[kind]
    given = options(given, drawn)
    mine, theirs = value_and_gradients(name, drawn, **given), loop(name, drawn, **given)
    assert theirs[0].item() == pytest.approx(mine[0].item(), rel=1e-9, abs=1e-9)
    for a, b in zip(mine[1:], theirs[1:], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name, given", EVERY, ids=label_of)
def test_loop_form_is_the_loss_in_float32(name, given):
    drawn = BATCHES["structured"][0].float(), *BATCHES["structured"][1:]
    given = options(given, drawn)
    found = loop(name, drawn, **given)[0]
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(LOSSES[name](*drawn, **given).item(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", ["batch_hard_triplet", "cmdc", "multi_similarity", "multi_constraint"])
def test_pair_by_pair_gives_the_same_and_ends(name):
    drawn = BATCHES["balanced"]
    with pair_by_pair():
        pairs = loop(name, drawn)
    rows = loop(name, drawn)
    assert pairs[0].item() == pytest.approx(rows[0].item(), abs=1e-9)
    torch.testing.assert_close(pairs[1], rows[1], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("size", losses.SIZES)
def test_batch_of_the_benchmark(size):
    p, k = losses.SIZES[size]
    features, labels, modality, local = losses.draw(p, k, False)
    assert features.shape == (2 * p * k, 2048) and features.dtype == torch.float32 and local is None
    assert size.startswith(f"N {len(features)} ")
    for i in range(p):
        for m in (0, 1):
            assert ((labels == i) & (modality == m)).sum() == k
    features, *_, local = losses.draw(p, k, True)
    assert features.shape == (2 * p * k, 1536) and local.shape == (2 * p * k, 6, 256)
    assert torch.equal(features, local.flatten(1)) and features.is_leaf and local.is_leaf


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Text and saved file of `python -m benchmarks losses --repeats 1 --save`; its small size alone, to be quick."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("benchmarks") / "results"
    patch.setattr(cli, "RESULTS", folder)
    patch.setattr(losses, "SIZES", {"N 12 (P 3, K 2)": (3, 2)})
    threads = torch.get_num_threads()
    try:
        with redirect_stdout(io.StringIO()) as out:
            assert cli.main(["losses", "--repeats", "1", "--save"]) == 0
    finally:
        patch.undo()
    assert torch.get_num_threads() == threads
    (path,) = folder.iterdir()
    return out.getvalue(), path


def test_table_says_where_it_is_from_and_has_every_part(ran):
    text, path = ran
    for word in ("processor: ", "cores", f"torch {torch.__version__}", "commit ", "UTC", "median of 1 interleaved"):
        assert word in text
    header, *lines = [line for line in text.splitlines()[3:] if line and not line.startswith("written")]
    assert header.split() == ["part", "size", "reference", "reference_ms", "ours_ms", "ratio"]
    parts = [re.split(r"  +", line)[0] for line in lines]
    assert {part.split()[0] for part in parts} == set(LOOPS)
    assert {"multi_constraint local", "adaptive_weighting c2i", "batch_hard_triplet cross_modality"} <= set(parts)
    assert f"written: {path}" in text


def test_saved_file_is_the_table(ran):
    text, path = ran
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-[a-z0-9-]+\.csv", path.name)
    lines = path.read_text().splitlines()
    assert all(line[2:] in text for line in lines if line.startswith("# "))
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert {row["reference"] for row in rows} <= {"loop over rows", "loop over pairs", "PML"} and list(rows[0]) == list(
        losses.Row._fields
    )
    for row in rows:
        theirs, ours, ratio = (float(row[c]) for c in ("reference_ms", "ours_ms", "ratio"))
        assert ratio == pytest.approx(theirs / ours, rel=0.02)  # each is rounded to three digits


def test_pytorch_metric_learning_is_a_reference_where_it_has_the_loss(ran):
    pytest.importorskip("pytorch_metric_learning")
    with_theirs = {re.split(r"  +", line)[0] for line in ran[0].splitlines() if " PML " in line}
    names = [f"{name}{mode}" for name in ("batch_hard_triplet", "multi_similarity") for mode in ("", " cross_modality")]
    assert with_theirs == set(names)


def test_without_the_library_the_loop_forms_are_left(monkeypatch):
    monkeypatch.setattr(losses, "find_spec", lambda name: None)
    monkeypatch.setattr(losses, "SIZES", {"N 8 (P 2, K 2)": (2, 2)})
    monkeypatch.setattr(losses, "DIM", 32)
    monkeypatch.setattr(losses, "STRIPES", (2, 8))
    assert {row.reference for row in losses.measure(1)} == {"loop over rows", "loop over pairs"}


def test_forms_that_disagree_are_not_timed(monkeypatch):
    monkeypatch.setitem(LOOPS, "cmdc", lambda x, *batch: 1.01 * LOSSES["cmdc"](x, *batch))
    monkeypatch.setattr(losses, "SIZES", {"N 8 (P 2, K 2)": (2, 2)})
    with pytest.raises(RuntimeError, match="cmdc: the forms disagree"):
        list(losses.measure(1))
    monkeypatch.setitem(LOOPS, "cmdc", lambda x, *batch: LOSSES["cmdc"](x.detach(), *batch) + 0 * x.sum())
    with pytest.raises(RuntimeError, match="cmdc: loop over rows has no gradient"):
        list(losses.measure(1))


def test_every_script_is_found_and_a_wrong_word_is_named(capsys):
    assert list(cli.scripts()) == ["losses"]  # loops.py measures nothing
    for words, sentence in (
        (["loses"], "unknown script 'loses': choose from losses"),
        (["--repeats", "0"], "1 or more"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:'benchmarks.__main__' found in sys.modules")
def test_it_is_called_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("benchmarks", run_name="__main__")
    assert stop.value.code == 0 and "--repeats" in capsys.readouterr().out
