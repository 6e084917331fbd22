"""Experiment: every number that changes a result, typed and strict; profiles; the run id."""

import hashlib
import inspect
import json
import re
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from . import device, pml
from .common import unknown
from .losses import LOSSES
from .methods import METHODS, RECIPES
from .model import stripes_do_not_fit

# Fields that name or place a run without changing its result
NOT_HASHED = {"profile", "method", "device", "compile"}


class Part(BaseModel):
    """A part head: the last map in horizontal stripes, each with a feature of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    stripes: int = Field(ge=1)
    width: int = Field(ge=1)  # of each stripe's feature
    share: float = Field(gt=0)  # factor of the head's normalised feature in the retrieval feature


Option = bool | float | str
PLACES = ("pooled", "neck", "stripes")  # where a metric loss may act: objective.read() says what each is
OF_TERM = ("weight", "on", "normalise")  # what every term of `losses` may have; the rest are arguments of the loss
LAYOUTS = ("sysu", "regdb", "folder")


class Experiment(BaseModel):
    """One training and its evaluation. Make one with `experiment(profile, method, ...)`, which fills in defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    profile: Literal["quick", "cpu", "gpu", "paper"]  # sets the fields below to values that belong together
    method: str = "custom"  # a name of methods.METHODS, or one of your own; it sets network and losses
    device: str = "auto"  # auto is the first GPU if there is one; or cpu, cuda, cuda:1
    seed: int = Field(0, ge=0, lt=2**31)  # of the start, the batches and the augmentation
    precision: Literal["float32", "bf16"] = "bf16"  # of the maps in training; left out, or auto: bf16 where the device
    # of this machine computes it itself, else float32, settled before the run has its id
    compile: bool = False  # the stages by torch.compile: slower on the processor that it was measured on
    sync_bn: bool = True  # several processes: BN over the global batch, so that their number changes no result

    # data
    dataset: Literal["sysu", "regdb", "folder"]  # the layout, and with it the protocol
    data: str  # a folder under the data root (VTLIB_DATA), or a path
    split: int = Field(1, ge=1, le=10)  # RegDB: which of the ten given splits
    train_on: Literal["train", "train+val"] = "train"  # SYSU-MM01: 296 identities, or the community's 395
    validation_identities: int = Field(0, ge=0)  # training people held out, of a set that names none
    height: int = Field(288, ge=16, le=4096)  # pixels
    width: int = Field(144, ge=8, le=4096)  # pixels

    # network (S1 section 3.1, S2 section 3.1)
    backbone: str = "resnet50"  # a ResNet of torchvision, or thin
    weights: str = "none"  # the start: none, synvt (pretrain.py), imagenet, or a file
    specific_stages: Literal[0, 1, 2, 3] = 2  # how many stages each modality has of its own: 2 in S1, S2 and HC-Tri,
    # 1 (conv1 and bn1) in the AGW family, 3 in MMD-ReID, 0 in the one-stream network of Wu et al. 2017
    attention: bool  # position attention behind stage 1
    attention_reduction: int = Field(1, ge=1)  # open: the width of B and C is divided by this
    pooling: Literal["gem", "avg"] = "gem"  # of the last map: generalised mean, or average
    gem_p: float = Field(3.0, ge=1.0)  # p of gem; 10, as some public code has it for RegDB, fails on SYSU-MM01
    last_stride: Literal[1, 2] = 1  # of stage 4; 1 doubles the last map
    parts: tuple[Part, ...] = Field((), strict=False)  # heads of stripes; none: one pooled feature and a BN neck

    # losses
    losses: dict[str, dict[str, Option | dict[str, Any]]]  # name -> weight, place (`on`: pooled, neck or stripes; and
    # `normalise`, to length 1 there) and arguments, as losses.cmdc.weight=2 losses.cmdc.on=neck
    over_parts: Literal["sum", "mean"] = "sum"  # open: of identity losses over stripes, of metric losses over heads

    # recipe (S1 section 4.1.3; P, K, weight decay and schedule are the field's, the paper gives none)
    epochs: int = Field(60, ge=0)  # 0: the untouched start
    steps_per_epoch: int = Field(0, ge=0)  # 0: as many whole batches as the larger modality has (SYSU-MM01: 695)
    identities_per_batch: int = Field(8, ge=2, le=10_000)  # P
    images_per_identity: int = Field(4, ge=1, le=1_000)  # K, in each modality: a batch has 2 * P * K images
    lr: float = Field(0.1, gt=0)  # rate of SGD, for new layers
    backbone_lr_factor: float = Field(0.1, ge=0)  # times lr: for layers that start from pre-trained weights
    momentum: float = Field(0.9, ge=0, lt=1)  # of SGD
    nesterov: bool = False  # the momentum's form
    weight_decay: float = Field(5e-4, ge=0)  # of SGD, all parameters
    schedule: Literal["hc_tri", "s2"] = "hc_tri"  # hc_tri, the field's: warm-up, then times gamma at each milestone;
    # s2: a tenth after every eighth of the epochs, as S2 prints it
    warmup_epochs: int = Field(10, ge=0)  # the rate rises to lr over these
    milestones: tuple[int, ...] = Field((20, 50), strict=False)  # epochs at which the rate is multiplied by gamma
    gamma: float = Field(0.1, gt=0)  # factor of the rate at each milestone

    # augmentation
    pad: int = Field(10, ge=0)  # zero padding before the random crop, pixels
    flip: float = Field(0.5, ge=0, le=1)  # probability of mirroring
    erase: float = Field(0.0, ge=0, le=1)  # probability of random erasing

    # evaluation
    validate_every: int = Field(1, ge=1)  # epochs between two looks at the validation people; the last one always looks
    trials: int = Field(10, ge=1, le=10)  # SYSU-MM01 galleries; a single one is never a result
    tested: Literal["test", "val"] = "test"  # who is searched in the end; val: the validation people, and no image of
    # a test person is read, as in tuning

    @field_validator("device")
    @classmethod
    def _device_has_a_name(cls, name: str) -> str:
        return device.check_name(name)

    @model_validator(mode="after")
    def _losses_exist(self):
        if not self.losses:
            raise ValueError(f"losses is empty: name at least one of {', '.join(LOSSES)}, with its weight")
        for name, term in self.losses.items():
            options = arguments(term)
            pml.check(name, options) if pml.is_theirs(name) else check_options(name, options)
            check_place(name, term, bool(self.parts))
            if not isinstance(weight := term.get("weight"), float) or isinstance(weight, bool) or not isfinite(weight):
                raise ValueError(f"loss {name} needs a weight, a finite number: losses.{name}.weight=1.0")
        return self

    @model_validator(mode="after")
    def _stripes_fit(self):
        rows = -(
            -self.height // (16 * self.last_stride)
        )  # of the last map: every backbone halves it four or five times
        stripes = [part.stripes for part in self.parts]
        if any(rows % n for n in stripes):
            raise ValueError(stripes_do_not_fit(self.height, rows, stripes))
        return self

    @property
    def run_id(self) -> str:
        """Twelve hex digits: the hash of every field that changes the result.

        Fields at their default are left out, so that a field added later keeps the ids of finished runs.
        """
        fields = self.model_dump(mode="json", exclude=NOT_HASHED, exclude_defaults=True)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]

    def but(self, **overrides: Any) -> "Experiment":
        """The same experiment with other values; nested names with dots, as in `experiment`."""
        return build(self.model_dump(), overrides)


def arguments(term: dict[str, Any]) -> dict[str, Any]:
    """What a term of `losses` hands to its loss."""
    return {k: v for k, v in term.items() if k not in OF_TERM}


def check_place(name: str, term: dict[str, Any], parts: bool) -> None:
    """Raise ValueError unless a term says well where its loss acts. parts: whether the network has part heads."""
    place, normalise = term.get("on", "pooled"), term.get("normalise", False)
    if name == "id" and ("on" in term or "normalise" in term):
        raise ValueError("losses.id reads the logits of the classifiers: leave its `on` and `normalise` out")
    if place not in PLACES:
        raise ValueError(unknown(f"value of losses.{name}.on", place, PLACES))
    if place == "stripes" and not parts:
        raise ValueError(f"losses.{name}.on=stripes needs a network with parts: choose pooled or neck")
    if not isinstance(normalise, bool):
        raise ValueError(f"losses.{name}.normalise must be true or false, not {normalise!r}")


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise ValueError unless `name` is one of LOSSES and takes these options, each of the type of its default."""
    if name not in LOSSES:
        raise ValueError(unknown("loss", name, LOSSES))
    given_by_network = {"local"}
    known = {p.name: p for p in inspect.signature(LOSSES[name]).parameters.values() if p.kind == p.KEYWORD_ONLY}
    counts = {}
    for option, value in options.items():
        if option not in known.keys() - given_by_network:
            raise ValueError(unknown(f"argument of loss {name}", option, {*known, *OF_TERM} - given_by_network))
        wanted = known[option].annotation
        if get_origin(wanted) is Literal and value not in get_args(wanted):
            raise ValueError(unknown(f"value of losses.{name}.{option}", value, get_args(wanted)))
        if wanted in (bool, float, int) and not (
            type(value) is (bool if wanted is bool else float) and (wanted is not int or value.is_integer())
        ):
            raise ValueError(f"losses.{name}.{option} must be of type {wanted.__name__}, not {value!r}")
        counts[option] = int(value) if wanted is int else value
    if check := getattr(LOSSES[name], "check", None):  # ranges; a loss of one's own may have none
        try:
            check(**counts)
        except ValueError as error:
            raise ValueError(f"losses.{name}.{error}") from None


# The embedded set at three sizes and the real sets: what each layout reads, by profile
DATA = {
    "quick": {"sysu": "synvt_sysu_quick", "regdb": "synvt_regdb_quick"},
    "cpu": {"sysu": "synvt_sysu", "regdb": "synvt_regdb"},
    "gpu": {"sysu": "synvt_sysu_full", "regdb": "synvt_regdb_full"},
    "paper": {"sysu": "SYSU-MM01", "regdb": "RegDB"},
}
# one rate for all layers: the start has seen no pair across cameras, so every layer has to learn
START = {"weights": "synvt"}
THIN = {"backbone": "thin", "backbone_lr_factor": 1.0, **START}
PROFILES = {
    # seconds a run: proves the path, claims nothing
    "quick": THIN
    | {"height": 96, "width": 48, "pad": 4, "epochs": 2, "steps_per_epoch": 3, "warmup_epochs": 1, "milestones": (1,)}
    | {"identities_per_batch": 4, "images_per_identity": 2, "trials": 2},
    # a minute a run on one core. One rate for all methods, between what suits each: mAP on validation identities was 34
    # and 35 for the baseline at 0.01 and 0.03, 36 and 23 for HC-Tri, 32 and 36 for MC
    "cpu": THIN
    | {"height": 96, "width": 48, "pad": 4, "images_per_identity": 2, "epochs": 8, "steps_per_epoch": 80}
    | {"lr": 0.02, "warmup_epochs": 2, "milestones": (5, 7), "validate_every": 4},
    # about a minute a run on an H200
    "gpu": START | {"epochs": 10, "steps_per_epoch": 100, "warmup_epochs": 2, "milestones": (6, 9)},
    # S1 section 4.1.3, unchanged; open: S1 names 296 training identities, results in the field are of all 395
    "paper": {"weights": "imagenet", "train_on": "train+val"},
}
VALIDATION = {"quick": 4, "cpu": 15, "gpu": 30, "paper": 0}  # identities held out where the layout gives none
TUNED = Path(__file__).parent / "tuned"  # what tuning.py chose, a file a profile


@cache
def tuned_file(profile: str) -> dict[str, Any]:
    """The trials of a profile and what they chose, as tuning.write() has them; none of a profile that ships none."""
    file = TUNED / f"{profile}.json"
    return json.loads(file.read_text()) if file.is_file() else {"chosen": {}, "trials": []}


def chosen(profile: str) -> dict[str, dict[str, Any]]:
    """What trials chose for each method of a profile, as overrides."""
    return tuned_file(profile)["chosen"]


def experiment(profile: str = "cpu", method: str = "dpan_cmdc", *, tuned: bool = True, **overrides: Any) -> Experiment:
    """An experiment of a profile and a method; overrides win, nested ones as `**{"losses.cmdc.weight": 2.0}`.

    Args: tuned: with the rates and weights that tuning.py chose for the method on this profile, where they ship; else
        with those of the profile, or of the paper's recipe.
    Raises: ValueError with one sentence, and the nearest known name, for anything unknown or mistyped.
    """
    if not isinstance(profile, str) or profile not in PROFILES:
        raise ValueError(unknown("profile", profile, PROFILES))
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    dataset = overrides.get("dataset", "sysu")
    if not isinstance(dataset, str) or dataset not in LAYOUTS:
        raise ValueError(f"dataset: {unknown('layout', dataset, LAYOUTS)}")
    entry = dict(METHODS[method])
    recipe = RECIPES[entry.pop("recipe")].get(dataset if profile == "paper" else profile, {})
    if not isinstance(tuned, bool):
        raise ValueError(f"tuned must be true or false, not {tuned!r}")
    recipe = recipe | (chosen(profile).get(method, {}) if tuned else {})
    fields = {"profile": profile, "method": method, "dataset": dataset, **PROFILES[profile], **entry}
    if dataset in DATA[profile]:
        fields["data"] = DATA[profile][dataset]
    elif not overrides.get("data"):
        raise ValueError(f"data: the layout {dataset!r} has no set of its own: name one, as data=PATH (data/README.md)")
    if dataset != "sysu":
        held_out = VALIDATION[profile] if dataset == "regdb" else 0  # of a folder split.csv may name some
        fields |= {"validation_identities": held_out, "train_on": "train"}
    return build(fields, recipe | overrides)


def upgraded(fields: dict[str, Any], precision: str) -> dict[str, Any]:
    """Stored fields of an experiment, of whatever version of this code, as this version names them.

    Args: precision: that the run was made in, for fields of the time when it was settled during the run.
    """
    fields = dict(fields)
    if "one_stream" in fields:
        fields["specific_stages"] = 0 if fields.pop("one_stream") else 2
    if fields.pop("metric_on", "pooled") == "features":
        fields["losses"] = {k: v if k == "id" else v | {"on": "neck"} for k, v in fields["losses"].items()}
    if fields.get("precision") == "auto":
        fields["precision"] = precision
    return fields


def documented() -> dict[str, str]:
    """What each field of Experiment is, by name: the comment behind it in this file."""
    found, name = {}, ""
    for line in inspect.getsource(Experiment).splitlines():
        if field := re.fullmatch(r"    (\w+): .*?  # (.+)", line):
            name, text = field.groups()
            found[name] = text
        elif name and (more := re.fullmatch(r"    # (.+)", line)):
            found[name] += f" {more[1]}"
        else:
            name = ""
    return found


def fields_table(profile: str = "cpu", method: str = "baseline") -> str:
    """Every field of Experiment as a table in Markdown: its values, what an experiment has, what it is."""
    values = experiment(profile, method).model_dump(mode="json")
    lines = [f"| field | values | {profile} | what it is |", "|---|---|---|---|"]
    for name, text in documented().items():
        annotation = Experiment.model_fields[name].annotation
        kind = ", ".join(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ""
        kind = kind or {bool: "true, false", int: "whole number", float: "number", str: "text"}.get(annotation, "")
        kind = kind or {"parts": "list of {stripes, width, share}", "losses": "group"}.get(name, "list")
        value = values[name] if name not in ("profile", "method") else {"profile": profile, "method": method}[name]
        if name == "precision":
            value = "auto"  # settled by the machine
        cells = (f"`{name}`", kind, f"`{json.dumps(value)}`", text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parameters(wanted: Experiment) -> dict[str, Any]:
    """What makes this very experiment: profile, method, dataset, seed, data where it is no set of the profile's, and
    `overrides`, the fields that differ.

    The precision is always among them: the machine that makes the run may have another one of its own.
    `of_parameters` gives the experiment back; nested names with dots.
    """
    given = {name: getattr(wanted, name) for name in ("profile", "method", "dataset", "seed")}
    plain = experiment(**given, data=wanted.data).model_dump(mode="json")
    named = {} if wanted.data == DATA[wanted.profile].get(wanted.dataset) else {"data": wanted.data}
    differing = difference(wanted.model_dump(mode="json"), plain)
    return given | named | {"overrides": differing | {"precision": wanted.precision}}


def of_parameters(given: dict[str, Any]) -> Experiment:
    """The experiment that `parameters` describes."""
    return experiment(**{name: value for name, value in given.items() if name != "overrides"}, **given["overrides"])


def difference(values: dict[str, Any], plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values that differ from `plain`, by dotted name; a group that lacks one of plain's names is given whole."""
    different = {}
    for name, value in values.items():
        old = plain.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and old.keys() <= value.keys():
            different |= difference(value, old, f"{prefix}{name}.")
        elif value != old:
            different[prefix + name] = value
    return different


def resolve_profile(name: str) -> str:
    """`auto` is gpu where there is a GPU, else cpu; every other name stays. Raises: ValueError on an unknown name."""
    if not isinstance(name, str) or name not in {"auto", *PROFILES}:
        raise ValueError(unknown("profile", name, {"auto", *PROFILES}))
    return ("gpu" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def build(fields: dict[str, Any], overrides: dict[str, Any]) -> Experiment:
    """Set overrides into nested fields and check the whole; pydantic's report becomes one sentence."""
    fields = json.loads(json.dumps(fields))  # a copy that shares nothing with PROFILES and METHODS
    for name, value in overrides.items():
        *path, last = name.split(".")
        if name.split(".")[0] not in Experiment.model_fields:
            raise ValueError(unknown("field", name.split(".")[0], Experiment.model_fields))
        target = fields
        for key in path:
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                raise ValueError(f"{name.rpartition('.')[0]} is a value, not a group of values: {name} cannot be set")
        target[last] = value
    if bad := not_finite(fields):
        raise ValueError(f"{bad} must be a finite number")
    if fields.get("precision", "auto") == "auto" and isinstance(fields.get("device", "auto"), str):
        fields["precision"] = device.native_precision(fields.get("device", "auto"))
    try:
        return Experiment(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(p) for p in first["loc"][:3])
        text = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] in ("missing", "value_error") else f" (given: {shortened(first['input'])})"
        raise ValueError(f"{where}: {text}{given}" if where else text) from None


def not_finite(fields: dict[str, Any], prefix: str = "") -> str:
    """The dotted name of a number that is NaN or infinite; "" where there is none."""
    for name, value in fields.items():
        if isinstance(value, dict) and (found := not_finite(value, f"{prefix}{name}.")):
            return found
        if isinstance(value, float) and not isfinite(value):
            return prefix + name
    return ""


def shortened(value: Any) -> str:
    """A value as an error's sentence shows it: one line, not longer than a reader wants."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
