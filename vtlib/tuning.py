"""Equal tuning: every method gets the same trials on validation people; the values chosen ship with the package.

A trial is a run like any other, of seed 0 and half the steps, and tested on the validation people: no image of a test
person is read. Six pairs of learning rates come first. For a loss whose size depends on the length of the feature,
three weights follow at the best rates. The trial with the highest mAP on the validation people is chosen.
`python -m vtlib.launch tune --profile cpu` does all of it.
"""

from collections.abc import Iterable
from math import isnan
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from . import device, runs
from .config import Experiment, experiment, tuned_file
from .files import write_json

# (lr, backbone_lr_factor): one rate for all layers, or a slower backbone
RATES = ((0.005, 1.0), (0.01, 1.0), (0.02, 1.0), (0.05, 1.0), (0.02, 0.1), (0.1, 0.2))
WEIGHTS = (0.3, 1.0, 3.0)  # factors of the method's own weight
# losses that are distances, which grow with the length of features; cosines and logits do not
SCALED = ("batch_hard_triplet", "cmdc", "adaptive_cmdc", "hetero_center_triplet", "hetero_center", "center_metric")
SCALED += ("center_constraint", "weighted_regularised_triplet", "within_view_triplet", "tri_directional")
SCALED += ("within_modality_triplet", "branch_triplet")
LENGTHS = (*SCALED, "margin_mmd")  # losses that features of length 1 change


class Trial(NamedTuple):
    """One trial of a method and its result."""

    method: str
    experiment: Experiment
    val_mAP: float  # on the validation people, percent; NaN where the training broke


def trial(profile: str, method: str, rate: tuple[float, float], factor: float = 1.0) -> Experiment:
    """The experiment of a trial: `rate` is one of RATES, `factor` multiplies the weights of SCALED losses."""
    plain = experiment(profile, method, tuned=False)
    return as_trial(plain, lr=rate[0], backbone_lr_factor=rate[1], **weights(plain, factor))


def as_trial(plain: Experiment, **fields) -> Experiment:
    """The same experiment with some fields changed, of half its steps, and tested on the validation people."""
    if plain.steps_per_epoch:
        half = {"steps_per_epoch": max(1, plain.steps_per_epoch // 2)}
    else:  # an epoch is one pass over the set: halve the epochs
        half = {"epochs": max(1, plain.epochs // 2)}
    return plain.but(**half | fields | {"tested": "val", "train_on": "train", "search": ""})


def weights(plain: Experiment, factor: float) -> dict[str, float]:
    """Overrides that multiply the weights of SCALED losses by a factor; {} for a factor of 1 or without such losses."""
    scaled = {name: term["weight"] for name, term in plain.losses.items() if name in SCALED}
    return {f"losses.{name}.weight": round(w * factor, 6) for name, w in scaled.items() if factor != 1}


def values(e: Experiment) -> dict[str, float]:
    """The rates and weights of a trial that differ from those of its method, as overrides."""
    plain = experiment(e.profile, e.method, tuned=False)
    scaled = {f"losses.{name}.weight": e.losses[name]["weight"] for name in e.losses if name in SCALED}
    numbers = {"lr": e.lr, "backbone_lr_factor": e.backbone_lr_factor, **scaled}
    own = {"lr": plain.lr, "backbone_lr_factor": plain.backbone_lr_factor}
    own |= {f"losses.{name}.weight": term["weight"] for name, term in plain.losses.items()}
    return {name: value for name, value in numbers.items() if value != own[name]}


def tried(methods: Iterable[str], profile: str, measure) -> list[Trial]:
    """All trials of some methods.

    Args: methods; profile; measure: experiments -> mAP of each, in percent, such as measured(). It is called twice:
        with the rates of all methods, then with the weights.
    """
    methods = list(methods)
    rates = [(m, trial(profile, m, rate)) for m in methods for rate in RATES]
    trials = [Trial(m, e, mAP) for (m, e), mAP in zip(rates, measure([e for _, e in rates]), strict=True)]
    factors = []
    for m, best in best_of(trials).items():
        rate = best.experiment.lr, best.experiment.backbone_lr_factor
        if weights(experiment(profile, m, tuned=False), 0.5):
            factors += [(m, trial(profile, m, rate, factor)) for factor in WEIGHTS if factor != 1]
    return trials + [Trial(m, e, mAP) for (m, e), mAP in zip(factors, measure([e for _, e in factors]), strict=True)]


def best_of(trials: list[Trial]) -> dict[str, Trial]:
    """The trial of each method with the highest mAP, the first of equal ones; one that broke is below all others."""
    best: dict[str, Trial] = {}
    for t in sorted(trials, key=lambda t: -1 if isnan(t.val_mAP) else t.val_mAP, reverse=True):  # keeps equal ones
        best.setdefault(t.method, t)
    return {method: best[method] for method in dict.fromkeys(t.method for t in trials)}


def measured(experiments: list[Experiment], say=print) -> list[float]:
    """mAP (percent) of some trials on the validation people; NaN for a training that breaks. Finished runs are loaded.

    Args: experiments; say: is called with a line of progress for each.
    """
    results = []
    for n, e in enumerate(experiments, 1):
        run = trained(e, say)
        value = 100 * runs.collect([run], "val t2v").mAP.item() if run else float("nan")
        results.append(value)
        numbers = values(e) or "as the recipe says"
        say(f"{n} of {len(experiments)}: {e.method} {numbers}: mAP {value:.1f} (run {e.run_id})")
    return results


def table(trials: list[Trial]) -> pd.DataFrame:
    """A row a trial: method, rates, weight (factor_of), val_mAP (percent), run_id, recipe (its own values?), chosen."""
    rows = [
        {"method": m, "lr": e.lr, "backbone_lr_factor": e.backbone_lr_factor, "weight": factor_of(e), "val_mAP": mAP}
        | {"run_id": e.run_id, "recipe": not values(e)}
        for m, e, mAP in trials
    ]
    best = best_of(trials)
    return pd.DataFrame(rows).assign(chosen=[t is best[t.method] for t in trials])


def factor_of(e: Experiment) -> float:
    """The factor by which a trial multiplies the weights of its SCALED losses; NaN where it has none."""
    plain = experiment(e.profile, e.method, tuned=False)
    factors = [e.losses[n]["weight"] / plain.losses[n]["weight"] for n in e.losses if n in SCALED]
    return round(factors[0], 3) if factors else float("nan")


def both_places(method: str, profile: str, seeds: Iterable[int] = (0, 1, 2)) -> dict[str, list[Experiment]]:
    """Trials of a method with its metric losses on the pooled feature and behind the neck, a trial for each seed.

    Losses that are distances are tried on features of any length and of length 1. In the method's own place the trials
    have the rates and weights that were chosen for it, in the other places those of the recipe.
    Returns: name of the place -> trials; {} for a method with the identity loss only.
    """
    own, plain = (experiment(profile, method, tuned=tuned) for tuned in (True, False))
    metric = [name for name in own.losses if name != "id"]
    current = {(own.losses[n].get("on", "pooled"), own.losses[n].get("normalise", False)) for n in metric}
    places = {}
    for place in ("pooled", "neck") if metric else ():
        for unit in (False, True) if set(metric) & set(LENGTHS) else (False,):
            moved = {f"losses.{n}.{key}": value for n in metric for key, value in (("on", place), ("normalise", unit))}
            e = own if current == {(place, unit)} else plain.but(**moved)
            places[f"{place}, length 1" if unit else place] = [as_trial(e, seed=seed) for seed in seeds]
    return places


def place_table(methods: Iterable[str], profile: str, say=print) -> pd.DataFrame:
    """Trains both_places() of some methods; a row a place: mean and sd over seeds on the validation people, percent."""
    rows = []
    for method in methods:
        own = as_trial(experiment(profile, method))
        for place, trials in both_places(method, profile).items():
            finished = [run for run in map(trained, trials) if run]
            percent = 100 * runs.collect(finished, "val t2v").reindex(columns=["rank1", "mAP"])
            e = trials[0]
            rows.append(
                {"method": method, "place": place, "own": e == own, "lr": e.lr}
                | {"backbone_lr_factor": e.backbone_lr_factor, "weight_factor": factor_of(e), "seeds": len(finished)}
                | {f"val_{metric}": percent[metric].mean() for metric in percent}
                | {f"{metric}_sd": percent[metric].std(ddof=1) for metric in percent}
            )
            say(f"{method}, {place}: mAP {percent.mAP.mean():.1f} +- {percent.mAP.std(ddof=1):.1f}")
    return pd.DataFrame(rows)


def trained(e: Experiment, say=print) -> runs.Run | None:
    """runs.run() of a trial; None, with a sentence through `say`, if its training breaks."""
    try:
        return runs.run(e)
    except FloatingPointError as error:
        say(f"{e.method}: {error}")
        return None


def write(profile: str, trials: list[Trial], path: Path) -> None:
    """Write all trials as one JSON file: {profile, facts, chosen: {method: overrides}, trials: rows of table()}."""
    frame = table(trials)
    choice = {method: values(best.experiment) for method, best in best_of(trials).items()}
    rows = frame.round({"val_mAP": 2}).astype(object).where(frame.notna(), None).to_dict("records")
    first = trials[0].experiment
    facts = device.environment(first.device, first.precision)
    facts = {name: facts[name] for name in ("device", "precision", "commit", "finished")}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"profile": profile, "facts": facts, "chosen": choice, "trials": rows})


def shipped(profile: str) -> pd.DataFrame:
    """table() of the trials that ship for a profile; empty where none do."""
    columns = ["method", "lr", "backbone_lr_factor", "weight", "val_mAP", "run_id", "recipe", "chosen"]
    return pd.DataFrame(tuned_file(profile)["trials"], columns=columns)
