"""What a profile will take, before it takes it: data checked, runs counted, their time probed, room on the disk.

`state(profile)` says all of it and asks nothing. What it found is kept in results/<profile>/probe.json, by the listing
of a set and by the device: a second call opens no image again and probes only shapes that are new.
"""

import gc
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil
import torch

from .. import backbones, runs, synvt, train
from .. import device as devices
from ..common import data_root, results_root
from ..config import Experiment
from ..data import datasets
from ..data import images as im
from ..data.batches import Batches
from ..data.check import check as check_set
from ..data.check import problems
from ..device import environment
from ..files import digest, write_json
from ..suite import items
from . import graph, resources

PROBE = 60.0  # seconds that the probes of a plan take together; the commonest shape is measured in any case
# The fields that decide how long a step takes. The losses are not among them: they take milliseconds where a step of
# ResNet-50 takes seconds (README, Speed, on a CPU).
SHAPE = ("height", "width", "backbone", "attention", "attention_reduction", "pooling", "last_stride", "parts")
SHAPE += ("precision", "compile", "identities_per_batch", "images_per_identity")
DECIDES = (*SHAPE, "dataset", "data", "train_on", "validation_identities", "epochs", "steps_per_epoch")  # of a Work


class Work(NamedTuple):
    """What one run has to do and leaves behind."""

    steps: int
    images: int  # read in evaluation mode: the test images, and the validation images after each epoch
    kept: int  # bytes of its model and features
    passing: int  # bytes of its checkpoint, old and new


class Speed(NamedTuple):
    """Seconds of a step by shape, measured and scaled, and of one image in evaluation mode."""

    steps: dict[str, float]
    measured: int
    image: float


def state(profile: str, jobs: int = 0, wanted: list[Experiment] | None = None) -> list[str]:
    """Check the data of all runs that are missing, print how many they are and what time and disk they take.

    Args: jobs: runs at a time, 0: as many as the machine holds; wanted: by default what all tables and figures need.
    Returns: the layouts whose runs are finished or can be made; one whose set is not there is left out in a sentence.
    Raises: ValueError, a line for each fault, if a set is faulty, weights are not to be had or the disk is too small;
        FileNotFoundError if no set is there.
    """
    wanted = items.experiments(profile, items.ITEMS, absent=True) if wanted is None else wanted
    root = results_root() / profile
    missing = [e for e in wanted if not (root / "runs" / e.run_id / "metrics.json").is_file()]
    print(f"{profile}: {len(wanted)} runs, {len(wanted) - len(missing)} finished, {len(missing)} to make")
    names = dict.fromkeys((e.dataset, e.data) for e in missing)
    absent, faults = {}, []
    for layout, name in names:
        here = [e for e in missing if (e.dataset, e.data) == (layout, name)]
        try:
            place = runs.data_folder(name)
        except FileNotFoundError as error:
            absent[layout] = f"{len(here)} runs need {name}: {error}"
            continue
        found, said = check(layout, name, place, remembered := recall(root))
        faults += found
        if not found:
            keep(root, remembered)
            print(f"  {name}: {len(here)} runs to make; {said}")
    usable = [layout for layout in dict.fromkeys(e.dataset for e in wanted) if layout not in absent]
    if not usable:
        raise FileNotFoundError("\n".join(absent.values()))
    for sentence in absent.values():
        print(f"  left out: {sentence}")
    todo = [e for e in missing if e.dataset in usable]
    if faults := faults + weight_faults(todo):
        raise ValueError("\n".join(faults))
    if todo:
        jobs = jobs or resources.places(resources.peak_memory_of_finished(root))
        work = works(todo)
        print(f"disk: {disk(todo, work, max(1, jobs))}")
        busy = psutil.getloadavg()[0] > resources.cores() / 2  # threads that wait for each other: many times too much
        said = hours(todo, work, speed(root, todo, work), jobs)
        print(f"time: {said}{'; other programs keep this machine busy: rather less without them' * busy}")
    return usable


def check(layout: str, name: str, place: Path, remembered: dict) -> tuple[list[str], str]:
    """The faults of a set, a sentence each, and what is to be said of a sound one; an embedded set is sound.

    A set that passed is not opened again while its listing (names, sizes, times) is the one in `remembered`.
    """
    if name.split(",")[0] in synvt.PRESETS:
        return [], "drawn by the project itself"
    known, now = remembered.setdefault("checked", {}), listing(place)
    drawn = ", drawn by SynVT: it has the layout, but is NOT the real set" if datasets.is_drawn(place) else ""
    if known.get(name, {}).get("listing") != now:
        try:
            report = check_set(layout, place)
            faults = problems(report)
        except (ValueError, FileNotFoundError) as error:
            faults = [str(error)]
        if faults:
            repair = "take it from the set again (data/README.md), or move the folder away to run without it"
            return [f"{name} in {place}: {fault}; {repair}" for fault in faults], ""
        known[name] = {"listing": now, "found": report.found[report["item"] == "images on disk"].item()}
    return [], f"{known[name]['found']} images, every one opened, all counts as published{drawn}"


def listing(place: Path) -> str:
    """Digest of the names, sizes and times of all files below a folder, and of the code that checks them."""
    files = sorted(Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    facts = ((str(file.relative_to(place)), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)
    return digest([Path(datasets.__file__)], list(facts))


def recall(root: Path) -> dict:
    """What probe.json of a profile remembers; {} where there is none, or none that can be read."""
    return graph.remembered(root / "probe.json")


def keep(root: Path, remembered: dict) -> None:
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "probe.json", remembered)


def weight_faults(todo: list[Experiment]) -> list[str]:
    """Load the weights that runs start from, which downloads what torch's cache lacks: a sentence for each fault."""
    faults = []
    for backbone, weights in dict.fromkeys((e.backbone, e.weights) for e in todo if e.weights != "none"):
        try:
            backbones.load_backbone(backbone, weights)
        except (ValueError, RuntimeError, OSError) as error:
            faults.append(str(error))
    return faults


def works(todo: list[Experiment]) -> dict[str, Work]:
    """Work of each run, by run id, from the tables of its data: no image is opened.

    The ten splits of RegDB are of one size. Raises: ValueError if batches cannot be drawn from this data.
    """
    tables, known = {}, {}
    for e in todo:
        if (kind := fields_of(e, DECIDES)) not in known:
            if e.data not in tables:
                tables[e.data] = datasets.read(e.dataset, runs.data_folder(e.data), split=e.split)
            known[kind] = work_of(e, runs.split_for(e, tables[e.data]))
    return {e.run_id: known[fields_of(e, DECIDES)] for e in todo}


def fields_of(e: Experiment, names: tuple[str, ...]) -> str:
    return json.dumps({name: e.model_dump(mode="json")[name] for name in names})


def work_of(e: Experiment, table: pd.DataFrame) -> Work:
    """Work of one run on the table of its data, whose parts are those that the run wants."""
    rows = {name: table[table.split == name] for name in datasets.SPLITS}
    steps = train.make_sampler(e, rows["train"]).steps
    with torch.device("meta"):  # sizes alone: no weights are loaded
        net = train.make_net(e.but(weights="none"), rows["train"].pid.nunique())
    parameters = 4 * sum(p.numel() for p in net.parameters())  # bytes of float32
    whole = parameters + 4 * sum(b.numel() for b in net.buffers())
    line = 4 * net.dim + 5 * 8  # of features.safetensors: a feature and five whole numbers
    images = len(rows["test"]) + e.epochs * len(rows["val"])
    return Work(e.epochs * steps, images, whole + len(rows["test"]) * line, 2 * (whole + parameters))


def disk(todo: list[Experiment], work: dict[str, Work], jobs: int) -> str:
    """What results and decoded images will take, and what is free. Raises ValueError where it is not enough."""
    kept, passing = sum(work[e.run_id].kept for e in todo), max(work[e.run_id].passing for e in todo)
    stores = {}
    for e in todo:
        if (key := (e.data, e.height, e.width)) not in stores:
            root = runs.data_folder(e.data)
            table = datasets.read(e.dataset, root, split=e.split)
            made = im.store_files(table, root, e.height, e.width)[1].is_file()
            stores[key] = 0 if made else 3 * len(table) * e.height * e.width
    wants = {
        "results": (results_root(), kept + jobs * passing),
        "decoded images": (data_root(), sum(stores.values())),
    }
    said, on = [], {}
    for what, (place, size) in wants.items():
        there = next(p for p in (place, *place.parents) if p.exists())
        free, others = shutil.disk_usage(there).free, on.get(there.stat().st_dev, 0)
        said.append(f"{what} {gb(size)} in {place} ({gb(free)} free)")
        if (size := size + others) > free:
            raise ValueError(
                f"{gb(size)} are needed on the disk of {place}, {gb(free)} are free: clear some, or let VTLIB_RESULTS "
                "and VTLIB_DATA name folders on larger disks"
            )
        on[there.stat().st_dev] = size
    return "; ".join(said)


def gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def speed(root: Path, todo: list[Experiment], work: dict[str, Work]) -> Speed:
    """Time a few steps of each shape, the commonest first, until PROBE seconds are over; earlier measurements count.

    A shape that was not measured takes as long an image as the measured ones do on the whole, now and in later calls.
    """
    shapes = {}
    for e in todo:
        shapes.setdefault(fields_of(e, SHAPE), []).append(e)
    order = sorted(shapes, key=lambda shape: -sum(work[e.run_id].steps for e in shapes[shape]))
    remembered, facts = recall(root), environment(todo[0].device, todo[0].precision)
    origin = {k: facts[k] for k in ("device", "precision", "threads", "versions", "commit")}
    known = remembered.get("probe", {})
    if known.get("origin") != origin:
        known = {"origin": origin, "measured": facts["finished"], "steps": {}, "scaled": []}
    start = time.perf_counter()
    for n, shape in enumerate(order):
        if shape in known["steps"] or shape in known["scaled"]:
            continue
        if (left := PROBE - (time.perf_counter() - start)) <= 0 and known["steps"]:
            known["scaled"].append(shape)
            continue
        known["steps"][shape], image = probe(shapes[shape][0], left / (len(order) - n))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the runs are other processes
        known.setdefault("image", image)
    keep(root, remembered | {"probe": known})
    images = {shape: images_of(shapes[shape][0]) for shape in order}
    measured = [shape for shape in order if shape in known["steps"]]
    pace = sum(known["steps"][shape] for shape in measured) / sum(images[shape] for shape in measured)
    steps = {shape: known["steps"].get(shape, pace * images[shape]) for shape in order}
    return Speed(steps, len(measured), known["image"])


def images_of(e: Experiment) -> int:
    """Images of one step."""
    return 2 * e.identities_per_batch * e.images_per_identity


def probe(e: Experiment, budget: float) -> tuple[float, float]:
    """Seconds of a training step of a run, on its device and its data, and of an image in evaluation mode."""
    table, store = runs.load_data(e)
    rows, device = table[table.split == "train"], devices.pick(e.device)
    torch.backends.cudnn.benchmark = True  # as in training
    sampler, batches = train.make_sampler(e, rows), Batches(rows, store.pixels, device)
    parts = train.make_parts(e, rows.pid.nunique(), device)
    step, draws, indices = train.Step(e, parts, device), torch.Generator().manual_seed(0), sampler.epoch(0)
    index = next(indices)

    def one_step() -> torch.Tensor:
        return train.train_step(e, step, batches, next(indices, index), draws)

    parts["net"].train()
    training = timed(one_step, lambda out: out.tolist(), budget * 2 / 3)
    test = table[table.split == "test"].sample(images_of(e), replace=True, random_state=0)
    evaluation = timed(lambda: runs.features_of(parts["net"], test, store), lambda out: None, budget / 3, most=3)
    return training, evaluation / len(test)


def timed(call: Callable, wait: Callable, budget: float, most: int = 20, clock=time.perf_counter) -> float:
    """Seconds of a call once it is warm: the mean of as many, `most` at the most, as `budget` seconds have room for.

    Args: wait: called with the result, returns when the device has it: after each of two first calls, of which the
        second counts where there is no room for more, and then once after the last.
    """
    begun = clock()
    for _ in range(2):
        start = clock()
        wait(call())
        one = clock() - start
    if (count := min(most, int((budget - (clock() - begun)) / max(one, 1e-9)))) < 1:
        return one
    start = clock()
    for _ in range(count):
        out = call()
    wait(out)
    return (clock() - start) / count


def hours(todo: list[Experiment], work: dict[str, Work], speed: Speed, jobs: int) -> str:
    """Hours of training and of evaluation, on what device, and what the estimate rests on."""
    training = sum(work[e.run_id].steps * speed.steps[fields_of(e, SHAPE)] for e in todo)
    evaluation = sum(work[e.run_id].images * speed.image for e in todo)
    device, threads, cores = (
        environment(todo[0].device, todo[0].precision)["device"],
        torch.get_num_threads(),
        resources.cores(),
    )
    beside = f"{jobs} runs at a time" if jobs else "as many runs at a time as the first one shows to fit"
    if device.startswith("cuda"):
        text = f"about {hms(training + evaluation)} of {device}, one run after the other; {beside} share it"
    else:  # the cores that the probe left idle work too
        training, evaluation = (seconds * threads / cores for seconds in (training, evaluation))
        text = f"about {hms(training + evaluation)} of all {cores} cores ({device}), {beside}"
    steps, kinds = sum(work[e.run_id].steps for e in todo), len(speed.steps)
    scaled = ", the rest scaled by images a step" if speed.measured < kinds else ""
    return (
        f"{text}: training {hms(training)} ({steps:,} steps, {speed.measured} of {kinds} kinds measured{scaled}), "
        f"reading test images {hms(evaluation)}"
    )


def hms(seconds: float) -> str:
    """Seconds in the unit that a reader plans with."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
