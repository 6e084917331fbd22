"""Two processes equal one: losses, gradients, BN; a killed process stops the others, and the run goes on."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
import torch.multiprocessing as mp

from tests.speed.operators import for_view
from vtlib import config, device, model, objective, parallel, train
from vtlib.config import experiment
from vtlib.device import pick, world
from vtlib.runs import Run
from vtlib.systems import LOSSES

P, K = 4, 3
# each: every loss of both papers at once, on the pooled feature and on part heads
ALONE = {
    n for n in LOSSES if not config.asked(LOSSES[n], needed=True) and n != "graph_attention"
}  # which drops at random
EVERY = {n: {"weight": 1.0} for n in LOSSES if n in ALONE} | {
    "pml:ProxyAnchorLoss": {"weight": 1.0, "cross_modality": False}
}
CASES = {
    "pooled": experiment("quick", "dpan", losses=EVERY, identities_per_batch=P, images_per_identity=K),
    "parts": experiment("quick", "parts_mc", losses=EVERY, identities_per_batch=P, images_per_identity=K),
}
NO_DROPOUT = {
    "ddag": {"losses.graph_attention.dropout": 0.0},
    "deen": {"modules.diverse_expansion.dropout": 0.0},
}
OF_SYSTEMS = {
    name: experiment("quick", name, identities_per_batch=P, images_per_identity=K, **NO_DROPOUT.get(name, {}))
    for name in ("agw", "caj", "ddag", "xiv", "hat", "mace", "msr", "cmsp", "dfe", "cml", "hsme", "deen")
}


def batch(made):
    g = torch.Generator().manual_seed(0)
    labels, modality = torch.arange(P).repeat_interleave(K).repeat(2), torch.arange(2).repeat_interleave(P * K)
    images = torch.randn(len(labels), 3, made.height, made.width, generator=g, dtype=torch.float64)
    return images, labels, modality


def one_step(made, sync_bn=True):
    """Losses and gradients of a step, and the network's state after it, in this process or as one of several."""
    made = made.but(precision="float32", sync_bn=sync_bn)
    net = train.make_net(made, P).double()
    for module in net.modules():  # attention would be the identity
        if hasattr(module, "alpha"):
            torch.nn.init.constant_(module.alpha, 0.5)
    losses = objective.make_losses(made, net).double()
    parts = {"net": net, "losses": losses, "optimizer": train.make_optimizer(made, net, losses)}
    if view := train.make_view(made):
        parts["view"] = view.double()
    step = train.Step(made, parts, "cpu")
    images, labels, modality = batch(made)
    own, everyone = parallel.rows_of_process(len(labels), P)
    net.train()
    extra = for_view(view, images, labels, modality)
    if extra:
        labels_of, numbers, second = extra
        extra = labels_of[own], numbers[own], None if second is None else second[own[: len(own) // 2]]
    terms = step(images[own], modality[own], labels[everyone], modality[everyone], extra=extra)
    learned = [net, losses, *([view] if view else [])]
    grads = {n: p.grad for part in learned for n, p in part.named_parameters() if p.grad is not None}
    return terms, grads, net.state_dict()


def worker(rank, port, cases, folder):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with parallel.joined("cpu"):
        found = {(name, sync): one_step(made, sync) for name, made in cases.items() for sync in (True, False)}
        found |= {(name, True): one_step(made) for name, made in OF_SYSTEMS.items()}
        assert parallel.from_first(lambda: rank) == 0
        order = []
        parallel.first_then_others(lambda: order.append(time.monotonic()))
        assert len(order) == 1
        torch.save(found, folder / f"{rank}.pt")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two gloo processes found."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(worker, (free_port(), CASES, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def close(got, wanted, name=""):
    scale = max(1.0, wanted.abs().max().item())
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-8 * scale, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("case", [*CASES, *OF_SYSTEMS])
def test_two_processes_have_losses_and_gradients_of_one_with_the_same_batch(two, case):
    terms, grads, state = one_step((CASES | OF_SYSTEMS)[case])
    assert len(grads) > 30 and (terms[:-1] > 0).sum() >= (9 if case in CASES else 2)
    for found in two:
        close(found[case, True][0], terms, "losses")
        assert found[case, True][1].keys() == grads.keys()
        for name, grad in grads.items():
            close(found[case, True][1][name], grad, name)
        for name, value in state.items():
            close(found[case, True][2][name].double(), value.double(), name)
    a, b = (found[case, True][2] for found in two)
    assert all(torch.equal(a[name], b[name]) for name in a if "running" not in name)


@pytest.mark.parametrize("case", CASES)
def test_without_sync_bn_each_process_normalises_by_its_own_rows(two, case, monkeypatch):
    made, rows = CASES[case], []

    def in_halves(net, device, sync_bn):
        def forward(images, modality):
            outs = [net(images[i], modality[i]) for i in rows]
            heads = [tuple(None if x[0] is None else torch.cat(x) for x in zip(*f, strict=True))
                     for f in ([o.pooled for o in outs], [o.local for o in outs])]  # fmt: skip
            return model.Output(*heads, torch.cat([o.features for o in outs]), torch.cat([o.logits for o in outs]))

        return forward

    each = np.arange(2 * P * K).reshape(2, P, K)
    rows[:] = [each[:, i::2].ravel() for i in (0, 1)]
    monkeypatch.setattr(parallel, "wrap", in_halves)
    monkeypatch.setattr(parallel, "rows_of_process", lambda n, p: (np.arange(n), np.concatenate(rows)))
    terms, grads, _ = one_step(made, sync_bn=False)
    for found in two:
        close(found[case, False][0], terms, "losses")
        for name, grad in grads.items():
            close(found[case, False][1][name], grad, name)
    assert (two[0][case, False][0] - two[0][case, True][0]).abs().max() > 1e-3  # the two ways differ


def test_alone_everything_is_the_identity():
    own, everyone = parallel.rows_of_process(12, 3)
    assert own.tolist() == everyone.tolist() == list(range(12))
    net = torch.nn.BatchNorm1d(3)
    assert parallel.wrap(net, "cpu", True) is net and type(net) is torch.nn.BatchNorm1d
    assert parallel.from_first(lambda: 3) == parallel.first_then_others(lambda: 3) == 3
    with parallel.joined():
        assert world() == 1


def test_identities_that_cannot_be_dealt_are_named(monkeypatch):
    monkeypatch.setattr(parallel, "world", lambda: 3)
    monkeypatch.setattr(device, "world", lambda: 3)
    with pytest.raises(ValueError, match="identities_per_batch=4 cannot be dealt to 3 processes"):
        parallel.rows_of_process(16, 4)
    with pytest.raises(ValueError, match="device=cuda:1: of several processes"):
        pick("cuda:1")


def test_more_processes_than_gpus_are_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU, there are 2"), parallel.joined():
        pass


def test_srun_gives_what_torchrun_gives(monkeypatch, tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'node7\\nnode8\\n'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert parallel.started_by_srun() == {}
    for name, value in {
        "STEP_ID": "0", "NTASKS": "2", "PROCID": "1", "JOB_ID": "42", "STEP_NODELIST": "node[7-8]"
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = parallel.started_by_srun()
    assert (found["RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("1", "2", "node7")
    assert 1024 < int(found["MASTER_PORT"]) < 65536


def test_a_killed_process_stops_the_others_and_the_run_goes_on(home, tmp_path):
    made = experiment("quick", "cmdc", epochs=8, device="cpu")
    environment = os.environ | {"VTLIB_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vtlib.launch"]
    call += ["train", "profile=quick", "method=cmdc", "epochs=8", "device=cpu"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    folder = tmp_path / "quick" / "runs" / made.run_id
    process, deadline = subprocess.Popen(call, **pipe), time.monotonic() + 300
    while not (folder / "checkpoint.pt").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [p for p in psutil.Process(process.pid).children() if "vtlib.launch" in p.cmdline()]
    victim = next(p for p in workers if p.environ()["RANK"] == "1")
    victim.send_signal(signal.SIGKILL)
    error = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and "process 0 of 2 stops: another one has ended" in error
    assert "Signal 9 (SIGKILL)" in error  # torchrun's own report names the process that ended
    assert not (folder / "metrics.json").exists() and (folder / "checkpoint.pt").is_file()
    done = len((folder / "history.jsonl").read_text().splitlines())
    assert 1 <= done < 8, "the kill came too late to test anything"
    again = subprocess.run(call, **pipe, timeout=300)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("cmdc on synvt_sysu_quick") == 1  # one process speaks
    run = Run(made, folder)
    assert run.history.epoch.tolist() == list(range(1, 9)) and run.metrics["processes"] == 2


def test_batch_normalisation_of_torch_over_gpus_has_what_it_needs():
    net = parallel.synchronised(train.make_net(experiment("quick", "baseline"), 5))
    norms = [m for m in net.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    assert norms and all(m.num_batches_tracked == 0 for m in norms)
    assert not [m for m in net.modules() if type(m) in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)]
