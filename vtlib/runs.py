"""The store of results: run(experiment) loads a finished run or makes it; collect(runs) makes a tidy table of runs.

The folder of a run holds experiment.json, history.jsonl, features.safetensors (of the test images), model.safetensors
and metrics.json. The last is written at the end and atomically: a run is finished where it exists. Its folder searched/
has the results of each query, by protocol, once a table has asked for them.
"""

import ast
import hashlib
import io
import time
import tokenize
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path

import pandas as pd
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from . import device, inference, parallel, protocols, synvt, train
from .backbones import weights_file
from .common import data_root, results_root
from .config import NOT_HASHED, Experiment, upgraded
from .data import datasets
from .data import images as im
from .device import environment, peak_memory
from .files import digest, lock, read_json, read_json_lines, remembered, whole, write_json
from .model import TwoStreamNet
from .systems import FITTED

PERMUTATIONS = Path("exp", "rand_perm_cam.mat")  # in a folder of the SYSU-MM01 layout: the official galleries
# Files of the package that decide what a network learns; RESULT_CODE adds those that read data, search and measure
TRAINING_CODE = ("backbones", "capture", "data/batches", "data/images", "device", "losses/*", "model", "objective")
TRAINING_CODE += ("parallel", "pml", "systems/*", "train")
RESULT_CODE = (*TRAINING_CODE, "bootstrap", "data/datasets", "evaluate", "inference", "protocols", "ranking")
METRICS = ["rank1", "rank5", "rank10", "rank20", "mAP", "mINP"]


@dataclass(frozen=True)
class Run:
    """A run on disk: its experiment and its folder. Everything but these two fields needs the run to be finished.

    Reading raises ValueError for a broken file and FileNotFoundError for a missing one, one sentence with a remedy.
    """

    experiment: Experiment
    folder: Path

    @cached_property
    def metrics(self) -> dict:
        """metrics.json: protocols (name -> one record a trial), digests, seconds, versions, device, commit."""
        metrics = read_json(path := self.folder / "metrics.json", repair(self.folder))
        lacks = [name for name in ("protocols", "data_digest", "precision", "finished") if not metrics.get(name)]
        lacks += [] if "commit" in metrics else ["commit"]  # it is "" outside a checkout
        if lacks or not isinstance(metrics["protocols"], dict):
            raise ValueError(f"{path} is not whole (no {(lacks or ['protocols'])[0]} in it): {repair(self.folder)}")
        return metrics

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch, with the columns that train.fit() names; empty for a run of no epochs."""
        return pd.DataFrame(read_json_lines(self.folder / "history.jsonl", repair(self.folder)))

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Of the N test images: features (N, D), L2-normalised, and protocols.columns(), (N,) each."""
        return read_tensors(
            self.folder, "features.safetensors", ("features", "pid", "cam", "modality", "number", "row")
        )

    def trials(self, protocol: str) -> pd.DataFrame:
        """The metrics of a protocol by its name, fractions: a row a trial on SYSU-MM01, else one row.

        A search other than by cosine is made when it is first asked for, and kept. An experiment that names one has
        its numbers under every protocol.
        """
        protocol = self.stamped(protocol)
        plain, by, _ = protocol.partition(" by ")
        if by and plain in self.metrics["protocols"] and protocol in protocols.EVERY:
            search, trials = protocols.named(protocol), len(self.metrics["protocols"][plain])

            def searched() -> pd.DataFrame:
                embedded = self.embedded(search)
                table = embedded.table(search, trials)
                self.kept(protocol, lambda: embedded.queries(search, trials))  # the same ranking gives both
                return table

            return self.kept(f"trials {protocol}", searched)
        if protocol not in (stored := self.metrics["protocols"]):
            raise ValueError(f"run {self.experiment.run_id} has no protocol {protocol!r}: {list(stored)}")
        return pd.DataFrame(stored[protocol])

    def queries(self, protocol: str) -> pd.DataFrame:
        """The metrics of each test query, mean over trials: pid, row (in the data's table), METRICS as fractions.

        The stored features are searched once: the result is kept in this process and in the folder of the run, since
        several tables, and notebooks, read one run. Raises: ValueError where the features do not give the stored
        metrics, or for a protocol that the run lacks; FileNotFoundError where the data, with the permutations of
        official galleries, is not there.
        """
        trials, search = self.trials(protocol), protocols.named(protocol := self.stamped(protocol))

        def searched() -> pd.DataFrame:
            table = self.embedded(search).queries(search, len(trials))
            if (table[METRICS].mean() - trials[METRICS].mean()).abs().max() > 1e-3:  # rounding may swap two ranks
                raise ValueError(f"{self.folder}: features.safetensors does not give the {protocol} of metrics.json")
            return table

        return self.kept(protocol, searched)

    def kept(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table computed from this run: of this process, or of the folder, or else computed and written there.

        It is computed again after a change to the metrics, the features or the code that decides a result.
        Args: name: of the table, which names its file; compute: what returns it, of numbers alone.
        """
        features = (self.folder / "features.safetensors").stat()
        origin = [name, code_digest(), features.st_size, features.st_mtime_ns]
        key = digest([self.folder / "metrics.json"], origin)
        if key not in _kept:
            path = self.folder / "searched" / f"{name.replace(' ', '_')}.json"
            stored = remembered(path) if path.is_file() else {}
            table = pd.DataFrame(stored["columns"]) if stored.get("key") == key else compute()
            if stored.get("key") != key:
                with suppress(OSError):  # results may be read-only: then it is computed by each process
                    path.parent.mkdir(exist_ok=True)
                    write_json(path, {"key": key, "columns": table.to_dict("list")})
            _kept[key] = table
        return _kept[key]

    def embedded(self, search: protocols.Search | None = None) -> protocols.Embedded:
        """The stored features, ready for one search, or for all searches."""
        official, by = search is None or search.gallery == "official", search.by if search else self.experiment.search
        images = self.features | ({"features": self.projected(by)} if by in FITTED else {})
        permutations = permutations_of(self.experiment) if official else None
        return protocols.Embedded(searched_as(self.experiment), images, permutations, by=by)

    def stamped(self, protocol: str) -> str:
        """The name of a protocol with the search that the experiment names, if it names one."""
        return (
            f"{protocol} by {self.experiment.search}" if self.experiment.search and " by " not in protocol else protocol
        )

    def projected(self, by: str) -> Tensor:
        """The features of the test images through a projection of systems.FITTED, learned on the training people."""
        table, store = load_data(self.experiment, anew=False)
        train_rows = table[table.split == "train"]
        features = features_of(self.net(), train_rows, store)
        labels, modality = (torch.tensor(train_rows[c].to_numpy()) for c in ("pid", "modality"))
        project = FITTED[by](features, labels, modality, searched_as(self.experiment))
        return project(self.features["features"], self.features["modality"])

    def net(self) -> TwoStreamNet:
        """The trained network in evaluation mode on the CPU."""
        state = read_tensors(self.folder, "model.safetensors")
        plain = self.experiment.but(weights="none")  # the start would be overwritten: do not download it
        classes = next(w.shape[-2] for name, w in state.items() if name.endswith("classifier.weight"))
        net = train.make_net(plain, classes)
        keys = net.load_state_dict(state, strict=False)
        # counters of steps are in the networks of older runs, and torch itself adds them while it reads
        if odd := [k for part in keys for k in part if not k.endswith("num_batches_tracked")]:
            raise ValueError(f"{self.folder / 'model.safetensors'} is of another network: {odd[0]} differs")
        return net.eval()


def load(folder: Path) -> Run:
    """The finished run in a folder. Raises: FileNotFoundError if it is not finished."""
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(f"{folder} is no finished run: it has no metrics.json")
    return Run(stored_experiment(folder), folder)


def stored_experiment(folder: Path) -> Experiment:
    """The experiment of a finished run that this or an older version wrote. Raises: ValueError naming the file."""
    path = folder / "experiment.json"
    precision = read_json(folder / "metrics.json", repair(folder)).get("precision", "float32")
    try:
        return Experiment(**upgraded(read_json(path, repair(folder)), precision))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}"
        raise ValueError(f"{path} is of another version of this code ({why}): {repair(folder)}") from None


def repair(folder: Path) -> str:
    """What to do about a broken run, for the end of an error's sentence."""
    return f"delete the folder {folder}, and the run is made again"


def read_tensors(folder: Path, name: str, rows: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors of a .safetensors file of a run, by name.

    Args: folder: of the run; name: of the file; rows: tensors that it must have, all of one length.
    Raises: ValueError naming the file where it is broken; FileNotFoundError.
    """
    try:
        tensors = load_file(folder / name)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder / name} is missing: {repair(folder)}") from None
    except Exception as error:  # safetensors raises a kind of its own
        raise ValueError(f"{folder / name} cannot be read ({error}): {repair(folder)}") from error
    if not tensors or len({len(tensors[row]) if row in tensors else -1 for row in rows}) > 1:
        raise ValueError(f"{folder / name} is not whole: {repair(folder)}")
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a .safetensors file atomically: after a failure the old file is still there."""
    with whole(path) as part:
        part.write_bytes(save(tensors, metadata))


_kept: dict[str, pd.DataFrame] = {}  # Run.kept() of this process
_loaded: dict[tuple, tuple[pd.DataFrame, im.Store]] = {}  # place_of_data() -> what load_data() found there last
_stores: dict[tuple, im.Store] = {}  # the same, of RegDB's first split, and paths -> images, of which splits share one


def chance(run: Run, protocol: str) -> pd.Series:
    """Expected rank1 and mAP (fractions) of a random order, under a protocol of a run and on its test set."""
    search = protocols.named(protocol)
    return run.kept(f"chance {protocol}", lambda: run.embedded(search).chance(search, len(run.trials(protocol)))).mean()


def data_folder(name: str) -> Path:
    """The folder of a data set by name or path; a set of SynVT is drawn where it, or a part of it, is missing.

    Args: name: of a folder or a preset of SynVT, which may be followed by changed values, as synvt.preset() reads them.
    Raises: FileNotFoundError for any other set that is not there; what synvt.preset() raises.
    """
    if name.split(",")[0] in synvt.PRESETS:
        return synvt.make(synvt.preset(name), data_root() / name)
    return datasets.locate(name)


def load_data(experiment: Experiment, *, anew: bool = True) -> tuple[pd.DataFrame, im.Store]:
    """Table and decoded images of an experiment's data, split into train, val and test as the experiment says.

    Args: experiment; anew: look at the set again, at each image file. If false, what this process has loaded of it is
        used, as is right where finished runs are shown; the splits of RegDB list the same images and count as one.
    """
    if anew or (place := place_of_data(experiment)) not in _loaded:
        place, root = place_of_data(experiment), data_folder(experiment.data)
        table = datasets.read(experiment.dataset, root, split=experiment.split)
        images = place_of_data(experiment.but(split=1)), tuple(table.path)
        if anew or images not in _stores:
            _stores[images] = im.store(table, root, experiment.height, experiment.width)
        # results also depend on the lists of identities, in the table, and on the permutations of the galleries
        data = hashlib.sha256((_stores[images].digest + table.to_csv()).encode())
        if (permutations := root / PERMUTATIONS).is_file():
            data.update(permutations.read_bytes())
        _loaded[place] = table, im.Store(_stores[images].pixels, data.hexdigest())
    table, store = _loaded[place]
    return split_for(experiment, table.copy()), store


def read_table(experiment: Experiment) -> pd.DataFrame:
    """The table of an experiment's data, split into train, val and test as it says; no image is opened."""
    return split_for(
        experiment, datasets.read(experiment.dataset, data_folder(experiment.data), split=experiment.split)
    )


def place_of_data(experiment: Experiment) -> tuple:
    """The fields that decide which data an experiment reads, for use as a key."""
    fields = ("data", "dataset", "split", "height", "width")
    return data_root(), *(getattr(experiment, name) for name in fields)


def data_digest(experiment: Experiment) -> str:
    """sha256 of an experiment's data, as of the last time that this process loaded it."""
    if (place := place_of_data(experiment)) not in _loaded:
        load_data(experiment, anew=False)
    return _loaded[place][1].digest


def split_for(experiment: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """The table of a data set with column `split` (train, val, test) as an experiment wants it.

    Where it is `tested` on "val", the validation people take the place of the test people, who are left out.
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
    """The layout whose searches measure an experiment (protocols.Search): "val", or that of its data set."""
    return "val" if experiment.tested == "val" else experiment.dataset


def run(experiment: Experiment) -> Run:
    """The run of an experiment: loaded if it is finished, else trained, evaluated and written.

    A training that was stopped goes on from its last whole epoch. A second process that asks for the same run waits for
    the first. A finished run whose data has changed since is renamed: it is neither read nor deleted.
    Raises: ValueError, FileNotFoundError or FloatingPointError, one sentence: make() and train.fit() say when.
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
    """The same experiment in every other precision, in which another machine may have trained it."""
    others = [p for p in device.PRECISIONS if p != experiment.precision]
    return [experiment.model_copy(update={"precision": p}) for p in others]


def is_done(run: Run) -> bool:
    """Whether a run is finished; a finished one of other fields or other data is renamed first."""
    if not (run.folder / "metrics.json").exists():
        return False
    if is_current(run):
        return True
    run.folder.rename(run.folder.with_name(f"{run.folder.name}-before-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"))
    run.folder.mkdir()
    return False


def is_current(run: Run) -> bool:
    """Whether a finished run has exactly these fields and, where its data and its start are at hand, used the same.

    The data is read once in a process: after a change to its files start the process, or notebook kernel, again.
    """
    both = run.experiment, stored_experiment(run.folder)
    fields, stored = (e.model_dump(mode="json", exclude=NOT_HASHED) for e in both)
    if fields != stored:
        return False  # a default has changed since
    try:
        datasets.locate(run.experiment.data)
    except FileNotFoundError:
        return True  # results may be copied without their data
    if data_digest(run.experiment) != run.metrics["data_digest"]:
        return False
    start = start_digest(run.experiment)
    return not start or start == run.metrics.get("start_digest", start)


def start_digest(experiment: Experiment) -> str:
    """sha256 of the file that an experiment's weights start from; "" where there is none, or it is missing."""
    file = weights_file(experiment.backbone, experiment.weights)
    return digest_of(file, file.stat().st_mtime_ns) if file and file.is_file() else ""


@cache  # ResNet-50 has 100 MB, and each finished run asks for it
def digest_of(file: Path, written: int) -> str:
    """sha256 of a file. Args: file; written: when it was changed last, so that a changed file is read again."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache  # the process goes on with the code that it has loaded, whatever becomes of the files
def code_digest(names: tuple[str, ...] = RESULT_CODE) -> str:
    """sha256 of some files of the package, named as in RESULT_CODE, without their comments and docstrings."""
    package, code = Path(__file__).parent, hashlib.sha256()
    for file in (file for name in names for file in sorted(package.glob(f"{name}.py"))):
        code.update(without_words(file.read_text(encoding="utf-8")).encode())
    return code.hexdigest()


def without_words(source: str) -> str:
    """Python source without comments, docstrings and empty lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            text = node.body[0]
            lines[text.lineno - 1 : text.end_lineno] = [""] * (text.end_lineno - text.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def other_code(run: Run) -> str:
    """A sentence that names a finished run of other code than that of today; "" where the code is the same.

    A change of code never makes a run again, since its id depends on its fields alone: delete its folder to do so.
    """
    if run.metrics.get("code_digest", now := code_digest()) == now:
        return ""
    m = run.metrics
    origin = f"run {run.experiment.run_id} was made on {m['finished']} at commit {m['commit']}"
    return f"{origin}; the code that decides a result has changed since: delete {run.folder} to make it anew"


def make(experiment: Experiment, folder: Path) -> None:
    """Train, extract features, evaluate and write a run. Of several processes only the first does more than train.

    Raises: ValueError before any work for an experiment that cannot run; FloatingPointError for features that are not
    finite; what train.fit() raises.
    """
    start, code, p = time.perf_counter(), code_digest(), experiment.identities_per_batch  # of the code as it starts
    device.pick(experiment.device)
    parallel.rows_of_process(2 * p, p)  # raises if the processes cannot share the identities
    permutations = permutations_of(experiment)
    stop_before_work(experiment, permutations)
    table, store = parallel.first_then_others(lambda: load_data(experiment))
    test = table[table.split == "test"]
    if device.rank() == 0:
        write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    # A checkpoint belongs to its data, to all fields, also those left at a default, and to the code that trains
    start_of_net = start_digest(experiment)
    origin = store.digest + start_of_net + experiment.model_dump_json(exclude=NOT_HASHED)
    origin += code_digest(TRAINING_CODE)
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
    tables = protocols.Embedded(searched_as(experiment), images, permutations).tables(experiment.trials)
    history = read_json_lines(folder / "history.jsonl", repair(folder))
    write_json(
        folder / "metrics.json",
        {
            "run_id": experiment.run_id,
            "protocols": {name: frame.to_dict("records") for name, frame in tables.items()},
            "data_digest": store.digest,
            "start_digest": start_of_net,
            "code_digest": code,
            "seed": experiment.seed,
            "step": train.path_of_step(experiment, device.pick(experiment.device)),
            "train_seconds": sum(row["seconds"] for row in history),
            "last_call_seconds": time.perf_counter() - start,
            "peak_memory": peak_memory(),
            "parameters": sum(p.numel() for p in net.parameters()),
            **environment(experiment.device, experiment.precision),
        },
    )
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def permutations_of(experiment: Experiment) -> dict | None:
    """The permutations that draw the official galleries of SYSU-MM01; None where the data has none.

    Raises: ValueError for a broken file.
    """
    path = data_folder(experiment.data) / PERMUTATIONS
    return datasets.sysu_permutations(path) if experiment.dataset == "sysu" and path.is_file() else None


def stop_before_work(experiment: Experiment, permutations: dict | None) -> None:
    """Raise ValueError, one sentence, if training or evaluation on this data would fail; no image is opened.

    Every search is run on random features: else it would fail after the training, which may take hours.
    """
    place = data_folder(experiment.data)
    table = read_table(experiment)
    if obstacles := datasets.obstacles(searched_as(experiment), table, root=place, train=experiment.epochs > 0):
        remedy = f", or lower validation_identities={n}" if (n := experiment.validation_identities) else ""
        raise ValueError(obstacles[0] + remedy)
    if experiment.epochs:
        train.make_sampler(experiment, table[table.split == "train"])
    train.rehearse(experiment)
    try:
        protocols.rehearse(searched_as(experiment), table[table.split == "test"], permutations, experiment.trials)
    except ValueError as error:
        raise ValueError(f"{place}: the test images cannot be searched: {error}") from error


def features_of(net: TwoStreamNet, rows: pd.DataFrame, store: im.Store) -> Tensor:
    """Features (n, D) of some rows of a table, whose index points into the store's pixels; as inference.extract()."""
    return inference.extract(net, store.pixels, rows.index.to_numpy(), rows.modality.to_numpy())


def collect(runs: Iterable[Run], protocol: str | None = None) -> pd.DataFrame:
    """A tidy table with one row for each run and protocol: the mean of each metric over trials, fractions.

    Columns: run_id, method, dataset, data, split, seed, protocol, trials, METRICS, and `<metric>_sd` over trials.
    Trials that are equal in every metric count as one, with a spread of NaN: they drew the only possible gallery, as
    with ten shots where every identity has ten images.
    Args: runs; protocol: the only one to read, by default all that a run has.
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
