"""Experiment: every number that changes a result, with its type and range; profiles, which set many; the run id.

S1 and S2 are the two papers that losses/__init__.py cites; "the field" is public code of other work on the task.
"""

import hashlib
import inspect
import json
import re
from collections import ChainMap
from collections.abc import Callable
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from . import device, pml
from .common import unknown
from .methods import METHODS, RECIPES
from .model import stripes_do_not_fit
from .systems import ASKED, FITTED, HEADS, LOSSES, SEARCHES, TRUNK, VIEWS
from .systems.colours import KINDS

# fields that name or place a run and do not change its result
NOT_HASHED = {"profile", "method", "device", "compile", "capture", "search"}


class Part(BaseModel):
    """A part head: it cuts the last map into horizontal stripes, each with a feature of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    stripes: int = Field(ge=1)
    width: int = Field(ge=1)  # numbers in the feature of one stripe
    share: float = Field(gt=0)  # factor of this head's normalised feature in the retrieval feature


Option = bool | float | str
PLACES = ("pooled", "neck", "stripes")  # where a metric loss may act: objective.read() says what each is
OF_TERM = ("weight", "on", "normalise")  # keys that any term of `losses` may have; all others are arguments of its loss
LAYOUTS = ("sysu", "regdb", "folder")


class Experiment(BaseModel):
    """One training and its evaluation. Make one with `experiment(profile, method, ...)`, which fills in defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    profile: Literal["quick", "cpu", "gpu", "paper"]  # sets the fields below to values that belong together
    method: str = "custom"  # a name of methods.METHODS, or one of your own; it sets network and losses
    device: str = "auto"  # auto: the first GPU, or the CPU where there is none; or cpu, cuda, cuda:1
    seed: int = Field(0, ge=0, lt=2**31)  # seed of the random weights, the batches and the augmentation
    precision: Literal["float32", "bf16"] = "bf16"  # number format of the maps in training. Left out, or auto: bf16
    # where the device of this machine computes it natively, else float32; it is fixed before the run gets its id
    compile: bool = False  # compile the stages by torch.compile; slower on the processor that it was measured on
    capture: bool = False  # on a GPU, run each training step as one CUDA graph; not measured yet
    sync_bn: bool = True  # batch normalisation over all processes, so that their number changes no result

    # data
    dataset: Literal["sysu", "regdb", "folder"]  # the layout of the files, which also decides the protocol
    data: str  # a folder under the data root (VTLIB_DATA), or a path
    split: int = Field(1, ge=1, le=10)  # RegDB: which of its ten splits
    train_on: Literal["train", "train+val"] = "train"  # SYSU-MM01: 296 identities, or the field's 395
    validation_identities: int = Field(0, ge=0)  # training people to validate on, where a set names none
    height: int = Field(288, ge=16, le=4096)  # of the images, pixels
    width: int = Field(144, ge=8, le=4096)  # of the images, pixels

    # network (S1 section 3.1, S2 section 3.1)
    backbone: str = "resnet50"  # a ResNet of torchvision, or thin
    weights: str = "none"  # where the weights start: none (random), synvt (pretrain.py), imagenet, or a file
    specific_stages: Literal[0, 1, 2, 3, 4] = 2  # how many stages each modality has of its own: 2 in S1, S2 and
    # HC-Tri, 1 (conv1 and bn1) in the AGW family, 3 in MMD-ReID, 4 in MSR, 0 in the one-stream network (Wu et al. 2017)
    attention: bool  # position attention behind stage 1
    attention_reduction: int = Field(1, ge=1)  # open: divides the width of the attention's maps B and C
    pooling: Literal["gem", "avg"] = "gem"  # how the last map becomes a vector: generalised mean, or average
    gem_p: float = Field(3.0, ge=1.0)  # exponent p of gem; 10, which some public code has for RegDB, fails on SYSU-MM01
    last_stride: Literal[1, 2] = 1  # stride of stage 4; 1 doubles height and width of the last map
    parts: tuple[Part, ...] = Field((), strict=False)  # part heads; none: one pooled feature and a BN neck
    modules: dict[str, dict[str, Option]] = {}  # what other systems add to the network, each by its name in
    # systems.TRUNK or systems.HEADS, with its options, as modules.non_local.width=one

    # losses
    losses: dict[str, dict[str, Option | dict[str, Any]]]  # each loss by its name: its weight, the feature it reads
    # (`on`: pooled, neck or stripes; `normalise`: at length 1) and its own arguments, as losses.cmdc.weight=2
    over_parts: Literal["sum", "mean"] = "sum"  # open: how losses of stripes (identity) or heads (metric) are joined

    # recipe (S1 section 4.1.3; P, K, weight decay and schedule are the field's, as the paper gives none)
    epochs: int = Field(60, ge=0)  # 0: no training, the untouched start
    steps_per_epoch: int = Field(0, ge=0)  # 0: the whole batches in the larger modality (SYSU-MM01: 695)
    identities_per_batch: int = Field(8, ge=2, le=10_000)  # P, different people in a batch
    images_per_identity: int = Field(4, ge=1, le=1_000)  # K, in each modality: a batch has 2 P K images
    optimizer: Literal["sgd", "adam"] = "sgd"  # adam, which XIV has, leaves momentum and nesterov out
    lr: float = Field(0.1, gt=0)  # learning rate for new layers
    backbone_lr_factor: float = Field(0.1, ge=0)  # factor of lr for layers that start from pre-trained weights
    momentum: float = Field(0.9, ge=0, lt=1)  # momentum of SGD
    nesterov: bool = False  # Nesterov's form of the momentum
    weight_decay: float = Field(5e-4, ge=0)  # weight decay, on all parameters
    schedule: Literal["steps", "s2"] = "steps"  # steps, the field's: warm-up, then times gamma at each milestone;
    # s2, as S2 prints it: divided by 10 after every eighth of the epochs
    warmup_epochs: int = Field(10, ge=0)  # epochs over which the rate rises to lr
    milestones: tuple[int, ...] = Field((20, 50), strict=False)  # epochs at which the rate is multiplied by gamma
    gamma: float = Field(0.1, gt=0)  # factor of the rate at each milestone

    # augmentation
    pad: int = Field(10, ge=0)  # black pixels added on each side before the random crop
    flip: float = Field(0.5, ge=0, le=1)  # probability of mirroring
    erase: float = Field(0.0, ge=0, le=1)  # probability of random erasing
    erase_in: Literal["both", "visible", "thermal"] = "both"  # in images of which modality
    colours_visible: Literal[KINDS] = "none"  # random change of the colours of visible images: exchange of channels,
    # grey, linear (a random mix of the channels), or caj (as CAJ has it for thermal images): systems/colours.py
    colours_thermal: Literal[KINDS] = "none"  # the same for thermal images
    views: dict[str, dict[str, Option]] = {}  # one more image for each visible one in training, by its name in
    # systems.VIEWS, with its options, as views.grey={}

    # evaluation
    validate_every: int = Field(1, ge=1)  # epochs between two validations; the last epoch always validates
    search: Literal["", *SEARCHES, *FITTED] = ""  # a search other than by cosine, or a projection before it, of the
    # same trained network: systems/__init__.py
    flip_test: bool = False  # add to each feature that of the mirrored image, as CAJ and DEEN do
    trials: int = Field(10, ge=1, le=10)  # random galleries of SYSU-MM01; a single one is never a result
    tested: Literal["test", "val"] = "test"  # who is searched after training. val: the validation people; no image
    # of a test person is then read (tuning.py)

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
            pml.check(name, options) if pml.is_theirs(name) else check_options("loss", name, options)
            check_place(name, term, bool(self.parts))
            if not isinstance(weight := term.get("weight"), float) or isinstance(weight, bool) or not isfinite(weight):
                raise ValueError(f"loss {name} needs a weight, a finite number: losses.{name}.weight=1.0")
        return self

    @model_validator(mode="after")
    def _modules_exist(self):
        for name, options in self.modules.items():
            check_options("module", name, options)
            if self.specific_stages and getattr(TABLES["module"][name], "one_stream", False):
                raise ValueError(f"modules.{name} needs a network that both modalities share: set specific_stages=0")
        if ("diverse_expansion" in self.modules) != ("branches" in self.modules):
            raise ValueError("modules: diverse_expansion and the head branches belong together: name both or none")
        if "diverse_expansion" in self.modules and self.specific_stages > 3:
            raise ValueError("modules.diverse_expansion needs a shared stage 4: set specific_stages to 3 or less")
        if len(heads := [*(["parts"] if self.parts else []), *(name for name in self.modules if name in HEADS)]) > 1:
            raise ValueError(f"modules: a network has one kind of head, not {' and '.join(heads)}: leave one out")
        for name, options in self.views.items():
            check_options("view", name, options)
        if len(self.views) > 1:
            raise ValueError(f"views: a batch has one view, not {' and '.join(self.views)}: leave one out")
        for name in self.losses if not self.views else ():
            if not pml.is_theirs(name) and "source" in asked(LOSSES[name], needed=True):
                raise ValueError(
                    f"losses.{name} reads the images of a view: name one, as views.{next(iter(VIEWS))}={{}}"
                )
        return self

    @model_validator(mode="after")
    def _stripes_fit(self):
        # rows of the last map: a backbone halves the image four or, at last_stride 2, five times
        rows = -(-self.height // (16 * self.last_stride))
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
        """The same experiment with other values; nested names with dots. Raises: ValueError, as experiment()."""
        return build(self.model_dump(), overrides)


def arguments(term: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a term of `losses` hands to its loss: all of its keys but those in OF_TERM."""
    return {k: v for k, v in term.items() if k not in OF_TERM}


def check_place(name: str, term: dict[str, Any], parts: bool) -> None:
    """Check where the term of one loss says that it acts.

    Args: name: of the loss; term: its entry in `losses`; parts: whether the network has part heads.
    Raises: ValueError for a place that is unknown or that the network does not have.
    """
    place, normalise = term.get("on", "pooled"), term.get("normalise", False)
    if name == "id" and ("on" in term or "normalise" in term):
        raise ValueError("losses.id reads the logits of the classifiers: leave its `on` and `normalise` out")
    if place not in PLACES:
        raise ValueError(unknown(f"value of losses.{name}.on", place, PLACES))
    if place == "stripes" and not parts:
        raise ValueError(f"losses.{name}.on=stripes needs a network with parts: choose pooled or neck")
    if not isinstance(normalise, bool):
        raise ValueError(f"losses.{name}.normalise must be true or false, not {normalise!r}")


TABLES = {"loss": LOSSES, "module": ChainMap(TRUNK, HEADS), "view": VIEWS}  # what fields may name


def check_options(kind: str, name: str, options: dict[str, Any]) -> None:
    """Raise ValueError unless `name` is in the table of its kind and has these options, each of its type and range.

    Args: kind: a key of TABLES; name; options.
    """
    if name not in TABLES[kind]:
        raise ValueError(unknown(kind, name, TABLES[kind]))
    call, field = TABLES[kind][name], {"loss": "losses"}.get(kind, f"{kind}s")
    accepted = {o: p.annotation for o, p in options_of(call).items()}
    for option, value in options.items():
        if option not in accepted:
            raise ValueError(
                unknown(f"argument of {kind} {name}", option, {*accepted, *(OF_TERM if kind == "loss" else ())})
            )
        if get_origin(accepted[option]) is Literal and value not in get_args(accepted[option]):
            raise ValueError(unknown(f"value of {field}.{name}.{option}", value, get_args(accepted[option])))
        if accepted[option] in (bool, float, int) and not (  # a whole number is stored as a float, too
            type(value) is (bool if accepted[option] is bool else float)
            and (accepted[option] is not int or value.is_integer())
        ):
            raise ValueError(f"{field}.{name}.{option} must be of type {accepted[option].__name__}, not {value!r}")
    if check := getattr(call, "check", None):  # it tests the ranges; a loss without @loss() has none
        try:
            check(**typed(call, options))
        except ValueError as error:
            raise ValueError(f"{field}.{name}.{error}") from None


def options_of(call: Callable) -> dict[str, inspect.Parameter]:
    """The arguments behind the * of a loss, module or view that an experiment may set, by name."""
    parameters = inspect.signature(call).parameters.values()
    return {p.name: p for p in parameters if p.kind == p.KEYWORD_ONLY and p.name not in ASKED}


def asked(call: Callable, needed: bool = False) -> set[str]:
    """What a loss asks the trainer for, besides its batch, of systems.ASKED; needed: leave out what it can lack."""
    parameters = inspect.signature(call.forward if isinstance(call, type) else call).parameters.values()
    named = [p for p in parameters if p.name in ASKED and p.kind == p.KEYWORD_ONLY]
    return {p.name for p in named if not needed or p.default is p.empty}


def typed(call: Callable, options: dict[str, Any]) -> dict[str, Any]:
    """Options with whole numbers as int where the annotation says so: an experiment stores all numbers as float."""
    whole = {name for name, p in options_of(call).items() if p.annotation is int}
    return {name: int(value) if name in whole else value for name, value in options.items()}


# profile -> layout -> data set: the embedded one in three sizes, and the real ones
DATA = {
    "quick": {"sysu": "synvt_sysu_quick", "regdb": "synvt_regdb_quick"},
    "cpu": {"sysu": "synvt_sysu", "regdb": "synvt_regdb"},
    "gpu": {"sysu": "synvt_sysu_full", "regdb": "synvt_regdb_full"},
    "paper": {"sysu": "SYSU-MM01", "regdb": "RegDB"},
}
# One rate for all layers: the start has never seen a person in both modalities, so every layer has to learn
START = {"weights": "synvt"}
THIN = {"backbone": "thin", "backbone_lr_factor": 1.0, **START}
PROFILES = {
    # seconds a run: shows that everything runs; its numbers mean nothing
    "quick": THIN
    | {"height": 96, "width": 48, "pad": 4, "epochs": 2, "steps_per_epoch": 3, "warmup_epochs": 1, "milestones": (1,)}
    | {"identities_per_batch": 4, "images_per_identity": 2, "trials": 2},
    # a minute a run on one core. One rate for all methods, a compromise: at 0.01 and 0.03, mAP on validation identities
    # was 34 and 35 for the baseline, 36 and 23 for HC-Tri, 32 and 36 for MC
    "cpu": THIN
    | {"height": 96, "width": 48, "pad": 4, "images_per_identity": 2, "epochs": 8, "steps_per_epoch": 80}
    | {"lr": 0.02, "warmup_epochs": 2, "milestones": (5, 7), "validate_every": 4},
    # about a minute a run on an H200
    "gpu": START | {"epochs": 10, "steps_per_epoch": 100, "warmup_epochs": 2, "milestones": (6, 9)},
    # S1 section 4.1.3, unchanged; open: S1 names 296 training identities, the field trains on 395
    "paper": {"weights": "imagenet", "train_on": "train+val"},
}
VALIDATION = {
    "quick": 4,
    "cpu": 15,
    "gpu": 30,
    "paper": 0,
}  # training people held out where a layout has no others to validate on
TUNED = Path(__file__).parent / "tuned"  # what tuning.py chose, one file a profile


@cache
def tuned_file(profile: str) -> dict[str, Any]:
    """What tuning.write() wrote for a profile: its trials and the values chosen; both empty where no file ships."""
    file = TUNED / f"{profile}.json"
    return json.loads(file.read_text()) if file.is_file() else {"chosen": {}, "trials": []}


def chosen(profile: str) -> dict[str, dict[str, Any]]:
    """method -> overrides: the values that the trials of a profile chose."""
    return tuned_file(profile)["chosen"]


def experiment(profile: str = "cpu", method: str = "dpan_cmdc", *, tuned: bool = True, **overrides: Any) -> Experiment:
    """An experiment of a profile and a method, checked.

    Args: profile: one of PROFILES; method: one of METHODS; tuned: take the rates and weights that tuning.py chose for
        the method on this profile, where they ship; else those of the profile, or of the paper's recipe;
        overrides: fields that win over all of these, nested ones as `**{"losses.cmdc.weight": 2.0}`.
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
        held_out = VALIDATION[profile] if dataset == "regdb" else 0  # a folder names its own, in split.csv
        fields |= {"validation_identities": held_out, "train_on": "train"}
    return build(fields, recipe | overrides)


def upgraded(fields: dict[str, Any], precision: str) -> dict[str, Any]:
    """The fields of an experiment that an older version of this code stored, under the names of this version.

    Args: fields: as stored; precision: in which the run was trained, for fields that still say "auto".
    """
    fields = dict(fields)
    if "one_stream" in fields:
        fields["specific_stages"] = 0 if fields.pop("one_stream") else 2
    if fields.pop("metric_on", "pooled") == "features":
        fields["losses"] = {k: v if k == "id" else v | {"on": "neck"} for k, v in fields["losses"].items()}
    if fields.get("schedule") == "hc_tri":
        fields["schedule"] = "steps"
    if "bound" in fields.get("losses", {}).get("cmdc", {}):
        terms = {k: {a: v for a, v in term.items() if a != "bound"} for k, term in fields["losses"].items()}
        soft = fields["losses"]["cmdc"]["bound"] == "awl"
        fields["losses"] = {"adaptive_cmdc" if soft and k == "cmdc" else k: term for k, term in terms.items()}
    if fields.get("precision") == "auto":
        fields["precision"] = precision
    return fields


def documented() -> dict[str, str]:
    """Field of Experiment -> what it is: the comment behind it in this file."""
    texts, name = {}, ""
    for line in inspect.getsource(Experiment).splitlines():
        if field := re.fullmatch(r"    (\w+): .*?  # (.+)", line):
            name, text = field.groups()
            texts[name] = text
        elif name and (more := re.fullmatch(r"    # (.+)", line)):
            texts[name] += f" {more[1]}"
        else:
            name = ""
    return texts


def fields_table(profile: str = "cpu", method: str = "baseline") -> str:
    """Every field of Experiment as a table in Markdown: its possible values, its value here, what it is."""
    values = experiment(profile, method).model_dump(mode="json")
    lines = [f"| field | values | {profile} | what it is |", "|---|---|---|---|"]
    for name, text in documented().items():
        annotation = Experiment.model_fields[name].annotation
        kind = ", ".join(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ""
        kind = kind or {bool: "true, false", int: "whole number", float: "number", str: "text"}.get(annotation, "")
        groups = dict.fromkeys(("losses", "modules", "views"), "group")
        kind = kind or ({"parts": "list of {stripes, width, share}"} | groups).get(name, "list")
        value = values[name] if name not in ("profile", "method") else {"profile": profile, "method": method}[name]
        if name == "precision":
            value = "auto"  # each machine fixes its own
        cells = (f"`{name}`", kind, f"`{json.dumps(value)}`", text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parameters(e: Experiment) -> dict[str, Any]:
    """The parameters of a notebook that make an experiment; of_parameters() is the inverse.

    Returns: profile, method, dataset, seed; data, where it is not the profile's own set; and `overrides`, the fields
    that differ, nested names with dots. The precision is always among these: another machine may have another default.
    """
    named = {name: getattr(e, name) for name in ("profile", "method", "dataset", "seed")}
    plain = experiment(**named, data=e.data).model_dump(mode="json")
    data = {} if e.data == DATA[e.profile].get(e.dataset) else {"data": e.data}
    differing = difference(e.model_dump(mode="json"), plain)
    return named | data | {"overrides": differing | {"precision": e.precision}}


def of_parameters(values: dict[str, Any]) -> Experiment:
    """The experiment that parameters() describes."""
    return experiment(**{name: value for name, value in values.items() if name != "overrides"}, **values["overrides"])


def difference(values: dict[str, Any], plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values that differ from `plain`, by dotted name; a group that lacks a name of plain's group comes whole."""
    different = {}
    for name, value in values.items():
        old = plain.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and old.keys() <= value.keys():
            different |= difference(value, old, f"{prefix}{name}.")
        elif value != old:
            different[prefix + name] = value
    return different


def resolve_profile(name: str) -> str:
    """The name of a profile; `auto` is gpu where there is a GPU, else cpu. Raises: ValueError on an unknown name."""
    if not isinstance(name, str) or name not in {"auto", *PROFILES}:
        raise ValueError(unknown("profile", name, {"auto", *PROFILES}))
    return ("gpu" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def build(fields: dict[str, Any], overrides: dict[str, Any]) -> Experiment:
    """The experiment of some fields with overrides, whose names may have dots, set into them.

    Raises: ValueError, one sentence, for an unknown field or a wrong value.
    """
    fields = json.loads(json.dumps(fields))  # copied, so that PROFILES and METHODS stay as they are
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
        shown = "" if first["type"] in ("missing", "value_error") else f" (given: {shortened(first['input'])})"
        raise ValueError(f"{where}: {text}{shown}" if where else text) from None


def not_finite(fields: dict[str, Any], prefix: str = "") -> str:
    """The dotted name of a number that is NaN or infinite; "" where there is none."""
    for name, value in fields.items():
        if isinstance(value, dict) and (inner := not_finite(value, f"{prefix}{name}.")):
            return inner
        if isinstance(value, float) and not isfinite(value):
            return prefix + name
    return ""


def shortened(value: Any) -> str:
    """A value as an error's sentence shows it, in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
