"""Equal tuning: every method gets the same trials on validation people, and what they choose ships with the package.

A trial is a run like any other, of seed 0, of half the steps, tested on the validation people: no image of a test
person is read. First six pairs of rates, then, for a loss whose size depends on that of the feature, three weights at
the best of them. mAP on the validation people chooses. `python -m vtlib.launch tune --profile cpu` makes all of it.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from . import runs
from .config import Experiment, experiment
from .files import write_json
from .methods import METHODS

# (rate of new layers, factor of the backbone's): one rate for all layers, or a slower backbone
RATES = ((0.005, 1.0), (0.01, 1.0), (0.02, 1.0), (0.05, 1.0), (0.02, 0.1), (0.1, 0.2))
WEIGHTS = (0.3, 1.0, 3.0)  # times the method's own weight
# losses that are distances of features; the others have no scale: cosines, and logits
SCALED = ("batch_hard_triplet", "cmdc", "hetero_center_triplet", "hetero_center", "center_metric", "center_constraint")
SHIPPED = Path(__file__).parent / "tuned"


def trial(profile: str, method: str, rate: tuple[float, float], factor: float = 1.0) -> Experiment:
    """One trial. factor: of the weights of the method's SCALED losses."""
    plain = experiment(profile, method, tuned=False)
    fields = {"lr": rate[0], "backbone_lr_factor": rate[1], "tested": "val", "train_on": "train"}
    if plain.steps_per_epoch:
        fields["steps_per_epoch"] = max(1, plain.steps_per_epoch // 2)
    else:  # an epoch passes over the set: half the epochs
        fields["epochs"] = max(1, plain.epochs // 2)
    return plain.but(**fields | weights(plain, factor))


def weights(plain: Experiment, factor: float) -> dict[str, float]:
    """The weights of an experiment's SCALED losses times a factor, as overrides; {} at 1 and where there are none."""
    scaled = {name: term["weight"] for name, term in plain.losses.items() if name in SCALED}
    return {f"losses.{name}.weight": round(w * factor, 6) for name, w in scaled.items() if factor != 1}


def values(of: Experiment) -> dict[str, float]:
    """What a trial tries, as overrides of the method's experiment."""
    plain = experiment(of.profile, of.method, tuned=False)
    named = {f"losses.{name}.weight": of.losses[name]["weight"] for name in of.losses if name in SCALED}
    found = {"lr": of.lr, "backbone_lr_factor": of.backbone_lr_factor, **named}
    own = {"lr": plain.lr, "backbone_lr_factor": plain.backbone_lr_factor}
    own |= {f"losses.{name}.weight": term["weight"] for name, term in plain.losses.items()}
    return {name: value for name, value in found.items() if value != own[name]}


def tried(methods: Iterable[str], profile: str, make) -> list[tuple[str, Experiment, float]]:
    """All trials of some methods: method, experiment, mAP on validation people; a failed one has NaN.

    Args: make: experiments -> mAP of each, in their order; the rates of all methods go to it first, then the weights.
    """
    methods, found = list(methods), []
    first = [(m, trial(profile, m, rate)) for m in methods for rate in RATES]
    found += [(m, e, value) for (m, e), value in zip(first, make([e for _, e in first]), strict=True)]
    second = []
    for m in methods:
        best = max((row for row in found if row[0] == m), key=lambda row: row[2] if row[2] == row[2] else -1)[1]
        rate = best.lr, best.backbone_lr_factor
        if weights(experiment(profile, m, tuned=False), 0.5):
            second += [(m, trial(profile, m, rate, factor)) for factor in WEIGHTS if factor != 1]
    return found + [(m, e, value) for (m, e), value in zip(second, make([e for _, e in second]), strict=True)]


def measured(wanted: list[Experiment], say=print) -> list[float]:
    """mAP on validation people of some trials, percent; runs that are there are loaded. A training that breaks: NaN."""
    found = []
    for n, e in enumerate(wanted, 1):
        try:
            value = 100 * runs.collect([runs.run(e)], "val t2v").mAP.item()
        except FloatingPointError as error:
            say(f"{e.method}: {error}")
            value = float("nan")
        found.append(value)
        say(f"{n} of {len(wanted)}: {e.method} {values(e) or 'as the recipe says'}: mAP {value:.1f} (run {e.run_id})")
    return found


def table(found: list[tuple[str, Experiment, float]]) -> pd.DataFrame:
    """A row a trial: method, the values that it tries, val_mAP (percent), run_id, chosen, recipe (its own values)."""
    rows = [
        {"method": m, "lr": e.lr, "backbone_lr_factor": e.backbone_lr_factor, "weight": factor_of(e), "val_mAP": value}
        | {"run_id": e.run_id, "recipe": not values(e)}
        for m, e, value in found
    ]
    frame = pd.DataFrame(rows)
    best = frame.groupby("method").val_mAP.idxmax()
    return frame.assign(chosen=frame.index.isin(best))


def factor_of(e: Experiment) -> float:
    """By what the weights of a trial's SCALED losses are multiplied; NaN where it has none."""
    plain = experiment(e.profile, e.method, tuned=False)
    factors = [e.losses[n]["weight"] / plain.losses[n]["weight"] for n in e.losses if n in SCALED]
    return round(factors[0], 3) if factors else float("nan")


def write(profile: str, found: list[tuple[str, Experiment, float]], path: Path) -> None:
    """The choices and all trials as one JSON file: {profile, facts, chosen: {method: overrides}, trials: rows}."""
    made = table(found)
    choice = {m: values(next(e for n, e, _ in found if e.run_id == r and n == m)) for m, r in best(made).items()}
    rows = made.round({"val_mAP": 2}).astype(object).where(made.notna(), None).to_dict("records")
    facts = runs.environment(found[0][1])
    kept = {name: facts[name] for name in ("device", "precision", "commit", "finished")}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"profile": profile, "facts": kept, "chosen": choice, "trials": rows})


def best(made: pd.DataFrame) -> dict[str, str]:
    """The run of each method's best trial."""
    return made[made.chosen].set_index("method").run_id.to_dict()


def shipped(profile: str) -> pd.DataFrame:
    """table() of the choice that ships for a profile; empty where none does."""
    file = SHIPPED / f"{profile}.json"
    rows = json.loads(file.read_text())["trials"] if file.is_file() else []
    columns = ["method", "lr", "backbone_lr_factor", "weight", "val_mAP", "run_id", "recipe", "chosen"]
    return pd.DataFrame(rows, columns=columns)


def methods_of_tables() -> list[str]:
    """The methods that some table measures."""
    from .papers import MEASURED

    return [m for m in METHODS if m in MEASURED.values()]
