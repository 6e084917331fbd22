"""The start of the embedded profiles: a ResNet pre-trained on SynVT people whom no other set shows.

The papers start from ImageNet. A stand-in must teach seeing and not give the answer: here every person is seen by one
modality alone (Spec.apart). So the network learns to tell people apart by visible images, colours included, and by
thermal ones, and never meets a pair across modalities: to match them is left to the losses under test. Both streams
start alike from it.
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


def people(wanted: Experiment) -> tuple[pd.DataFrame, im.Store]:
    """Table and images of a start's data. Its test identity trains too; `modality` is odd or even image number.

    What a batch needs two of is thereby images of one person, taken by one kind of camera.
    """
    root = runs.data_folder(wanted.data)
    table = datasets.read("sysu", root)
    store = im.store(table, root, wanted.height, wanted.width)
    return table.assign(modality=table.number % 2, split=table.split.replace("test", "train")), store


def make(backbone: str, target: Path, wanted: Experiment | None = None) -> Path:
    """Train a start and write it as safetensors; a call that was stopped goes on from its last epoch.

    Its metadata says how it was made: experiment, data digest, history, versions, device, commit.
    """
    wanted = wanted or STARTS[backbone]
    folder = results_root() / wanted.profile / "weights" / wanted.run_id
    folder.mkdir(parents=True, exist_ok=True)
    table, store = people(wanted)
    net = train.fit(wanted, table, store.pixels, folder, origin=origin(wanted, store))
    history = read_json_lines(folder / "history.jsonl", f"delete {folder} and call this again")
    about = {"experiment": wanted.model_dump(mode="json"), "data_digest": store.digest, "history": history}
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {k: json.dumps(v) for k, v in (about | device.environment(wanted.device, wanted.precision)).items()}
    with whole(target) as part:
        save_file(as_resnet(net), part, metadata=metadata)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return target


def origin(wanted: Experiment, store: im.Store) -> str:
    """What a checkpoint belongs to."""
    return store.digest + wanted.model_dump_json(exclude=NOT_HASHED)


def as_resnet(net: TwoStreamNet) -> dict[str, Tensor]:
    """The state of a one-stream network under the names of torchvision's ResNet."""
    state = {}
    for name, value in net.state_dict().items():
        for own, theirs in _NAMES.items():
            if name.startswith(own + "."):
                state[theirs + name.removeprefix(own)] = value.detach().cpu().contiguous()
    return state


def describe(file: Path) -> str:
    """How a start was made, one line, from the metadata of its file. Raises: ValueError where there is none."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not made yet: python -m vtlib.launch weights make NAME")
    try:
        with safe_open(file, "np") as opened:
            about = {k: json.loads(v) for k, v in (opened.metadata() or {}).items()}
    except Exception as error:  # the library raises a kind of its own
        raise ValueError(f"{file} is no .safetensors file, or came broken ({error})") from error
    if not {"experiment", "history", "data_digest"} <= set(about):
        raise ValueError(f"{file} does not say how it was made: vtlib's `weights make` did not write it")
    e, last = about["experiment"], about["history"][-1]
    found = f"finds held-out people of its own modality at rank 1 in {100 * last['val_rank1']:.1f} %"
    how = f"{e['backbone']}, {last['epoch']} epochs on {e['data']} ({about['data_digest'][:12]}), seed {e['seed']}"
    return f"{how}; {found}; {about['device']}, commit {about['commit'] or 'unknown'}, {about['finished']}"
