"""Equal tuning: every method gets the same trials on validation people, and what they choose ships with the package.

A trial is a run like any other, of seed 0, of half the steps, tested on the validation people: no image of a test
person is read. First six pairs of rates, then, for a loss whose size depends on that of the feature, three weights at
the best of them. mAP on the validation people chooses. `python -m vtlib.launch tune --profile cpu` makes all of it.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from . import device, runs
from .config import Experiment, experiment, tuned_file
from .files import write_json

# (rate of new layers, factor of the backbone's): one rate for all layers, or a slower backbone
RATES = ((0.005, 1.0), (0.01, 1.0), (0.02, 1.0), (0.05, 1.0), (0.02, 0.1), (0.1, 0.2))
WEIGHTS = (0.3, 1.0, 3.0)  # times the method's own weight
# losses that are distances of features; the others have no scale: cosines, and logits
SCALED = ("batch_hard_triplet", "cmdc", "hetero_center_triplet", "hetero_center", "center_metric", "center_constraint")
LENGTHS = (*SCALED, "margin_mmd")  # these change with the length of the feature: its length 1 is another reading


def trial(profile: str, method: str, rate: tuple[float, float], factor: float = 1.0) -> Experiment:
    """One trial. factor: of the weights of the method's SCALED losses."""
    plain = experiment(profile, method, tuned=False)
    return as_trial(plain, lr=rate[0], backbone_lr_factor=rate[1], **weights(plain, factor))


def as_trial(plain: Experiment, **fields) -> Experiment:
    """An experiment with other fields, of half its steps, tested on the validation people."""
    if plain.steps_per_epoch:
        half = {"steps_per_epoch": max(1, plain.steps_per_epoch // 2)}
    else:  # an epoch passes over the set: half the epochs
        half = {"epochs": max(1, plain.epochs // 2)}
    return plain.but(**half | fields | {"tested": "val", "train_on": "train"})


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
        run = trained(e, say)
        value = 100 * runs.collect([run], "val t2v").mAP.item() if run else float("nan")
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
    best = frame.val_mAP.fillna(-1).groupby(frame.method).idxmax()  # all trials of a method may have failed
    return frame.assign(chosen=frame.index.isin(best))


def factor_of(e: Experiment) -> float:
    """By what the weights of a trial's SCALED losses are multiplied; NaN where it has none."""
    plain = experiment(e.profile, e.method, tuned=False)
    factors = [e.losses[n]["weight"] / plain.losses[n]["weight"] for n in e.losses if n in SCALED]
    return round(factors[0], 3) if factors else float("nan")


def both_places(method: str, profile: str, seeds: Iterable[int] = (0, 1, 2)) -> dict[str, list[Experiment]]:
    """Trials of a method, a seed each, with its metric losses in each place and, of distances, at each length.

    Its own place has the rate and the weights that were chosen for it, any other those of the recipe. {} of a method
    that has the identity loss alone.
    """
    own, plain = (experiment(profile, method, tuned=tuned) for tuned in (True, False))
    metric = [name for name in own.losses if name != "id"]
    found = {}
    for place in ("pooled", "neck") if metric else ():
        for short in (False, True) if set(metric) & set(LENGTHS) else (False,):
            put = {f"losses.{n}.{key}": value for n in metric for key, value in (("on", place), ("normalise", short))}
            has = {(own.losses[n].get("on", "pooled"), own.losses[n].get("normalise", False)) for n in metric}
            made = own if has == {(place, short)} else plain.but(**put)
            found[f"{place}, length 1" if short else place] = [as_trial(made, seed=seed) for seed in seeds]
    return found


def place_table(methods: Iterable[str], profile: str, say=print) -> pd.DataFrame:
    """both_places() of some methods, a row a place: mean and sd over seeds on the validation people, percent."""
    rows = []
    for method in methods:
        own = as_trial(experiment(profile, method))
        for place, trials in both_places(method, profile).items():
            done = [run for run in map(trained, trials) if run]
            each = 100 * runs.collect(done, "val t2v").reindex(columns=["rank1", "mAP"])
            one = trials[0]
            rows.append(
                {"method": method, "place": place, "own": one == own, "lr": one.lr}
                | {"backbone_lr_factor": one.backbone_lr_factor, "weight_factor": factor_of(one), "seeds": len(done)}
                | {f"val_{metric}": each[metric].mean() for metric in each}
                | {f"{metric}_sd": each[metric].std(ddof=1) for metric in each}
            )
            say(f"{method}, {place}: mAP {each.mAP.mean():.1f} +- {each.mAP.std(ddof=1):.1f}")
    return pd.DataFrame(rows)


def trained(e: Experiment, say=print) -> runs.Run | None:
    """runs.run() of a trial; None, and a sentence, of a training that breaks."""
    try:
        return runs.run(e)
    except FloatingPointError as error:
        say(f"{e.method}: {error}")
        return None


def write(profile: str, found: list[tuple[str, Experiment, float]], path: Path) -> None:
    """The choices and all trials as one JSON file: {profile, facts, chosen: {method: overrides}, trials: rows}."""
    made = table(found)
    choice = {m: values(e) for (m, e, _), best in zip(found, made.chosen, strict=True) if best}
    rows = made.round({"val_mAP": 2}).astype(object).where(made.notna(), None).to_dict("records")
    first = found[0][1]
    facts = device.environment(first.device, first.precision)
    kept = {name: facts[name] for name in ("device", "precision", "commit", "finished")}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"profile": profile, "facts": kept, "chosen": choice, "trials": rows})


def shipped(profile: str) -> pd.DataFrame:
    """table() of the choice that ships for a profile; empty where none does."""
    columns = ["method", "lr", "backbone_lr_factor", "weight", "val_mAP", "run_id", "recipe", "chosen"]
    return pd.DataFrame(tuned_file(profile)["trials"], columns=columns)
