"""The store of results: run(experiment) loads a finished run or makes it; collect(runs) gives tidy tables.

A run's folder holds experiment.json, history.jsonl, features.safetensors (test set), model.safetensors and, written
last and atomically, metrics.json: the only sign of "done".
"""

import hashlib
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import pandas as pd
from pydantic import ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from . import device, inference, parallel, protocols, synvt, train
from . import device as devices
from .backbones import weights_file
from .common import data_root, results_root
from .config import NOT_HASHED, Experiment, upgraded
from .data import datasets
from .data import images as im
from .device import environment, peak_memory
from .files import digest, lock, read_json, read_json_lines, whole, write_json
from .model import TwoStreamNet

PERMUTATIONS = Path("exp", "rand_perm_cam.mat")  # in a folder of the SYSU-MM01 layout
# files of the package that decide what is learned; with RESULT_CODE, also what is read, searched and counted
TRAINING_CODE = ("backbones", "data/batches", "data/images", "device", "losses/*", "model", "objective", "parallel")
TRAINING_CODE += ("pml", "train")
RESULT_CODE = (*TRAINING_CODE, "bootstrap", "data/datasets", "evaluate", "inference", "protocols", "ranking")
METRICS = ["rank1", "rank5", "rank10", "rank20", "mAP", "mINP"]


@dataclass(frozen=True)
class Run:
    """A finished run on disk."""

    experiment: Experiment
    folder: Path

    @cached_property
    def metrics(self) -> dict:
        """metrics.json: protocols (name -> one record a trial), seconds, data_digest, versions, device, commit."""
        found = read_json(path := self.folder / "metrics.json", repair(self.folder))
        lacks = [name for name in ("protocols", "data_digest", "precision", "finished") if not found.get(name)]
        lacks += [] if "commit" in found else ["commit"]  # outside a checkout it is empty
        if lacks or not isinstance(found["protocols"], dict):
            raise ValueError(f"{path} is not whole (no {(lacks or ['protocols'])[0]} in it): {repair(self.folder)}")
        return found

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch, as train.fit wrote it; none of a run of no epochs."""
        return pd.DataFrame(read_json_lines(self.folder / "history.jsonl", repair(self.folder)))

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Test set: features (N, D) L2-normalised, and protocols.columns() of its images, (N,) each."""
        return read_tensors(
            self.folder, "features.safetensors", ("features", "pid", "cam", "modality", "number", "row")
        )

    def trials(self, protocol: str) -> pd.DataFrame:
        """One row a trial (SYSU-MM01) or the direction (RegDB) of a protocol."""
        if protocol not in (found := self.metrics["protocols"]):
            raise ValueError(f"run {self.experiment.run_id} has no protocol {protocol!r}: {list(found)}")
        return pd.DataFrame(found[protocol])

    def queries(self, protocol: str) -> pd.DataFrame:
        """What each test query adds to a protocol's metrics: pid, row in the data's table, METRICS as fractions.

        Made from the stored features and kept for this process: two tables often share a run. Raises: ValueError where
        the features no longer give the stored metrics, or for a protocol that the run has not; FileNotFoundError where
        official galleries need their permutations and the data is not there.
        """
        trials = self.trials(protocol)
        key = self.folder, protocol, (self.folder / "metrics.json").stat().st_mtime_ns
        if key not in _queries:
            table = self.embedded(protocols.named(protocol)).queries(protocols.named(protocol), len(trials))
            if (table[METRICS].mean() - trials[METRICS].mean()).abs().max() > 1e-3:  # rounding may swap two ranks
                raise ValueError(f"{self.folder}: features.safetensors does not give the {protocol} of metrics.json")
            _queries[key] = table
        return _queries[key]

    def embedded(self, search: protocols.Search | None = None) -> protocols.Embedded:
        """The stored features, ready for a search, or for all of them."""
        wants = search is None or search.gallery == "official"
        return protocols.Embedded(
            searched_as(self.experiment), self.features, permutations_of(self.experiment) if wants else None
        )

    def net(self) -> TwoStreamNet:
        """The trained network in evaluation mode on the CPU."""
        state = read_tensors(self.folder, "model.safetensors")
        fresh = self.experiment.but(weights="none")  # the start is overwritten: nothing to download
        classes = next(w.shape[-2] for name, w in state.items() if name.endswith("classifier.weight"))
        net = train.make_net(fresh, classes)
        net.load_state_dict(state)
        return net.eval()


def load(folder: Path) -> Run:
    """A finished run by its folder. Raises: FileNotFoundError if it is not finished."""
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(f"{folder} is no finished run: it has no metrics.json")
    return Run(stored_experiment(folder), folder)


def stored_experiment(folder: Path) -> Experiment:
    """The experiment of a finished run, whatever version wrote it. Raises: ValueError naming the file."""
    path = folder / "experiment.json"
    made_in = read_json(folder / "metrics.json", repair(folder)).get("precision", "float32")
    try:
        return Experiment(**upgraded(read_json(path, repair(folder)), made_in))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}"
        raise ValueError(f"{path} is of another version of this code ({why}): {repair(folder)}") from None


def repair(folder: Path) -> str:
    return f"delete the folder {folder}, and the run is made again"


def read_tensors(folder: Path, name: str, rows: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A .safetensors file of a run; `rows`: tensors that it must have, all of one length.

    Raises: ValueError naming the file where it is broken; FileNotFoundError.
    """
    try:
        found = load_file(folder / name)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder / name} is missing: {repair(folder)}") from None
    except Exception as error:  # the library raises a kind of its own
        raise ValueError(f"{folder / name} cannot be read ({error}): {repair(folder)}") from error
    if not found or len({len(found[row]) if row in found else -1 for row in rows}) > 1:
        raise ValueError(f"{folder / name} is not whole: {repair(folder)}")
    return found


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A .safetensors file, whole or as before."""
    with whole(path) as part:
        part.write_bytes(save(tensors, metadata))


_queries: dict[tuple, pd.DataFrame] = {}  # of this process
_digests: dict[tuple, str] = {}  # of this process: the data of each set and size as it was last looked at


def chance(run: Run, protocol: str) -> pd.Series:
    """rank1 and mAP of a random order, under a run's protocol and on its test set: exact, fractions."""
    search = protocols.named(protocol)
    return run.embedded(search).chance(search, len(run.trials(protocol))).mean()


def data_folder(name: str) -> Path:
    """The folder of a data set; an embedded one, also of changed values, is made or finished where it is missing.

    Raises: FileNotFoundError for any other set that is not there; what synvt.preset() raises.
    """
    if name.split(",")[0] in synvt.PRESETS:
        return synvt.make(synvt.preset(name), data_root() / name)
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
    _digests[place_of_data(experiment)] = store.digest
    return split_for(experiment, table), store


def read_table(experiment: Experiment) -> pd.DataFrame:
    """The table of an experiment's data, its people split as the experiment wants them; no image is opened."""
    return split_for(
        experiment, datasets.read(experiment.dataset, data_folder(experiment.data), split=experiment.split)
    )


def place_of_data(experiment: Experiment) -> tuple:
    """What a digest of data is of."""
    fields = ("data", "dataset", "split", "height", "width")
    return data_root(), *(getattr(experiment, name) for name in fields)


def data_digest(experiment: Experiment) -> str:
    """The digest of an experiment's data as this process last looked at it: once, or at each load_data()."""
    if (place := place_of_data(experiment)) not in _digests:
        load_data(experiment)
    return _digests[place]


def split_for(experiment: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """A set's table with the training and validation identities that an experiment wants.

    Where it is `tested` on the validation people, they stand in the place of the test people, who are left out.
    """
    if experiment.train_on == "train+val":
        table = table.assign(split=table.split.replace("val", "train"))
    if experiment.validation_identities:
        table = datasets.hold_out(table, experiment.validation_identities)
    if experiment.tested == "val":
        val = table[table.split == "val"]
        table = pd.concat([table[table.split != "test"], val.assign(split="test")])
    return table


def searched_as(experiment: Experiment) -> str:
    """The layout by whose searches an experiment is measured."""
    return "val" if experiment.tested == "val" else experiment.dataset


def run(experiment: Experiment) -> Run:
    """The run of an experiment: loaded if it is finished, else trained (or gone on with), evaluated and written.

    A second process that asks for the same run waits for the first. A finished run whose data has changed since is
    set aside under another name, never read and never deleted.
    """
    folder = results_root() / experiment.profile / "runs" / experiment.run_id
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_suffix(".lock")) if device.rank() == 0 else nullcontext():
        if not parallel.from_first(lambda: is_done(Run(experiment, folder))):
            for other in in_other_precision(experiment):
                if (folder.with_name(other.run_id) / "metrics.json").is_file():
                    name = f"VTLIB_PRECISION={other.precision}"
                    print(f"run {other.run_id} is this one in {other.precision}: {name} loads it")
            make(experiment, folder)
    return Run(experiment, folder)


def in_other_precision(experiment: Experiment) -> list[Experiment]:
    """The same experiment as machines of another precision have it."""
    others = [p for p in devices.PRECISIONS if p != experiment.precision]
    return [experiment.model_copy(update={"precision": p}) for p in others]


def is_done(run: Run) -> bool:
    """Whether a run is finished; one of other fields or data is set aside first."""
    if not (run.folder / "metrics.json").exists():
        return False
    if is_current(run):
        return True
    run.folder.rename(run.folder.with_name(f"{run.folder.name}-before-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"))
    run.folder.mkdir()
    return False


def is_current(done: Run) -> bool:
    """Whether a finished run is of these very fields and, where the data is at hand, of this very data.

    The data is looked at once in a process: who changes files of a set while a notebook runs starts its kernel again.
    """
    both = done.experiment, stored_experiment(done.folder)
    wanted, stored = (e.model_dump(mode="json", exclude=NOT_HASHED) for e in both)
    if wanted != stored:
        return False  # a default has changed since
    try:
        datasets.locate(done.experiment.data)
    except FileNotFoundError:
        return True  # results may travel without their data
    if data_digest(done.experiment) != done.metrics["data_digest"]:
        return False
    start = start_digest(done.experiment)
    return not start or start == done.metrics.get("start_digest", start)


def start_digest(experiment: Experiment) -> str:
    """sha256 of the file that an experiment's weights come from; "" where there is none, or it is not at hand."""
    file = weights_file(experiment.backbone, experiment.weights)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file and file.is_file() else ""


def code_digest(names: Iterable[str] = RESULT_CODE) -> str:
    """sha256 of some files of the package."""
    package = Path(__file__).parent
    return digest((file for name in names for file in sorted(package.glob(f"{name}.py"))), None)


def other_code(run: Run) -> str:
    """A sentence where a finished run was made by other code than that of today, else "".

    A run's id is of its fields: who changes a loss decides which runs to make anew.
    """
    if run.metrics.get("code_digest", now := code_digest()) == now:
        return ""
    m = run.metrics
    made = f"run {run.experiment.run_id} was made on {m['finished']} at commit {m['commit']}"
    return f"{made}; the code that decides a result has changed since: delete {run.folder} to make it anew"


def make(experiment: Experiment, folder: Path) -> None:
    """Train, extract, evaluate, write: metrics.json last. Of several processes the first alone does more than train."""
    start, code, p = time.perf_counter(), code_digest(), experiment.identities_per_batch  # before anyone edits it
    devices.pick(experiment.device)
    parallel.rows_of_process(2 * p, p)  # raises before any work where the identities cannot be dealt
    permutations = permutations_of(experiment)
    stop_before_work(experiment, permutations)
    table, store = parallel.first_then_others(lambda: load_data(experiment))
    test = table[table.split == "test"]
    if device.rank() == 0:
        write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    # a checkpoint is of one data set and of all fields, those at a default that may have changed since included
    start_of_net = start_digest(experiment)
    origin = store.digest + start_of_net + experiment.model_dump_json(exclude=NOT_HASHED)
    origin += code_digest(TRAINING_CODE)  # epochs of two codes are the result of neither
    net = train.fit(experiment, table, store.pixels, folder, origin=origin)
    if device.rank():
        return
    features = features_of(net, test, store)
    if not features.isfinite().all():
        raise FloatingPointError("features are not finite after the last epoch: lower lr or the weight of a loss")
    images = protocols.columns(test) | {"features": features}
    write_tensors(folder / "features.safetensors", images)
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    write_tensors(folder / "model.safetensors", state, {"experiment": experiment.model_dump_json()})
    found = protocols.Embedded(searched_as(experiment), images, permutations).tables(experiment.trials)
    history = read_json_lines(folder / "history.jsonl", repair(folder))
    write_json(
        folder / "metrics.json",
        {
            "run_id": experiment.run_id,
            "protocols": {name: frame.to_dict("records") for name, frame in found.items()},
            "data_digest": store.digest,
            "start_digest": start_of_net,
            "code_digest": code,
            "seed": experiment.seed,
            "train_seconds": sum(row["seconds"] for row in history),
            "last_call_seconds": time.perf_counter() - start,
            "peak_memory": peak_memory(),
            "parameters": sum(p.numel() for p in net.parameters()),
            **environment(experiment.device, experiment.precision),
        },
    )
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def permutations_of(experiment: Experiment) -> dict | None:
    """The official galleries of an experiment's data, where it has them. Raises: ValueError for a broken file."""
    path = data_folder(experiment.data) / PERMUTATIONS
    return datasets.sysu_permutations(path) if experiment.dataset == "sysu" and path.is_file() else None


def stop_before_work(experiment: Experiment, permutations: dict | None) -> None:
    """Raise ValueError, one sentence, where training or evaluation on this data would stop; no image is opened.

    Every search is rehearsed on random features, since evaluation comes last, after hours of training maybe.
    """
    place = data_folder(experiment.data)
    table = read_table(experiment)
    if found := datasets.obstacles(searched_as(experiment), table, root=place, train=experiment.epochs > 0):
        held = f", or lower validation_identities={n}" if (n := experiment.validation_identities) else ""
        raise ValueError(found[0] + held)
    if experiment.epochs:
        train.make_sampler(experiment, table[table.split == "train"])
    train.rehearse(experiment)
    try:
        protocols.rehearse(searched_as(experiment), table[table.split == "test"], permutations, experiment.trials)
    except ValueError as error:
        raise ValueError(f"{place}: the test images cannot be searched: {error}") from error


def features_of(net: TwoStreamNet, rows: pd.DataFrame, store: im.Store) -> Tensor:
    """Features (n, D) of some rows of a table, whose index points into the store."""
    return inference.extract(net, store.pixels, rows.index.to_numpy(), rows.modality.to_numpy())


def collect(runs: Iterable[Run], protocol: str | None = None) -> pd.DataFrame:
    """Tidy frame, one row a run and protocol: the mean over its trials of each metric, fractions.

    Columns: run_id, method, dataset, data, split, seed, protocol, trials, the metrics, and `<metric>_sd` over trials.
    Trials that are equal in every metric are draws of the one gallery that is possible, as ten shots are where every
    identity has ten images: they count as one, and have no spread.
    """
    rows = []
    for r in runs:
        e = r.experiment
        for name in [protocol] if protocol else r.metrics["protocols"]:
            trials = r.trials(name)[METRICS]
            different = 1 if len(trials.drop_duplicates()) == 1 else len(trials)
            names = {c: getattr(e, c) for c in ("run_id", "method", "dataset", "data", "split", "seed")}
            spread = {f"{m}_sd": trials[m].std(ddof=1) if different > 1 else float("nan") for m in METRICS}
            rows.append({**names, "protocol": name, "trials": different, **trials.mean(), **spread})
    return pd.DataFrame(rows)
