"""How many runs fit on a machine, and how much of it they used."""

import json

import pytest
import torch

from vtlib.batch import resources


@pytest.fixture
def box(monkeypatch):
    """A machine of 16 cores and 32 GB."""
    monkeypatch.setattr(resources, "cores", lambda: 16)
    monkeypatch.setattr(resources, "free_memory", lambda: 32.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_one_run_a_core_and_never_more_than_memory_holds(box):
    assert resources.places({}) == 14  # 2 GB each until one run has told how much it takes
    assert resources.places({"host": 1.0}) == 16
    assert resources.places({"host": 9.0}) == 3
    assert resources.places({"host": 100.0}) == 1  # it may fit all the same: one is tried


def test_on_a_gpu_the_first_run_tells_how_many_fit(box, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (80e9, 80e9))
    assert resources.places({"host": 1.0}) == resources.UNKNOWN
    assert resources.places({"host": 1.0, "device": 12.0}) == 6
    assert resources.places({"host": 9.0, "device": 12.0}) == 3


def test_free_memory_heeds_the_limit_of_the_control_group(monkeypatch, tmp_path):
    whole = resources.free_memory()
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    monkeypatch.setattr(resources, "Path", lambda name: tmp_path)
    assert resources.free_memory() == pytest.approx(2.0)
    (tmp_path / "memory.max").write_text("max\n")
    assert resources.free_memory() == pytest.approx(whole, rel=0.5)


def test_the_peak_is_the_most_of_all_finished_runs(tmp_path):
    assert resources.peak_memory_of_finished(tmp_path) == {}
    for name, peak in {"a": {"host": 1.5}, "b": {"host": 1.0, "device": 3.0}, "old": None}.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        text = json.dumps({"peak_memory": peak} if peak else {})
        (tmp_path / "runs" / name / "metrics.json").write_text(text)
    assert resources.peak_memory_of_finished(tmp_path) == {"host": 1.5, "device": 3.0}


def test_use_is_of_child_processes_and_of_the_gpu_that_nvidia_smi_sees(monkeypatch, tmp_path):
    import subprocess
    import sys

    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 70\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with resources.watched(every=0.05) as used:
        subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert 0 < used.share <= 1.05 and used.seconds > 0 and set(used.busy) == {70}
    assert "GPU busy 70 % of the time" in str(used) and f"of {resources.cores()} cores" in str(used)
