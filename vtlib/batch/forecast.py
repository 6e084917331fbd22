"""What a profile will take, before it starts: check its data, count its runs, estimate their time and disk space.

state(profile) prints all of it. Results of checks and timings are remembered in results/<profile>/probe.json, so that a
second call opens no image again and times only what is new; a changed file or another device makes them void.
The time of a step depends on its *shape*: sizes of images, network and batch (SHAPE). One run of each shape is timed.
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

PROBE = 60.0  # seconds for all timings together; the commonest shape is timed in any case
# The fields that decide how long a step takes. The losses are not among them: they take milliseconds where a step of
# ResNet-50 takes seconds on a CPU (tests/speed/README.md).
SHAPE = ("height", "width", "backbone", "attention", "attention_reduction", "pooling", "last_stride", "parts")
SHAPE += ("precision", "compile", "identities_per_batch", "images_per_identity")
DECIDES = (
    *SHAPE,
    "dataset",
    "data",
    "train_on",
    "validation_identities",
    "epochs",
    "steps_per_epoch",
)  # the Work of a run


class Work(NamedTuple):
    """What one run has to do, and what it leaves on the disk."""

    steps: int  # of training
    images: int  # read in evaluation mode: the test images, and the validation images after each epoch
    kept: int  # bytes of its model and features
    passing: int  # bytes of its checkpoint while it trains: the old file and the new one beside it


class Speed(NamedTuple):
    """How fast the runs are on this machine."""

    steps: dict[str, float]  # seconds of a step by shape (fields_of), measured or scaled
    measured: int  # how many of them are measured
    image: float  # seconds of one image in evaluation mode


def state(profile: str, jobs: int = 0, wanted: list[Experiment] | None = None) -> list[str]:
    """Check the data of all runs that are missing, and print how many they are and what time and disk they take.

    Args: profile; jobs: runs at a time, 0: as many as the machine holds; wanted: experiments, by default those of all
        tables and figures.
    Returns: the layouts whose runs are finished or can be made; one whose set is absent is left out, with a line.
    Raises: ValueError, a line for each fault, if a set is faulty, weights cannot be had or the disk is too small;
        FileNotFoundError if no set is there.
    """
    wanted = items.experiments(profile, items.ITEMS, absent=True) if wanted is None else wanted
    root = results_root() / profile
    missing = [e for e in wanted if not (root / "runs" / e.run_id / "metrics.json").is_file()]
    print(f"{profile}: {len(wanted)} runs, {len(wanted) - len(missing)} finished, {len(missing)} to make")
    sets = dict.fromkeys((e.dataset, e.data) for e in missing)
    absent, faults = {}, []
    for layout, name in sets:
        count = sum((e.dataset, e.data) == (layout, name) for e in missing)
        try:
            place = runs.data_folder(name)
        except FileNotFoundError as error:
            absent[layout] = f"{count} runs need {name}: {error}"
            continue
        faults_of_set, sentence = check(layout, name, place, remembered := recall(root))
        faults += faults_of_set
        if not faults_of_set:
            keep(root, remembered)
            print(f"  {name}: {count} runs to make; {sentence}")
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
        # on a busy machine threads wait for each other, and the timing comes out too long, sometimes many times
        busy = psutil.getloadavg()[0] > resources.cores() / 2
        measured = speed(root, todo, work)
        keep(root, recall(root) | {"runs": seconds_of_runs(todo, work, measured)})
        sentence = hours(todo, work, measured, jobs)
        print(f"time: {sentence}{'; other programs keep this machine busy: rather less without them' * busy}")
    return usable


def check(layout: str, name: str, place: Path, remembered: dict) -> tuple[list[str], str]:
    """Check one data set, unless it passed before and its listing() has not changed since.

    Args: layout: sysu, regdb or folder; name: of the set; place: its folder; remembered: of recall(), is added to.
    Returns: its faults, a sentence each, and a sentence on a set without faults. A set drawn by the project has none.
    """
    if name.split(",")[0] in synvt.PRESETS:
        return [], "drawn by the project itself"
    checked, now = remembered.setdefault("checked", {}), listing(place)
    drawn = ", drawn by SynVT: it has the layout, but is NOT the real set" if datasets.is_drawn(place) else ""
    if checked.get(name, {}).get("listing") != now:
        try:
            report = check_set(layout, place)
            faults = problems(report)
        except (ValueError, FileNotFoundError) as error:
            faults = [str(error)]
        if faults:
            repair = "take it from the set again (data/README.md), or move the folder away to run without it"
            return [f"{name} in {place}: {fault}; {repair}" for fault in faults], ""
        checked[name] = {"listing": now, "found": report.found[report["item"] == "images on disk"].item()}
    return [], f"{checked[name]['found']} images, every one opened, all counts as published{drawn}"


def listing(place: Path) -> str:
    """Digest of the names, sizes and times of all files below a folder, and of the code that checks them."""
    files = sorted(Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    facts = ((str(file.relative_to(place)), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)
    return digest([Path(datasets.__file__)], list(facts))


def recall(root: Path) -> dict:
    """The content of a profile's probe.json; {} where there is none, or none that can be read."""
    return graph.remembered(root / "probe.json")


def keep(root: Path, remembered: dict) -> None:
    """Write probe.json of the profile whose results folder is `root`."""
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "probe.json", remembered)


def weight_faults(todo: list[Experiment]) -> list[str]:
    """Load the weights that runs start from, which downloads what torch's cache lacks. Returns: a sentence a fault."""
    faults = []
    for backbone, weights in dict.fromkeys((e.backbone, e.weights) for e in todo if e.weights != "none"):
        try:
            backbones.load_backbone(backbone, weights)
        except (ValueError, RuntimeError, OSError) as error:
            faults.append(str(error))
    return faults


def works(todo: list[Experiment]) -> dict[str, Work]:
    """Work of each run, by run id, from the table of its data: no image is opened.

    The split of RegDB is not asked for, because all ten are of one size.
    Raises: ValueError if batches cannot be drawn from this data.
    """
    tables, work = {}, {}  # by data set; by the fields that decide it
    for e in todo:
        if (kind := fields_of(e, DECIDES)) not in work:
            if e.data not in tables:
                tables[e.data] = datasets.read(e.dataset, runs.data_folder(e.data), split=e.split)
            work[kind] = work_of(e, runs.split_for(e, tables[e.data]))
    return {e.run_id: work[fields_of(e, DECIDES)] for e in todo}


def fields_of(e: Experiment, names: tuple[str, ...]) -> str:
    """Some fields of an experiment as JSON text, so that they can be a key."""
    return json.dumps({name: e.model_dump(mode="json")[name] for name in names})


def work_of(e: Experiment, table: pd.DataFrame) -> Work:
    """Work of one run. table: of its data, split into train, val and test as the run does (runs.split_for)."""
    rows = {name: table[table.split == name] for name in datasets.SPLITS}
    steps = train.make_sampler(e, rows["train"]).steps
    with torch.device("meta"):  # tensors with sizes but no content
        net = train.make_net(e.but(weights="none"), rows["train"].pid.nunique())
    parameters = 4 * sum(p.numel() for p in net.parameters())  # bytes of float32
    model = parameters + 4 * sum(b.numel() for b in net.buffers())
    line = 4 * net.dim + 5 * 8  # bytes of an image in features.safetensors: a feature and five whole numbers
    images = len(rows["test"]) + e.epochs * len(rows["val"])
    # a checkpoint has the model and the optimizer's momentum, one number for each parameter
    return Work(e.epochs * steps, images, model + len(rows["test"]) * line, 2 * (model + parameters))


def disk(todo: list[Experiment], work: dict[str, Work], jobs: int) -> str:
    """A sentence on the disk space that results and decoded images will take, and what is free.

    Args: todo: runs to make; work: of works(); jobs: runs at a time. Raises: ValueError where the space is not enough.
    """
    kept, passing = sum(work[e.run_id].kept for e in todo), max(work[e.run_id].passing for e in todo)
    stores = {}  # bytes of decoded images that are not there yet, by set and size
    for e in todo:
        if (key := (e.data, e.height, e.width)) not in stores:
            root = runs.data_folder(e.data)
            table = datasets.read(e.dataset, root, split=e.split)
            exists = im.store_files(table, root, e.height, e.width)[1].is_file()
            stores[key] = 0 if exists else 3 * len(table) * e.height * e.width
    sizes = {
        "results": (results_root(), kept + jobs * passing),
        "decoded images": (data_root(), sum(stores.values())),
    }
    texts, on_device = [], {}  # both may lie on one disk: their sizes are then added up
    for what, (place, size) in sizes.items():
        folder = next(p for p in (place, *place.parents) if p.exists())
        free, others = shutil.disk_usage(folder).free, on_device.get(folder.stat().st_dev, 0)
        texts.append(f"{what} {gb(size)} in {place} ({gb(free)} free)")
        if (size := size + others) > free:
            raise ValueError(
                f"{gb(size)} are needed on the disk of {place}, {gb(free)} are free: clear some, or let VTLIB_RESULTS "
                "and VTLIB_DATA name folders on larger disks"
            )
        on_device[folder.stat().st_dev] = size
    return "; ".join(texts)


def gb(size: float) -> str:
    """Bytes as text, in GB."""
    return f"{size / 1e9:.1f} GB"


def speed(root: Path, todo: list[Experiment], work: dict[str, Work]) -> Speed:
    """Time some steps of each shape, the commonest first, until PROBE seconds are over.

    Timings of earlier calls on the same device, precision, threads, versions and commit count. A shape that was not
    timed is taken to need as much time for an image as the timed ones do together, in this call and in later ones.
    Args: root: the profile's results folder; todo: runs to make; work: of works().
    """
    shapes = {}
    for e in todo:
        shapes.setdefault(fields_of(e, SHAPE), []).append(e)
    order = sorted(shapes, key=lambda shape: -sum(work[e.run_id].steps for e in shapes[shape]))
    remembered, facts = recall(root), environment(todo[0].device, todo[0].precision)
    origin = {k: facts[k] for k in ("device", "precision", "threads", "versions", "commit")}
    timings = remembered.get("probe", {})
    if timings.get("origin") != origin:
        timings = {"origin": origin, "measured": facts["finished"], "steps": {}, "scaled": []}
    start = time.perf_counter()
    for n, shape in enumerate(order):
        if shape in timings["steps"] or shape in timings["scaled"]:
            continue
        if (left := PROBE - (time.perf_counter() - start)) <= 0 and timings["steps"]:
            timings["scaled"].append(shape)
            continue
        timings["steps"][shape], image = probe(shapes[shape][0], left / (len(order) - n))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # frees the GPU's memory for the runs, which are other processes
        timings.setdefault("image", image)
    keep(root, remembered | {"probe": timings})
    images = {shape: images_of(shapes[shape][0]) for shape in order}
    measured = [shape for shape in order if shape in timings["steps"]]
    seconds_per_image = sum(timings["steps"][shape] for shape in measured) / sum(images[shape] for shape in measured)
    steps = {shape: timings["steps"].get(shape, seconds_per_image * images[shape]) for shape in order}
    return Speed(steps, len(measured), timings["image"])


def images_of(e: Experiment) -> int:
    """Number of images in one training step."""
    return 2 * e.identities_per_batch * e.images_per_identity


def probe(e: Experiment, budget: float) -> tuple[float, float]:
    """Seconds of a training step of a run, and of one image in evaluation mode, on its device and with its data.

    Args: e: the run's experiment; budget: seconds that both timings may take together.
    """
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
    """Seconds of one call: the mean over as many calls, at most `most`, as fit into `budget` seconds.

    Two calls come first and are not in the mean, because first calls are slow; where no more fit, the second counts.
    Args: call: what to time; wait: called with its result, returns when the device has computed it: after each of the
        first two calls, and then once after the last; budget: seconds; most: calls; clock: seconds, for tests.
    """
    begin = clock()
    for _ in range(2):
        start = clock()
        wait(call())
        second = clock() - start
    if (count := min(most, int((budget - (clock() - begin)) / max(second, 1e-9)))) < 1:
        return second
    start = clock()
    for _ in range(count):
        out = call()
    wait(out)
    return (clock() - start) / count


def hours(todo: list[Experiment], work: dict[str, Work], speed: Speed, jobs: int) -> str:
    """A sentence on the time of training and of evaluation, on which device, and what the estimate rests on.

    Args: todo: runs to make; work: of works(); speed: of speed(); jobs: runs at a time, 0 where it is not known yet.
    """
    training = sum(work[e.run_id].steps * speed.steps[fields_of(e, SHAPE)] for e in todo)
    evaluation = sum(work[e.run_id].images * speed.image for e in todo)
    device = environment(todo[0].device, todo[0].precision)["device"]
    threads, cores = torch.get_num_threads(), resources.cores()
    beside = f"{jobs} runs at a time" if jobs else "as many runs at a time as the first one shows to fit"
    if device.startswith("cuda"):
        text = f"about {hms(training + evaluation)} of {device}, one run after the other; {beside} share it"
    else:  # the runs use all cores, the timing used only `threads` of them
        training, evaluation = (seconds * threads / cores for seconds in (training, evaluation))
        text = f"about {hms(training + evaluation)} of all {cores} cores ({device}), {beside}"
    steps, kinds = sum(work[e.run_id].steps for e in todo), len(speed.steps)
    scaled = ", the rest scaled by images a step" if speed.measured < kinds else ""
    return (
        f"{text}: training {hms(training)} ({steps:,} steps, {speed.measured} of {kinds} kinds measured{scaled}), "
        f"reading test images {hms(evaluation)}"
    )


def seconds_of_runs(todo: list[Experiment], work: dict[str, Work], speed: Speed) -> dict[str, float]:
    """Seconds by which each run makes the whole longer, by run id; hours() says their sum. Args: as hours()."""
    on_gpu = environment(todo[0].device, todo[0].precision)["device"].startswith("cuda")
    share = 1.0 if on_gpu else torch.get_num_threads() / resources.cores()  # of the cores, that a timing used
    steps = {e.run_id: work[e.run_id].steps * speed.steps[fields_of(e, SHAPE)] for e in todo}
    return {run_id: share * (seconds + work[run_id].images * speed.image) for run_id, seconds in steps.items()}


def hms(seconds: float) -> str:
    """Seconds as text, in hours or minutes."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
