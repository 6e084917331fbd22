"""The store of results: run(experiment) loads a finished run or makes it; collect(runs) gives tidy tables.

A run's folder holds experiment.json, history.jsonl, features.safetensors (test set), model.safetensors and, written
last and atomically, metrics.json: the only sign of "done".
"""

import fcntl
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import __version__, datasets, evaluate, parallel, synthetic, train
from . import images as im
from .config import NOT_HASHED, Experiment
from .files import digest, results_root, write_json
from .model import TwoStreamNet, weights_file

PERMUTATIONS = Path("exp", "rand_perm_cam.mat")  # in a folder of the SYSU-MM01 layout
LEARNS = ("evaluate", "images", "losses", "model", "parallel", "pml", "train")  # the code that a result comes from
METRICS = ["rank1", "rank5", "rank10", "rank20", "mAP", "mINP"]


@dataclass(frozen=True)
class Run:
    """A finished run on disk."""

    experiment: Experiment
    folder: Path

    @cached_property
    def metrics(self) -> dict:
        """metrics.json: protocols (name -> one record a trial), seconds, data_digest, versions, device, commit."""
        return json.loads((self.folder / "metrics.json").read_text())

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch, as train.fit wrote it; none of a run of no epochs."""
        return pd.DataFrame(map(json.loads, (self.folder / "history.jsonl").read_text().splitlines()))

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Test set: features (N, D) L2-normalised, pid, cam, modality, number, row (N,) in the data's table."""
        return load_file(self.folder / "features.safetensors")

    def trials(self, protocol: str) -> pd.DataFrame:
        """One row a trial (SYSU-MM01) or the direction (RegDB) of a protocol."""
        if protocol not in self.metrics["protocols"]:
            raise ValueError(
                f"run {self.experiment.run_id} has no protocol {protocol!r}: {list(self.metrics['protocols'])}"
            )
        return pd.DataFrame(self.metrics["protocols"][protocol])

    def queries(self, protocol: str) -> pd.DataFrame:
        """What each test query adds to a protocol's metrics: pid, row in the data's table, METRICS as fractions.

        Made from the stored features and kept for this process. Raises: ValueError where the features no longer give
        the stored metrics, or for a protocol that the run has not; FileNotFoundError where official galleries need
        their permutations and the data is not there.
        """
        self.trials(protocol)
        return of_queries(self, protocol, (self.folder / "metrics.json").stat().st_mtime_ns)

    def net(self) -> TwoStreamNet:
        """The trained network in evaluation mode on the CPU."""
        state = load_file(self.folder / "model.safetensors")
        fresh = self.experiment.but(weights="none")  # the start is overwritten: nothing to download
        classes = next(w.shape[-2] for name, w in state.items() if name.endswith("classifier.weight"))
        net = train.make_net(fresh, classes)
        net.load_state_dict(state)
        return net.eval()


def load(folder: Path) -> Run:
    """A finished run by its folder. Raises: FileNotFoundError if it is not finished."""
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(f"{folder} is no finished run: it has no metrics.json")
    return Run(Experiment(**json.loads((folder / "experiment.json").read_text())), folder)


_queries: dict[tuple, pd.DataFrame] = {}  # of this process: two tables often share a run


def of_queries(run: Run, protocol: str, version: int) -> pd.DataFrame:
    """Run.queries(), once for each version of the run."""
    if (key := (run.folder, protocol, version)) in _queries:
        return _queries[key]
    f, trials = load_file(run.folder / "features.safetensors"), run.trials(protocol)
    query, found = search(run, protocol, f)
    table = evaluate.of_queries(found)
    if (table.mean() - trials[METRICS].mean()).abs().max() > 1e-3:  # another machine's rounding may swap two ranks
        raise ValueError(f"{run.folder}: features.safetensors does not give the {protocol} of metrics.json")
    table.insert(0, "pid", f["pid"][query].numpy())
    table.insert(1, "row", f["row"][query].numpy())
    return _queries.setdefault(key, table)


def search(run: Run, protocol: str, test: dict[str, Tensor]) -> tuple[Tensor, list[evaluate.Ranked]]:
    """Which rows of a test set (as Run.features has it) are a protocol's queries, and what they find in each trial."""
    layout, *setting = protocol.split()
    if layout == "sysu":
        (mode, shots, gallery), trials = setting, len(run.trials(protocol))
        path = data_folder(run.experiment.data) / PERMUTATIONS
        permutations = datasets.sysu_permutations(path) if gallery == "official" else None
        system = evaluate.SysuSearch(*(test[c] for c in ("features", "pid", "cam", "number")))
        found = system.ranked(mode, int(shots.removesuffix("-shot")), gallery, permutations, trials)
        return torch.from_numpy(system.query), [ranked for ranked, _ in found]
    if layout == "regdb":
        sides = [(test["modality"] == m).nonzero()[:, 0] for m in (0, 1)]
        similarity = evaluate.similarity_matrix(*(test["features"][side] for side in sides))
        (query, other), similarity = (sides, similarity) if setting == ["v2t"] else (sides[::-1], similarity.T)
        return query, [evaluate.rank_queries(similarity, test["pid"][query], test["pid"][other])]
    raise ValueError(f"run {run.experiment.run_id}: single queries are known of sysu and regdb, not of {layout}")


def chance(run: Run, protocol: str, draws: int = 5) -> pd.Series:
    """METRICS of features that are random numbers, under a run's protocol and on its test set: mean of some draws."""
    test, tables = load_file(run.folder / "features.safetensors"), []
    for seed in range(draws):
        test["features"] = torch.randn(len(test["pid"]), 256, generator=torch.Generator().manual_seed(seed))
        tables.append(evaluate.of_queries(search(run, protocol, test)[1])[METRICS].mean())
    return pd.DataFrame(tables).mean()


def data_folder(name: str) -> Path:
    """The folder of a data set; an embedded one, also of changed values, is made or finished where it is missing.

    Raises: FileNotFoundError for any other set that is not there; what synthetic.preset() raises.
    """
    if name.split(",")[0] in synthetic.PRESETS:
        return synthetic.make(synthetic.preset(name), datasets.data_root() / name)
    return datasets.locate(name)


def load_data(experiment: Experiment) -> tuple[pd.DataFrame, im.Store]:
    """Table and decoded images of an experiment's data; its training and validation identities as it wants them."""
    root = data_folder(experiment.data)
    table = datasets.read(experiment.dataset, root, split=experiment.split)
    store = im.store(table, root, experiment.height, experiment.width)
    # the images are not all that a result hangs on: lists decide who is tested, permutations draw the galleries
    facts = hashlib.sha256((store.digest + table.to_csv()).encode())
    if (permutations := root / PERMUTATIONS).is_file():
        facts.update(permutations.read_bytes())
    store = im.Store(store.pixels, facts.hexdigest())
    return deal(experiment, table), store


def deal(experiment: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """A set's table with the training and validation identities that an experiment wants."""
    if experiment.train_on == "train+val":
        table = table.assign(split=table.split.replace("val", "train"))
    if experiment.validation_identities:
        table = datasets.hold_out(table, experiment.validation_identities)
    return table


def run(experiment: Experiment) -> Run:
    """The run of an experiment: loaded if it is finished, else trained (or gone on with), evaluated and written.

    A second process that asks for the same run waits for the first. A finished run whose data has changed since is
    set aside under another name, never read and never deleted.
    """
    folder = results_root() / experiment.profile / "runs" / experiment.run_id
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_suffix(".lock")) if parallel.rank() == 0 else nullcontext():
        if not parallel.from_first(lambda: is_done(Run(experiment, folder))):
            make(experiment, folder)
    return Run(experiment, folder)


def is_done(run: Run) -> bool:
    """Whether a run is finished; one of other fields or data is set aside first."""
    if not (run.folder / "metrics.json").is_file():
        return False
    if is_current(run):
        return True
    run.folder.rename(run.folder.with_name(f"{run.folder.name}-before-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"))
    run.folder.mkdir()
    return False


def is_current(done: Run) -> bool:
    """Whether a finished run is of these very fields and, where the data is at hand, of this very data."""
    fields = done.experiment.model_dump(mode="json", exclude=NOT_HASHED)
    stored = json.loads((done.folder / "experiment.json").read_text())
    if any(stored.get(k, Experiment.model_fields[k].default) != v for k, v in fields.items()):
        return False  # a default has changed since
    try:
        datasets.locate(done.experiment.data)
    except FileNotFoundError:
        return True  # results may travel without their data
    if load_data(done.experiment)[1].digest != done.metrics["data_digest"]:
        return False
    start = start_digest(done.experiment)
    return not start or start == done.metrics.get("start_digest", start)


def start_digest(experiment: Experiment) -> str:
    """sha256 of the file that an experiment's weights come from; "" where there is none, or it is not at hand."""
    file = weights_file(experiment.backbone, experiment.weights)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file and file.is_file() else ""


def code_digest() -> str:
    """sha256 of the files of LEARNS."""
    return digest((Path(__file__).with_name(f"{name}.py") for name in LEARNS), None)


def other_code(run: Run) -> str:
    """A sentence where a finished run was made by other code than that of today, else "".

    A run's id is of its fields: who changes a loss decides which runs to make anew.
    """
    if run.metrics.get("code_digest", now := code_digest()) == now:
        return ""
    m = run.metrics
    made = f"run {run.experiment.run_id} was made on {m['finished']} at commit {m['commit']}"
    return f"{made}; the code of its losses, network or training has changed since: delete {run.folder} to train anew"


def make(experiment: Experiment, folder: Path) -> None:
    """Train, extract, evaluate, write: metrics.json last. Of several processes the first alone does more than train."""
    start, code, p = time.perf_counter(), code_digest(), experiment.identities_per_batch  # before anyone edits it
    parallel.deal(2 * p, p)  # raises before any work where the identities cannot be dealt
    if parallel.rank() == 0:
        write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    table, store = parallel.first_then_others(lambda: load_data(experiment))
    # a checkpoint is of one data set and of all fields, those at a default that may have changed since included
    start_of_net = start_digest(experiment)
    origin = store.digest + start_of_net + experiment.model_dump_json(exclude=NOT_HASHED)
    net = train.fit(experiment, table, store.pixels, folder, origin=origin)
    if parallel.rank():
        return
    test = table[table.split == "test"]
    features = extract(net, test, store)
    columns = {c: torch.tensor(test[c].to_numpy()) for c in ("pid", "cam", "modality", "number")}
    rows = torch.tensor(test.index.to_numpy())
    save_file({"features": features, "row": rows, **columns}, folder / "features.tmp")
    os.replace(folder / "features.tmp", folder / "features.safetensors")
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    save_file(state, folder / "model.tmp", metadata={"experiment": experiment.model_dump_json()})
    os.replace(folder / "model.tmp", folder / "model.safetensors")
    protocols = {name: frame.to_dict("records") for name, frame in protocol_tables(experiment, features, test).items()}
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    write_json(
        folder / "metrics.json",
        {
            "run_id": experiment.run_id,
            "protocols": protocols,
            "data_digest": store.digest,
            "start_digest": start_of_net,
            "code_digest": code,
            "seed": experiment.seed,
            "train_seconds": sum(row["seconds"] for row in history),
            "last_call_seconds": time.perf_counter() - start,
            "peak_memory": peak_memory(),
            "parameters": sum(p.numel() for p in net.parameters()),
            **environment(experiment),
        },
    )
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def extract(net: TwoStreamNet, rows: pd.DataFrame, store: im.Store) -> Tensor:
    """Features (n, D) of some rows of a table, whose index points into the store."""
    return evaluate.extract(net, store.pixels, rows.index.to_numpy(), rows.modality.to_numpy())


def protocol_tables(experiment: Experiment, features: Tensor, test: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every protocol of the experiment's layout, by name: the name says all that a number depends on."""
    if experiment.dataset == "sysu":
        return sysu_tables(experiment, features, test)
    *search, exclude = across(features, test)
    both = evaluate.both_directions(*search, exclude if exclude.any() else None)
    return {f"{experiment.dataset} {d}": both[both.direction == d] for d in both.direction}


def across(features: Tensor, test: pd.DataFrame) -> tuple[Tensor, np.ndarray, np.ndarray, Tensor]:
    """All visible and all thermal rows: similarity (V, T), pids of both, and (V, T) the pairs that no search may find.

    Those show one person at one instant, where a table knows it: the pose gives the answer away.
    """
    visible, thermal = (np.flatnonzero(test.modality == m) for m in (0, 1))
    frames, pids = test.frame.to_numpy(), test.pid.to_numpy()
    known = (frames[visible] != "")[:, None] & (pids[visible][:, None] == pids[thermal])
    exclude = torch.from_numpy(known & (frames[visible][:, None] == frames[thermal]))
    similarity = evaluate.similarity_matrix(features[visible], features[thermal])
    return similarity, pids[visible], pids[thermal], exclude


def sysu_tables(experiment: Experiment, features: Tensor, test: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """all / indoor search, official gallery at 1 and (where every set has ten images) 10 shots, community at 1 shot."""
    search = evaluate.SysuSearch(features, *(test[c].to_numpy() for c in ("pid", "cam", "number")))
    path = data_folder(experiment.data) / PERMUTATIONS
    permutations = datasets.sysu_permutations(path) if path.is_file() else None
    galleries = ["community"] if permutations is None else ["official", "community"]
    fewest = test[test.modality == 0].groupby(["pid", "cam"]).size().min()
    return {
        f"sysu {mode} {shots}-shot {gallery}": search.table(mode, shots, gallery, permutations, experiment.trials)
        for mode in evaluate.GALLERY_CAMERAS
        for shots in (1, 10)
        for gallery in galleries
        if shots <= fewest and (shots == 1 or gallery == galleries[0])
    }


def transfer(run: Run, root: str | Path, *, histograms: bool = False) -> dict[str, pd.DataFrame]:
    """Both directions of a run's network on the test rows of a plain folder of images, same-instant pairs left out.

    Args: histograms: the untrained baseline on the same images instead of the network.
    """
    experiment, features, test = transferred(run, root, histograms)
    return protocol_tables(experiment, features, test)


def transfer_queries(run: Run, root: str | Path, *, histograms: bool = False) -> pd.DataFrame:
    """The same by query, a row for each that has a match: direction, pid, rank1 (0 or 1), mAP (its own precision).

    Its means are those of transfer(). Beside them chance_rank1 and chance_mAP, which a random order would have.
    """
    _, features, test = transferred(run, root, histograms)
    similarity, visible, thermal, exclude = across(features, test)
    sides = {"v2t": (similarity, visible, thermal, exclude), "t2v": (similarity.T, thermal, visible, exclude.T)}
    frames = []
    for direction, (scores, query, gallery, unseen) in sides.items():
        found, unseen = evaluate.rank_queries(scores, query, gallery, exclude=unseen), unseen.numpy()
        matches = ((query[:, None] == gallery) & ~unseen).sum(1)
        rank1, ap = evaluate.chance(matches, (~unseen).sum(1))
        columns = {"pid": query, "rank1": found.first == 1, "mAP": found.ap, "chance_rank1": rank1, "chance_mAP": ap}
        frames.append(pd.DataFrame(columns)[found.first > 0].assign(direction=direction))
    return pd.concat(frames, ignore_index=True).astype({"rank1": float})


def transfer_table(done: dict[str, list[Run]], root: str | Path) -> pd.DataFrame:
    """Networks on the test rows of a plain folder beside histograms of gradients and chance, with intervals, fractions.

    A query's value is its mean over the runs of a row. Intervals (evaluate.bootstrap_mean, 95 %) are over queries, and
    over people where a name ends in _people. Those of `gain` are of the difference to histograms, query by query.

    Returns: a row for each direction, row and metric (rank1, mAP): value, low, high, low_people, high_people, gain
        with the same four, queries, people.
    """
    first = next(iter(done.values()))[0]
    tables = {"gradient histograms": [transfer_queries(first, root, histograms=True)]}
    tables |= {row: [transfer_queries(run, root) for run in group] for row, group in done.items()}
    base, rows = tables["gradient histograms"][0], []
    of_row = {row: sum(t[["rank1", "mAP"]] for t in group) / len(group) for row, group in tables.items()}
    of_row["chance"] = base[["chance_rank1", "chance_mAP"]].set_axis(["rank1", "mAP"], axis=1)
    for (direction, queries), (row, found) in product(base.groupby("direction", sort=False), of_row.items()):
        for metric in found:
            value = found[metric][queries.index]
            facts = {"direction": direction, "row": row, "metric": metric} | intervals("value", value, queries.pid)
            facts |= intervals("gain", value - queries[metric], queries.pid)
            rows.append(facts | {"queries": len(queries), "people": queries.pid.nunique()})
    return pd.DataFrame(rows)


def intervals(name: str, values: pd.Series, people: pd.Series) -> dict[str, float]:
    """The mean, and its intervals over queries and over people."""
    low, high = evaluate.bootstrap_mean(values)
    whole = evaluate.bootstrap_mean(values, people)
    ends = {"low": low, "high": high, "low_people": whole[0], "high_people": whole[1]}
    return {name: values.mean()} | {(end if name == "value" else f"{name}_{end}"): v for end, v in ends.items()}


def transferred(run: Run, root: str | Path, histograms: bool) -> tuple[Experiment, Tensor, pd.DataFrame]:
    """A run's experiment as of a folder, features of the folder's test rows, and these rows."""
    experiment = run.experiment.but(
        dataset="folder", data=str(root), split=1, validation_identities=0, train_on="train"
    )
    table, store = load_data(experiment)
    test = table[table.split == "test"]
    if histograms:
        return experiment, evaluate.gradient_histogram(store.pixels[test.index.to_numpy()]), test
    return experiment, extract(run.net(), test, store), test


@torch.inference_mode()
def training_batches(run: Run, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What the metric loss of a run reads in its first batches, network in evaluation mode, images not augmented.

    Yields: features (B, D), labels (B,), modality (B,), rows sorted by modality and identity.
    """
    table, store = load_data(run.experiment)
    rows = table[table.split == "train"]
    sampler, batches, net = (
        train.make_sampler(run.experiment, rows),
        train.Batches(rows, store.pixels, "cpu"),
        run.net(),
    )
    for index in islice(sampler.epoch(0), count):
        images, labels, modality = batches(index, im.normalise), batches.labels[index], batches.modality[index]
        order = torch.from_numpy(np.lexsort((labels, modality)))
        features = train.read(run.experiment, net(images, modality))[0][0]
        yield features[order], labels[order], modality[order]


def hardest(run: Run, queries: int = 6, top: int = 8) -> dict:
    """The thermal test images that find their person worst among all visible ones, as arguments of plots.retrievals."""
    store = load_data(run.experiment)[1]
    row, cam, pid = (run.features[c].numpy() for c in ("row", "cam", "pid"))
    visible, thermal = (np.flatnonzero(run.features["modality"].numpy() == m) for m in (0, 1))
    similarity = evaluate.similarity_matrix(run.features["features"][thermal], run.features["features"][visible])
    blind = (cam[thermal] == 3)[:, None] & (cam[visible] == 2) & (run.experiment.dataset == "sysu")
    chosen, found, right = evaluate.hardest(
        similarity, pid[thermal], pid[visible], torch.from_numpy(blind), queries, top
    )
    names = [f"identity {p}, camera {c}" for p, c in zip(pid[thermal][chosen], cam[thermal][chosen], strict=True)]
    return {
        "pixels": store.pixels,
        "queries": row[thermal][chosen],
        "found": row[visible][found],
        "right": right,
        "names": names,
    }


def environment(experiment: Experiment) -> dict:
    """What a number may depend on besides the experiment: versions, device, threads, commit, time."""
    device = train.pick_device(experiment.device)
    versions = {"vtlib": __version__, "torch": torch.__version__, "torchvision": version("torchvision")}
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
    return {
        "versions": versions | {"numpy": np.__version__, "python": platform.python_version()},
        "device": f"{device}: {name}",
        "precision": "bf16" if train.is_bf16(experiment, device) else "float32",
        "processes": parallel.world(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def peak_memory() -> dict[str, float]:
    """The most memory this process has held so far, in GB: of the machine, mapped images included, and of its GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    held = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        held["device"] = torch.cuda.max_memory_reserved()
    return {where: round(n / 1e9, 3) for where, n in held.items()}


def processor() -> str:
    """The processor's name and the number of its cores."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit of the code, with + where files differ from it; "" outside a checkout."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def collect(runs: Iterable[Run], protocol: str | None = None) -> pd.DataFrame:
    """Tidy frame, one row a run and protocol: the mean over its trials of each metric, fractions.

    Columns: run_id, method, dataset, data, split, seed, protocol, trials, the metrics, and `<metric>_sd` over trials.
    """
    rows = []
    for r in runs:
        e = r.experiment
        for name in [protocol] if protocol else r.metrics["protocols"]:
            trials = r.trials(name)
            names = {c: getattr(e, c) for c in ("run_id", "method", "dataset", "data", "split", "seed")}
            spread = {f"{m}_sd": trials[m].std(ddof=1) if len(trials) > 1 else float("nan") for m in METRICS}
            rows.append({**names, "protocol": name, "trials": len(trials), **trials[METRICS].mean(), **spread})
    return pd.DataFrame(rows)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a file lock; the system lets it go if the process dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
