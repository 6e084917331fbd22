"""A step as a CUDA graph, without a GPU: what the graph would repeat is called again from the same memory."""

import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from test_train import Waits, make_parts

from vtlib import capture, device, objective, train
from vtlib.config import experiment
from vtlib.methods import METHODS

OURS = [m for m in METHODS if capture.can_capture(experiment("quick", m), "cuda")]


def steps_of(made, number):
    """A step of a new network, and so many batches of it: images, modality, labels, modality."""
    torch.manual_seed(0)
    p, k = made.identities_per_batch, made.images_per_identity
    net = train.make_net(made, 9).train()
    step = train.Step(made, make_parts(made, net, objective.make_losses(made, net)), "cpu")
    modality = torch.arange(2).repeat_interleave(p * k)
    batches = []
    for _ in range(number):
        labels = torch.randperm(9)[:p].repeat_interleave(k).repeat(2)
        batches.append((torch.randn(2 * p * k, 3, made.height, made.width), modality, labels, modality))
    return step, batches


@pytest.fixture
def copying(monkeypatch):
    """Every copy that would go to a GPU is a copy here too."""
    for room in ("losses.geometry", "losses.multi_constraint", "losses.dual_constraint", "model"):
        copy = partial(torch.ops.aten._to_copy.default, device="cpu")
        monkeypatch.setattr(sys.modules[f"vtlib.{room}"], "to_device_of", lambda x, features, copy=copy: copy(x))


@pytest.mark.parametrize("method", ["baseline", "dpan_cmdc", "parts_mc", "hc_tri", "margin_mmd", "cmdc_awl"])
def test_a_captured_step_trains_as_an_eager_one(method, copying):
    made = experiment("quick", method, precision="float32", lr=0.01)
    plain, batches = steps_of(made, 20)
    expected = torch.stack([plain(*batch) for batch in batches])
    step, batches = steps_of(made, 20)
    recorded = []
    captured = capture.CapturedStep(step, lambda call: recorded.append(call) or call)
    for group in step.optimizer.param_groups:
        group["lr"] *= 1.0
    found = torch.stack([captured(*batch) for batch in batches])
    assert len(recorded) == 1 and captured.warm == capture.WARM_UP
    # metric losses see the people in another order, so that sums round otherwise
    torch.testing.assert_close(found[:3], expected[:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, :-1], expected[:, :-1], rtol=0.05, atol=0.02)


def test_a_new_rate_or_form_is_captured_again_and_columns_run_without_the_graph(copying):
    made = experiment("quick", "baseline", precision="float32")
    step, batches = steps_of(made, 8)
    recorded = []
    captured = capture.CapturedStep(step, lambda call: recorded.append(call) or call)
    for batch in batches[:5]:
        captured(*batch)
    assert len(recorded) == 1
    step.optimizer.param_groups[0]["lr"] *= 0.1
    captured(*batches[5])
    assert len(recorded) == 2
    columns = {}
    captured(*batches[6], columns)
    assert columns and len(recorded) == 2
    captured(*batches[7])
    assert len(recorded) == 2


def test_a_copy_that_changes_from_step_to_step_is_refused():
    copy = torch.ops.aten._to_copy.default
    with capture.Copies("cpu", []) as first:
        copy(torch.ones(2), device="cpu")
    with capture.Copies("cpu", [], first.made) as same:
        assert copy(torch.ones(2), device="cpu") is first.made[0][1]
    assert len(same.made) == 1
    for values in ([torch.zeros(2)], [torch.ones(2), torch.ones(2)]):
        with capture.Copies("cpu", [], first.made), pytest.raises(RuntimeError, match="capture=false"):
            [copy(x, device="cpu") for x in values]


class NoCopies(Waits):
    """Fails where a tensor comes to the device at all, or a value is read: a graph can do neither."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        to = (kwargs or {}).get("device")
        if func is torch.ops.aten._to_copy.default and to is not None and torch.device(to).type == "meta":
            assert args[0].is_meta, "a copy to the device in a graph"
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("method", OURS)
def test_a_captured_step_copies_nothing_to_the_device(method, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())  # it does not know the meta device
    made = experiment("quick", method, precision="float32")
    p, k = made.identities_per_batch, made.images_per_identity
    net = train.make_net(made, 9).to("meta")
    step = train.Step(made, make_parts(made, net, objective.make_losses(made, net).to("meta")), "meta")
    seen = []

    def record(call):
        def repeat():
            with NoCopies():
                seen.append(call())
            return seen[-1]

        return repeat

    captured, modality = capture.CapturedStep(step, record), torch.arange(2).repeat_interleave(p * k)
    images = torch.zeros(2 * p * k, 3, made.height, made.width, device="meta")
    for _ in range(capture.WARM_UP + 2):
        labels = torch.randperm(9)[:p].repeat_interleave(k).repeat(2)
        captured(images, modality, labels, modality)
    assert len(seen) == 2


def test_only_one_process_on_a_gpu_with_our_losses_is_captured(monkeypatch):
    made = experiment("quick", "baseline", capture=True)
    assert train.path_of_step(made, "cpu") == "eager" and train.path_of_step(made, "cuda") == "captured"
    assert train.path_of_step(made.but(capture=False), "cuda") == "eager"
    assert train.path_of_step(made.but(compile=True), "cuda") == "compiled"
    theirs = made.but(losses={"id": {"weight": 1.0}, "pml:TripletMarginLoss": {"weight": 1.0}})
    assert train.path_of_step(theirs, "cuda") == "eager"
    monkeypatch.setattr(capture, "world", lambda: 2)
    assert train.path_of_step(made, "cuda") == "eager"
    assert made.run_id == experiment("quick", "baseline").run_id and device.pick("cpu") == "cpu"
