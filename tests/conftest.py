"""Shared pieces: results and data in a folder of the test session, the quick sets made once, one thread."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


# folders and files, less test_, whose tests train, start processes or draw whole sets: the gate leaves them out
SLOW = {"batch", "data", "synvt", "speed", "notebooks", "launch", "parallel", "real", "runs", "parts", "pretrain"}
SLOW |= {"train", "capture", "inference", "tuning", "cues", "exchange", "report", "crate"}


def pytest_collection_modifyitems(items):
    for item in items:
        if "home" in item.fixturenames or SLOW & {item.path.parent.name, item.path.stem.removeprefix("test_")}:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with data/ and results/ that VTLIB_DATA and VTLIB_RESULTS point to, the quick SynVT sets inside."""
    from vtlib import synvt

    folder = tmp_path_factory.mktemp("home")
    old = {k: os.environ.get(k) for k in ("VTLIB_DATA", "VTLIB_RESULTS")}
    os.environ |= {"VTLIB_DATA": str(folder / "data"), "VTLIB_RESULTS": str(folder / "results")}
    for name in ("synvt_sysu_quick", "synvt_regdb_quick"):
        synvt.make(synvt.PRESETS[name], folder / "data" / name, workers=1, progress=False)
    yield folder
    for key, value in old.items():
        os.environ.pop(key, None) if value is None else os.environ.update({key: value})


@pytest.fixture
def shared():
    """The folder of reference data beside the project; the test is skipped where it is not."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED.name}/ with reference data is not beside the project")
    return SHARED


torch.set_num_threads(1)  # threads that wait for each other crawl where a machine is shared
