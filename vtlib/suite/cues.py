"""What each cue of SynVT is worth: searches that learn nothing and read one cue each, by the protocols of every run.

    factors       the person's own factors in factors.csv: what a reader without error would find
    parts         where each garment, limb, hair and bag is in the image: a segmentation without error
    outline       the person's silhouette alone, also with the view, the gait or the box held fixed
    colour        colours of the person's pixels in stripes, background left out: of a thermal image, how warm they look
    histograms    gradients of the whole image (evaluate.gradient_histogram), with background, light and noise
    chance        random numbers

An oracle (all but the last two) knows what no network is told: which pixels are the person's, or the factors.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import protocols, ranking, runs, synvt
from ..common import unknown
from ..config import Experiment
from ..synvt import draw
from . import transfer
from .items import MAIN_PROTOCOL

NAMED = ["hair", "hat", "coat", "legs", "bag", "shoes", "side"]  # columns of factors.csv that are a person's own
MEASURED = ["sleeve", "leg_cover", "skirt_y", "coat_y", "puff", "height", "build", "stride"]
GRID = (24, 12)  # cells that a map of the person is averaged in
STRIPES, LEVELS = 6, 6  # of a colour histogram: horizontal stripes of the person, steps of each channel
FIXED = {  # what changes a person's outline from image to image, as fields of people.scene(): held at one value
    "box": {"scale": 0.9, "aspect": 1.16, "dx": 0.0, "dy": 0.0},
    "gait": {"phase": 1.0, "pace": 1.0, "arms": ["swing", "swing"], "nod": 0.0},
    "view": {"yaw": 0.35, "pitch": 0.17},  # radians
}
CUES = ("factors", "parts", "outline", *(f"outline, one {name}" for name in FIXED), "outline, one box, gait and view")
CUES += ("colour", "histograms", "chance")


def table(experiment: Experiment, cues: tuple[str, ...] = CUES) -> pd.DataFrame:
    """Every search of every cue on the test images of an experiment's data, a row each: cue, then as search().

    Raises: ValueError for an unknown cue, and where the data is not a SynVT set.
    """
    if wrong := [cue for cue in cues if cue not in CUES]:
        raise ValueError(unknown("cue", wrong[0], CUES))
    data, store = runs.load_data(experiment)
    test = data[data.split == "test"]
    spec, pixels = spec_of(runs.data_folder(experiment.data)), store.pixels[test.index.to_numpy()]
    maps = part_maps(spec, test, *pixels.shape[2:])
    frames = []
    for cue in cues:
        features = read(cue, experiment, spec, test, pixels, maps)
        frames.append(search(experiment, features, test).assign(cue=cue))
    return pd.concat(frames, ignore_index=True)[["cue", *frames[0].columns[:-1]]]


def search(experiment: Experiment, features: Tensor, test: pd.DataFrame) -> pd.DataFrame:
    """Features (n, D) of the test rows under each search, a row each: search, rank1, mAP, queries, gallery.

    Single-shot all-search (of RegDB both directions), and, where a modality has several cameras, searches
    within it: every image searches one image of each person in each other camera. Means over trials, fractions.
    """
    pid, cam, number, modality = (test[c].to_numpy() for c in ("pid", "cam", "number", "modality"))
    images = protocols.columns(test) | {"features": features}
    embedded = protocols.Embedded(experiment.dataset, images, runs.permutations_of(experiment))
    searches = [protocols.named(MAIN_PROTOCOL)] if experiment.dataset == "sysu" else embedded.searches()
    columns = ["rank1", "mAP", "queries", "gallery"]
    rows = [{"search": str(s), **embedded.table(s, experiment.trials)[columns].mean()} for s in searches]
    for m, name in enumerate(("visible", "thermal")):
        query, gallery = np.flatnonzero(modality == m), np.flatnonzero((modality == m) & (number == 1))
        if len(np.unique(cam[query])) > 1:
            similarity = ranking.similarity_matrix(features[query], features[gallery])
            same = torch.from_numpy(cam[query][:, None] == cam[gallery])
            found = ranking.rank_metrics(similarity, pid[query], pid[gallery], exclude=same)
            seen = len(gallery) - same.sum(1).double().mean().item()
            row = {"rank1": found.cmc[0], "mAP": found.mAP, "queries": found.valid, "gallery": seen}
            rows.append({"search": f"{name} to {name}, other camera", **row})
    return pd.DataFrame(rows).astype({"queries": int, "gallery": int})


def levers(experiment: Experiment, changes: Iterable[str], seeds: Iterable[int] = (0,)) -> pd.DataFrame:
    """What changed values of the set do to an experiment, which is run at each seed, and to three cues, a row each.

    Args: changes: as in synvt.preset(), such as "yaw=1.0" or "nuisance=0.0,yaw=0.0"; "" is the set as it is.
    Returns: fractions of MAIN_PROTOCOL by change: rank1, sd and mAP over seeds; rank-1 of parts, outline, histograms.
    """
    rows, seeds = {}, list(seeds)
    for change in changes:
        here = experiment.but(data=",".join(filter(None, [experiment.data, change])))
        found = runs.collect([runs.run(here.but(seed=seed)) for seed in seeds], MAIN_PROTOCOL)
        of_cues = table(here, ("parts", "outline", "histograms"))
        of_cues = of_cues[of_cues.search == MAIN_PROTOCOL].set_index("cue").rank1
        rows[change] = {"rank1": found.rank1.mean(), "sd": found.rank1.std(), "mAP": found["mAP"].mean(), **of_cues}
    return pd.DataFrame(rows).T.rename_axis("change")


def neighbours(features: Tensor, test: pd.DataFrame) -> dict[str, float]:
    """What the nearest image is, by cosine, as shares of all test images, in percent.

    same person, same camera, same modality: of the nearest of all other test images; same person across: of the
    nearest image of the other modality; chance across: what random features would give there.
    Args: features (n, D) of the rows of test.
    """
    pid, cam, modality = (test[c].to_numpy() for c in ("pid", "cam", "modality"))
    unit, rows = F.normalize(features, dim=1), torch.arange(len(test))
    nearest, across = [], []
    for part in rows.split(1024):
        similarity = unit[part] @ unit.T
        other = torch.from_numpy(modality[part.numpy(), None] != modality)
        across.append(similarity.masked_fill(~other, -torch.inf).argmax(1))
        similarity[torch.arange(len(part)), part] = -torch.inf  # an image is not its own neighbour
        nearest.append(similarity.argmax(1))
    nearest, across = torch.cat(nearest).numpy(), torch.cat(across).numpy()
    matches = np.array([((pid == p) & (modality != m)).sum() for p, m in zip(pid, modality, strict=True)])
    chance = matches / np.array([(modality != m).sum() for m in modality])
    shares = {
        "same person": pid[nearest] == pid,
        "same camera": (cam[nearest] == cam) & (modality[nearest] == modality),
    }
    shares |= {"same modality": modality[nearest] == modality, "same person across": pid[across] == pid}
    return {name: 100 * float(share.mean()) for name, share in (shares | {"chance across": chance}).items()}


def spec_of(root: Path) -> synvt.Spec:
    """The spec that a SynVT set was made from. Raises: ValueError where the folder is none."""
    if not (root / "synvt.json").is_file():
        raise ValueError(f"{root} holds no synvt.json: cues are read from the factors of a SynVT set alone")
    return synvt.Spec(**json.loads((root / "synvt.json").read_text())["spec"])


def read(cue: str, experiment: Experiment, spec, test: pd.DataFrame, pixels: np.ndarray, maps: Tensor) -> Tensor:
    """Features (n, D) of one cue. pixels (n, 3, H, W) uint8 and part_maps() (n, H, W) of the test rows."""
    if cue == "factors":
        return factors(runs.data_folder(experiment.data), test)
    if cue == "chance":
        return torch.randn(len(test), 64, generator=torch.Generator().manual_seed(0))
    if cue in ("histograms", "colour"):  # a few at a time: both take many numbers a pixel
        some = [slice(start, start + 256) for start in range(0, len(maps), 256)]
        if cue == "colour":
            return torch.cat([colour(pixels[s], maps[s]) for s in some])
        return torch.cat([transfer.gradient_histogram(pixels[s]) for s in some])
    if cue.startswith("outline, one"):
        held = {k: v for name, fields in FIXED.items() if name in cue for k, v in fields.items()}
        maps = part_maps(spec, test, *maps.shape[1:], **held)
    return shape(maps, draw.PARTS if cue == "parts" else ())


def factors(root: Path, test: pd.DataFrame) -> Tensor:
    """(n, D) from factors.csv: each named factor as one number a value, measured ones in standard deviations."""
    rows = pd.read_csv(root / "factors.csv", keep_default_na=False).set_index("path").loc[test.path]
    named, measured = pd.get_dummies(rows[NAMED].astype(str), dtype=float), rows[MEASURED].astype(float)
    measured = (measured - measured.mean()) / measured.std(ddof=0).replace(0, 1)
    return torch.from_numpy(np.concatenate([named - named.mean(), measured], axis=1))


def part_maps(spec: synvt.Spec, test: pd.DataFrame, height: int, width: int, **held) -> Tensor:
    """(n, height, width) int8: the part of the person (figure.PARTS) at every pixel, -1 elsewhere, nothing in the way.

    Args: held: fields of people.scene() at one value for all images.
    """
    maps = np.empty((len(test), height, width), np.int8)
    for i, key in enumerate(zip(test.pid, test.cam, test.number, strict=True)):
        body = synvt.shape(spec, key[0])
        view = SimpleNamespace(**vars(synvt.scene(spec, body, key)) | held)
        maps[i] = draw.part_map(draw.Person(body, view, None), height, width)
    return torch.from_numpy(maps)


def shape(maps: Tensor, parts: tuple[int, ...] = ()) -> Tensor:
    """(n, D) cover of each of GRID's cells, equal for an image and its mirror image.

    Args: maps (n, H, W) of part_maps(); parts: a map of each of these, none: one of the whole person.
    """
    masks = [maps == part for part in parts] if parts else [maps >= 0]
    cells = torch.stack([F.adaptive_avg_pool2d(mask.float(), GRID) for mask in masks], dim=1)
    even, odd = cells + cells.flip(-1), cells - cells.flip(-1)
    return torch.cat([even, odd.abs()], dim=1).flatten(1)


def colour(pixels: np.ndarray, maps: Tensor) -> Tensor:
    """(n, D) colours of the person's pixels in stripes, each a histogram of unit sum; its root makes cosines overlaps.

    Stripes part the person from head to feet, so neither the outline nor the place in the image counts.
    Args: pixels (n, 3, H, W) uint8; maps (n, H, W) of part_maps().
    """
    steps = torch.from_numpy(np.asarray(pixels)).long() * LEVELS // 256
    colours = (steps[:, 0] * LEVELS + steps[:, 1]) * LEVELS + steps[:, 2]  # (n, H, W)
    seen = maps >= 0
    height = seen.any(2).cumsum(1)  # rows of the person so far
    stripe = (height - 1).clamp(min=0) * STRIPES // height[:, -1:].clamp(min=1)
    bins = stripe[:, :, None] * LEVELS**3 + colours
    votes = torch.zeros(len(bins), STRIPES * LEVELS**3).scatter_add_(1, bins.flatten(1), seen.float().flatten(1))
    return F.normalize(votes.view(len(bins), STRIPES, -1), p=1, dim=2).sqrt().flatten(1)


def looks(pixels: np.ndarray) -> dict[str, float]:
    """How crops of people look, medians over images in grey levels of 255: to hold a drawn set beside a real one.

    contrast: standard deviation of an image; centre: mean of its middle third less that of its sides; dark centre:
    share of images where that is negative; edges: mean step between neighbours over the contrast, so sharpness.
    Args: pixels (n, 3, H, W) uint8, of one size where they are compared.
    """
    grey = np.asarray(pixels, np.float32).mean(1)  # (n, H, W)
    h, w = grey.shape[1:]
    contrast, step = grey.std((1, 2)), np.abs(np.diff(grey, axis=2)).mean((1, 2))
    sides = np.concatenate([grey[..., : w // 8], grey[..., -(w // 8) :]], axis=2)
    centre = grey[:, h // 5 : 4 * h // 5, w // 3 : 2 * w // 3].mean((1, 2)) - sides.mean((1, 2))
    middle = {"contrast": contrast, "centre": centre, "edges": step / np.maximum(contrast, 1e-6)}
    return {name: float(np.median(v)) for name, v in middle.items()} | {"dark centre": float((centre < 0).mean())}
