"""fit(): history, schedule, resume bit-equal after a kill, a loss that is not finite, learning something."""

import json
import multiprocessing
import os
import signal
import time
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.speed.operators import for_view
from vtlib import objective, runs, train
from vtlib.config import experiment
from vtlib.data.batches import draw
from vtlib.methods import METHODS
from vtlib.systems import LOSSES
from vtlib.systems.colours import NUMBERS


@pytest.fixture(scope="module")
def tiny(home):
    """A quick experiment with its table and pixels."""
    made = experiment("quick", "dpan_cmdc", epochs=4, device="cpu")
    table, store = runs.load_data(made)
    return made, table, store


def fit(tiny, folder, **options):
    folder.mkdir(exist_ok=True)
    made, table, store = tiny
    return train.fit(made, table, store.pixels, folder, origin=store.digest, **options)


def weights(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def rows(folder):
    frame = pd.read_json(folder / "history.jsonl", lines=True)
    return frame.drop(columns=["seconds", "images_per_second"])


def test_history_has_every_term_and_the_schedule(tiny, tmp_path):
    seen = []
    fit(tiny, tmp_path / "a", on_epoch=seen.append)
    history = pd.read_json(tmp_path / "a" / "history.jsonl", lines=True)
    assert list(history.epoch) == [1, 2, 3, 4] and len(seen) == 4
    wanted = {
        "lr",
        "loss",
        "id",
        "cmdc",
        "grad_norm",
        "images_per_second",
        "seconds",
        "val_cmdc",
        "val_rank1",
        "val_mAP",
    }
    assert wanted <= set(history) and np.isfinite(history.to_numpy()).all()
    np.testing.assert_allclose(history.loss, history.id + 3.0 * history.cmdc, rtol=1e-5)
    np.testing.assert_allclose(history.lr, [train.learning_rate(tiny[0], e) for e in range(4)])


def test_schedule_of_the_field():
    paper = experiment("paper", "dpan_cmdc")  # warm-up to epoch 10, then 0.1, 0.01 from 20, 0.001 from 50
    rates = [train.learning_rate(paper, e) for e in (0, 4, 9, 19, 20, 49, 50, 59)]
    np.testing.assert_allclose(rates, [0.01, 0.05, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_backbone_and_new_layers_have_their_rates_and_nothing_is_left_out():
    made = experiment("quick", "dpan_cmdc", backbone_lr_factor=0.1)
    net = train.make_net(made, 5)
    slow, fast = train.make_optimizer(made, net, objective.make_losses(made, net)).param_groups
    assert (slow["factor"], fast["factor"]) == (0.1, 1.0)
    names = {id(p): n for n, p in net.named_parameters()}
    new = {names[id(p)] for p in fast["params"]}
    assert {"classifier.weight", "neck.weight", "specific.0.5.alpha", "specific.1.5.d.weight"} <= new
    assert not any(n.startswith(("shared", "specific.0.0")) for n in new)
    every = {n for n, p in net.named_parameters() if p.requires_grad}
    assert {names[id(p)] for g in (slow, fast) for p in g["params"]} == every


def test_same_seed_same_bits_and_another_seed_differs(tiny, tmp_path):
    a, b = (weights(fit(tiny, tmp_path / name)) for name in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
    pd.testing.assert_frame_equal(rows(tmp_path / "a"), rows(tmp_path / "b"), check_exact=True)
    other = (tiny[0].but(seed=1), *tiny[1:])
    c = weights(fit(other, tmp_path / "c"))
    assert not torch.equal(a["classifier.weight"], c["classifier.weight"])


def test_stopped_at_any_epoch_it_ends_bit_equal(tiny, tmp_path):
    whole = weights(fit(tiny, tmp_path / "whole"))
    for stop in (1, 3):

        def interrupt(row, stop=stop):
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        folder = tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt):
            fit(tiny, folder, on_epoch=interrupt)
        again = []
        resumed = weights(fit(tiny, folder, on_epoch=again.append))
        assert [row["epoch"] for row in again] == list(range(stop + 1, 5))  # nothing is redone
        assert all(torch.equal(whole[k], resumed[k]) for k in whole)
        pd.testing.assert_frame_equal(rows(tmp_path / "whole"), rows(folder), check_exact=True)


def test_validation_identities_without_both_modalities_do_not_stop_training(tiny, tmp_path):
    made, table, store = tiny
    made = made.but(epochs=1)
    lone = table[(table.split == "val") & (table.modality == 1)].pid.unique()
    for missing, found in ((lone[:1], True), (lone[1:], False)):
        part = table.assign(split=table.split.mask(table.pid.isin(missing) & (table.modality == 1), "none"))
        folder = tmp_path / str(found)
        fit((made, part, store), folder)
        assert ("val_cmdc" in (folder / "history.jsonl").read_text()) == found


def test_a_kill_between_checkpoint_and_history_loses_no_row(tiny, tmp_path):
    fit(tiny, tmp_path / "a")
    path = tmp_path / "a" / "history.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    fit(tiny, tmp_path / "a")
    assert path.read_text() == whole


def long_run(folder, data, results):
    os.environ |= {"VTLIB_DATA": data, "VTLIB_RESULTS": results}
    torch.set_num_threads(1)
    made = experiment("quick", "dpan_cmdc", epochs=12, device="cpu")
    table, store = runs.load_data(made)
    train.fit(made, table, store.pixels, folder, origin=store.digest)


def test_killed_without_warning_it_ends_bit_equal(tiny, tmp_path, home):
    made = tiny[0].but(epochs=12)
    whole = weights(fit((made, *tiny[1:]), tmp_path / "whole"))
    folder = tmp_path / "killed"
    folder.mkdir()
    child = multiprocessing.get_context("spawn").Process(
        target=long_run, args=(folder, str(home / "data"), str(home / "results"))
    )
    child.start()
    history, deadline = folder / "history.jsonl", time.monotonic() + 300
    while not (history.is_file() and history.read_text()) and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    done = len(history.read_text().splitlines())
    assert 1 <= done < 12, "the kill came too late to test anything"
    resumed = weights(fit((made, *tiny[1:]), folder))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_checkpoint_of_another_origin_is_not_gone_on_from(tiny, tmp_path):
    made, table, store = tiny
    fit(tiny, tmp_path / "a")
    again = []
    train.fit(made, table, store.pixels, tmp_path / "a", origin="other", on_epoch=again.append)
    assert len(again) == 4


def test_a_loss_that_is_not_finite_names_epoch_step_and_term(tiny, tmp_path, monkeypatch):
    calls = []

    def broken(features, labels, modality, *, margin=0.3, hinge=True):
        calls.append(1)
        return features.sum() * (float("nan") if len(calls) == 5 else 0.0)

    monkeypatch.setitem(LOSSES, "cmdc", broken)
    with pytest.raises(FloatingPointError, match="loss 'cmdc' is not finite at epoch 2, step 2"):
        fit(tiny, tmp_path / "a")
    kept = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    assert len(kept["history"]) == 1  # the epoch before is kept
    assert all(torch.isfinite(v).all() for v in kept["net"].values() if v.is_floating_point())


def test_training_lowers_every_loss(tiny, tmp_path):
    made = experiment("quick", "baseline", epochs=8, steps_per_epoch=6, lr=0.02, milestones=[7])
    fit((made, *tiny[1:]), tmp_path / "a")
    history = [json.loads(line) for line in (tmp_path / "a" / "history.jsonl").read_text().splitlines()]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert all(history[-1][term] < history[0][term] for term in made.losses)


class Waits(TorchDispatchMode):
    """Names what would make a program wait for a GPU, for which the meta device stands: its values are never there.

    Reading a value, and shapes that hang on values, fail on meta by themselves; a copy that waits is found here.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, aten = kwargs or {}, torch.ops.aten
        if func is aten._to_copy.default and torch.device(kwargs.get("device", "cpu")).type == "meta":
            assert args[0].is_meta or kwargs.get("non_blocking"), "a copy to the device waits for it"
        if func is aten.lift_fresh.default:
            assert not args[0].is_meta, "a constant made on the device waits for it"
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default) and args[0].is_meta:
            assert all(i is None or i.is_meta for i in args[1]), "an index that lies elsewhere waits for the device"
        if func is aten.copy_.default and args[0].is_meta:
            assert args[1].is_meta or args[2:] == (True,), "a copy into a tensor of the device waits for it"
        return func(*args, **kwargs)


@pytest.mark.parametrize("method", [m for m in METHODS if not any(n.startswith("pml:") for n in METHODS[m]["losses"])])
def test_a_step_never_waits_for_the_device(method, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())  # it does not know the meta device
    made = experiment("quick", method, erase=0.5)
    p, k = made.identities_per_batch, made.images_per_identity
    net = train.make_net(made, p).to("meta")
    losses = objective.make_losses(made, net).to("meta")
    view = train.make_view(made)
    parts = make_parts(made, net, losses) | ({"view": view.to("meta")} if view else {})
    step = train.Step(made.but(precision="float32"), parts, "meta")
    pixels = torch.zeros(2 * p * k, 3, made.height, made.width, dtype=torch.uint8, device="meta")
    labels, modality = torch.arange(p).repeat_interleave(k).repeat(2), torch.arange(2).repeat_interleave(p * k)
    try:
        for _ in range(2):  # constants are made in the first
            with Waits() if _ else nullcontext():
                numbers = draw(len(labels), torch.Generator().manual_seed(0))
                batch = train.augmented(made, pixels, numbers, modality, torch.rand(len(labels), NUMBERS))
                extra = for_view(view, batch, labels, modality)
                assert step(batch, modality, labels, modality, extra=extra).shape == (len(made.losses) + 1,)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        repair = (
            "make masks of labels and modality on the CPU, and send them over with losses.to_device_of(mask, features)"
        )
        pytest.fail(f"a step of {method} would wait for a GPU, or fail there ({error}): {repair}")


def test_compiled_steps_train_as_others_and_evaluate_as_they_are(tiny, tmp_path, monkeypatch):
    made, compiled = tiny[0].but(epochs=2), []

    def compile_with(self, **options):  # the backend that makes no code: C++ takes a minute
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_with)
    plain = weights(fit((made, *tiny[1:]), tmp_path / "a"))
    fast = weights(fit((made.but(compile=True), *tiny[1:]), tmp_path / "b"))
    assert len(compiled) == 3 and plain.keys() == fast.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], fast[name])
    assert made.run_id == made.but(compile=True).run_id


def make_parts(made, net, losses):
    return {"net": net, "losses": losses, "optimizer": train.make_optimizer(made, net, losses)}


def test_the_meta_device_finds_what_waits():
    x = torch.zeros(3, device="meta")
    for wait in (lambda: x.sum().item(), lambda: x[x > 0], lambda: bool((x > 0).any()), lambda: x.unique()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()
    for wait in (
        lambda: torch.zeros(3).to("meta"),
        lambda: torch.tensor([1.0], device="meta"),
        lambda: x[torch.tensor([0])],
        lambda: x.copy_(torch.zeros(3)),
    ):
        with Waits(), pytest.raises(AssertionError, match="wait"):
            wait()
    with Waits():
        torch.zeros(3).to("meta", non_blocking=True)
