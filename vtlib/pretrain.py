"""Starts: the weights `weights=synvt`, a ResNet pre-trained on SynVT people who are in no other set.

The papers start from ImageNet. A replacement must teach a network to see, but not to match the two modalities, which
the losses under test have to do. So every person here has images of one modality only (Spec.apart). The network learns
to tell people apart in visible images, colours included, and in thermal ones, but never sees a pair of both. Both
streams of a network start from the same weights.
"""

import json
from pathlib import Path

import pandas as pd
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import device, runs, train
from .common import results_root
from .config import NOT_HASHED, Experiment, experiment
from .data import datasets
from .data import images as im
from .files import read_json_lines, whole
from .model import TwoStreamNet

_RECIPE = {"specific_stages": 0, "weights": "none", "attention": False, "backbone_lr_factor": 1.0, "erase": 0.5}
_RECIPE |= {"identities_per_batch": 32, "images_per_identity": 4, "lr": 0.1}
_RECIPE |= {"epochs": 20, "warmup_epochs": 2, "milestones": (12, 17)}
STARTS = {  # backbone -> the experiment that trains it: identity loss and batch-hard triplet, one stream for all images
    "thin": experiment("cpu", "baseline", data="synvt_start", steps_per_epoch=200, **_RECIPE),
    "resnet50": experiment(
        "gpu", "baseline", data="synvt_start_full", steps_per_epoch=100, height=192, width=96, **_RECIPE
    ),
}
_NAMES = {"shared.0": "conv1", "shared.1": "bn1"} | {f"shared.{i}": f"layer{i - 3}" for i in range(4, 8)}


def people(e: Experiment) -> tuple[pd.DataFrame, im.Store]:
    """Table and images of a start's data; the test identity trains too.

    A batch needs images of two modalities of each person, and here a person has one. So column `modality` is the number
    of the image modulo 2, and both halves of a person are of one kind of camera.
    """
    root = runs.data_folder(e.data)
    table = datasets.read("sysu", root)
    store = im.store(table, root, e.height, e.width)
    return table.assign(modality=table.number % 2, split=table.split.replace("test", "train")), store


def make(backbone: str, target: Path, e: Experiment | None = None) -> Path:
    """Train a start and write it as safetensors to `target`; after a stop, call again to go on from the last epoch.

    The metadata of the file says how it was made: experiment, data digest, history, versions, device, commit.
    Args: backbone: one of STARTS; target: the file; e: another experiment than that of STARTS.
    """
    e = e or STARTS[backbone]
    folder = results_root() / e.profile / "weights" / e.run_id
    folder.mkdir(parents=True, exist_ok=True)
    table, store = people(e)
    net = train.fit(e, table, store.pixels, folder, origin=origin(e, store))
    history = read_json_lines(folder / "history.jsonl", f"delete {folder} and call this again")
    record = {"experiment": e.model_dump(mode="json"), "data_digest": store.digest, "history": history}
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {k: json.dumps(v) for k, v in (record | device.environment(e.device, e.precision)).items()}
    with whole(target) as part:
        save_file(as_resnet(net), part, metadata=metadata)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return target


def origin(e: Experiment, store: im.Store) -> str:
    """The data and the fields that a checkpoint belongs to, as text."""
    return store.digest + e.model_dump_json(exclude=NOT_HASHED)


def as_resnet(net: TwoStreamNet) -> dict[str, Tensor]:
    """The weights of a one-stream network under the names of torchvision's ResNet, on the CPU."""
    state = {}
    for name, value in net.state_dict().items():
        for own, theirs in _NAMES.items():
            if name.startswith(own + "."):
                state[theirs + name.removeprefix(own)] = value.detach().cpu().contiguous()
    return state


def describe(file: Path) -> str:
    """How a start was made, in one line, from the metadata of its file.

    Raises: FileNotFoundError; ValueError where the file is broken or has no such metadata.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not made yet: python -m vtlib.launch weights make NAME")
    try:
        with safe_open(file, "np") as opened:
            record = {k: json.loads(v) for k, v in (opened.metadata() or {}).items()}
    except Exception as error:  # safetensors raises a kind of its own
        raise ValueError(f"{file} is no .safetensors file, or came broken ({error})") from error
    if not {"experiment", "history", "data_digest"} <= set(record):
        raise ValueError(f"{file} does not say how it was made: vtlib's `weights make` did not write it")
    e, last = record["experiment"], record["history"][-1]
    result = f"finds held-out people of its own modality at rank 1 in {100 * last['val_rank1']:.1f} %"
    how = f"{e['backbone']}, {last['epoch']} epochs on {e['data']} ({record['data_digest'][:12]}), seed {e['seed']}"
    return f"{how}; {result}; {record['device']}, commit {record['commit'] or 'unknown'}, {record['finished']}"
