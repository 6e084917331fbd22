"""How well people of SynVT are found by one cue alone: searches with features of a cue, in which nothing is learned.

    factors       the person's own factors, from factors.csv: what a reader without error would find
    parts         where each garment, limb, hair and bag is in the image: a segmentation without error
    outline       the person's silhouette alone, also with the view, the gait or the box held fixed
    colour        colours of the person's pixels in stripes, without background; in a thermal image, how warm they look
    histograms    gradients of the whole image (transfer.gradient_histogram), with background, light and noise
    chance        random numbers

All cues but the last two are oracles: they know what no network is told, the factors or which pixels are the person's.
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
from ..synvt import draw, people
from . import transfer
from .items import MAIN_PROTOCOL

GRID = (24, 12)  # rows and columns of cells in which a map of the person is averaged
STRIPES, LEVELS = 6, 6  # of a colour histogram: horizontal stripes of the person, steps of each channel
FIXED = {  # fields of people.scene() that change the outline from image to image, and the value that they are held at
    "box": {"scale": 0.9, "aspect": 1.16, "dx": 0.0, "dy": 0.0},
    "gait": {"phase": 1.0, "pace": 1.0, "arms": ["swing", "swing"], "nod": 0.0},
    "view": {"yaw": 0.35, "pitch": 0.17},  # radians
}
CUES = ("factors", "parts", "outline", *(f"outline, one {name}" for name in FIXED), "outline, one box, gait and view")
CUES += ("colour", "histograms", "chance")


def table(experiment: Experiment, cues: tuple[str, ...] = CUES) -> pd.DataFrame:
    """Search the test images of an experiment's data set by each cue: a line for each cue and search.

    Args: experiment: its data must be a SynVT set; cues: some of CUES.
    Returns: the columns cue, and those of search().
    Raises: ValueError for an unknown cue, and where the data is not a SynVT set.
    """
    if wrong := [cue for cue in cues if cue not in CUES]:
        raise ValueError(unknown("cue", wrong[0], CUES))
    data, store = runs.load_data(experiment, anew=False)
    test = data[data.split == "test"]
    spec, pixels = spec_of(runs.data_folder(experiment.data)), store.pixels[test.index.to_numpy()]
    maps = part_maps(spec, test, *pixels.shape[2:])
    frames = []
    for cue in cues:
        features = read(cue, experiment, spec, test, pixels, maps)
        frames.append(search(experiment, features, test).assign(cue=cue))
    return pd.concat(frames, ignore_index=True)[["cue", *frames[0].columns[:-1]]]


def search(experiment: Experiment, features: Tensor, test: pd.DataFrame) -> pd.DataFrame:
    """Search test images by given features: a line for each search.

    The searches are single-shot all-search (on RegDB's layout both directions), and, where a modality has several
    cameras, one within it: every image searches one image of each person in each other camera.
    Args: experiment: of the data; features: (n, D) of the lines of test; test: lines of the data's table.
    Returns: columns search, rank1, mAP (fractions, means over trials), queries, gallery (numbers of images).
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
            metrics = ranking.rank_metrics(similarity, pid[query], pid[gallery], exclude=same)
            size = len(gallery) - same.sum(1).double().mean().item()
            row = {"rank1": metrics.cmc[0], "mAP": metrics.mAP, "queries": metrics.valid, "gallery": size}
            rows.append({"search": f"{name} to {name}, other camera", **row})
    return pd.DataFrame(rows).astype({"queries": int, "gallery": int})


def levers(experiment: Experiment, changes: Iterable[str], seeds: Iterable[int] = (0,)) -> pd.DataFrame:
    """What a change of the data set does to an experiment and to three cues: a line for each change.

    Args: experiment: is run at each seed on each changed set; changes: values as in synvt.preset(), such as "yaw=1.0"
        or "nuisance=0.0,yaw=0.0", and "" for the set as it is; seeds.
    Returns: fractions of MAIN_PROTOCOL by change: rank1, sd and mAP over seeds; rank-1 of parts, outline, histograms.
    """
    rows, seeds = {}, list(seeds)
    for change in changes:
        changed = experiment.but(data=",".join(filter(None, [experiment.data, change])))
        metrics = runs.collect([runs.run(changed.but(seed=seed)) for seed in seeds], MAIN_PROTOCOL)
        of_cues = table(changed, ("parts", "outline", "histograms"))
        of_cues = of_cues[of_cues.search == MAIN_PROTOCOL].set_index("cue").rank1
        of_runs = {"rank1": metrics.rank1.mean(), "sd": metrics.rank1.std(), "mAP": metrics["mAP"].mean()}
        rows[change] = {**of_runs, **of_cues}
    return pd.DataFrame(rows).T.rename_axis("change")


def neighbours(features: Tensor, test: pd.DataFrame) -> dict[str, float]:
    """What the nearest image is, by cosine, of each test image: shares of all test images in percent.

    Args: features: (n, D) of the lines of test; test: lines of the data's table.
    Returns: "same person", "same camera" and "same modality": whether the nearest other image shares these; "same
        person across": whether the nearest image of the other modality is of the same person; "chance across": the
        share that random features would give there.
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
    """The spec that a SynVT set was made from. Args: root: its folder. Raises: ValueError for another folder."""
    if not (root / "synvt.json").is_file():
        raise ValueError(f"{root} holds no synvt.json: cues are read from the factors of a SynVT set alone")
    return synvt.Spec(**json.loads((root / "synvt.json").read_text())["spec"])


def read(cue: str, experiment: Experiment, spec, test: pd.DataFrame, pixels: np.ndarray, maps: Tensor) -> Tensor:
    """Features (n, D) of one cue.

    Args: cue: one of CUES; experiment: of the data; spec: of the set; test: lines of the data's table; pixels: their
        images (n, 3, H, W) uint8; maps: their part_maps() (n, H, W).
    """
    if cue == "factors":
        return factors(runs.data_folder(experiment.data), test)
    if cue == "chance":
        return torch.randn(len(test), 64, generator=torch.Generator().manual_seed(0))
    if cue in ("histograms", "colour"):  # 256 images at a time: both take many numbers for each pixel
        some = [slice(start, start + 256) for start in range(0, len(maps), 256)]
        if cue == "colour":
            return torch.cat([colour(pixels[s], maps[s]) for s in some])
        return torch.cat([transfer.gradient_histogram(pixels[s]) for s in some])
    if cue.startswith("outline, one"):
        held = {k: v for name, fields in FIXED.items() if name in cue for k, v in fields.items()}
        maps = part_maps(spec, test, *maps.shape[1:], **held)
    return shape(maps, draw.PARTS if cue == "parts" else ())


def factors(root: Path, test: pd.DataFrame) -> Tensor:
    """Features (n, D) from factors.csv of the set in `root`.

    A named factor becomes one column for each value, 1 or 0, less its mean; a measured one is in standard deviations.
    """
    rows = pd.read_csv(root / "factors.csv", keep_default_na=False).set_index("path").loc[test.path]
    named = pd.get_dummies(rows[[*people.PERSON_NAMED]].astype(str), dtype=float)
    measured = rows[[*people.PERSON_MEASURED]].astype(float)
    measured = (measured - measured.mean()) / measured.std(ddof=0).replace(0, 1)
    return torch.from_numpy(np.concatenate([named - named.mean(), measured], axis=1))


def part_maps(spec: synvt.Spec, test: pd.DataFrame, height: int, width: int, **held) -> Tensor:
    """The part of the person at every pixel of an image, as if nothing stood before the person.

    Args: spec: of the set; test: lines of the data's table; height, width: in pixels; held: fields of people.scene()
        that have this value in all images.
    Returns: (n, height, width) int8, one of draw.PARTS, -1 where the person is not.
    """
    maps = np.empty((len(test), height, width), np.int8)
    for i, key in enumerate(zip(test.pid, test.cam, test.number, strict=True)):
        body = synvt.shape(spec, key[0])
        view = SimpleNamespace(**vars(synvt.scene(spec, body, key)) | held)
        maps[i] = draw.part_map(draw.Person(body, view, None), height, width)
    return torch.from_numpy(maps)


def shape(maps: Tensor, parts: tuple[int, ...] = ()) -> Tensor:
    """Features (n, D): the share of each cell of GRID that is covered; an image and its mirror image have the same.

    Args: maps: (n, H, W) of part_maps(); parts: cover by each of these parts, none: by the whole person.
    """
    masks = [maps == part for part in parts] if parts else [maps >= 0]
    cells = torch.stack([F.adaptive_avg_pool2d(mask.float(), GRID) for mask in masks], dim=1)
    even, odd = cells + cells.flip(-1), cells - cells.flip(-1)
    return torch.cat([even, odd.abs()], dim=1).flatten(1)


def colour(pixels: np.ndarray, maps: Tensor) -> Tensor:
    """Features (n, D): colours of the person's pixels, as one histogram for each of STRIPES from head to feet.

    The stripes divide the person and not the image, so the place in the image does not count. Each histogram sums to 1,
    so the outline does not count; its square root is taken, so that a cosine is the overlap of histograms.
    Args: pixels: (n, 3, H, W) uint8; maps: (n, H, W) of part_maps().
    """
    steps = torch.from_numpy(np.asarray(pixels)).long() * LEVELS // 256
    colours = (steps[:, 0] * LEVELS + steps[:, 1]) * LEVELS + steps[:, 2]  # (n, H, W)
    person = maps >= 0
    height = person.any(2).cumsum(1)  # rows of pixels with the person, from the top to this row
    stripe = (height - 1).clamp(min=0) * STRIPES // height[:, -1:].clamp(min=1)
    bins = stripe[:, :, None] * LEVELS**3 + colours
    votes = torch.zeros(len(bins), STRIPES * LEVELS**3).scatter_add_(1, bins.flatten(1), person.float().flatten(1))
    return F.normalize(votes.view(len(bins), STRIPES, -1), p=1, dim=2).sqrt().flatten(1)


def looks(pixels: np.ndarray) -> dict[str, float]:
    """Numbers on how crops of people look, by which a drawn set is compared to a real one: medians over the images.

    Args: pixels: (n, 3, H, W) uint8, of one size where they are compared.
    Returns: "contrast": standard deviation of an image, in grey levels of 255; "centre": mean of its middle less mean
        of its sides, in grey levels; "edges": mean step between neighbouring pixels, divided by the contrast
        (sharpness); "dark centre": share of images whose centre is negative.
    """
    grey = np.asarray(pixels, np.float32).mean(1)  # (n, H, W)
    h, w = grey.shape[1:]
    contrast, step = grey.std((1, 2)), np.abs(np.diff(grey, axis=2)).mean((1, 2))
    sides = np.concatenate([grey[..., : w // 8], grey[..., -(w // 8) :]], axis=2)
    centre = grey[:, h // 5 : 4 * h // 5, w // 3 : 2 * w // 3].mean((1, 2)) - sides.mean((1, 2))
    middle = {"contrast": contrast, "centre": centre, "edges": step / np.maximum(contrast, 1e-6)}
    return {name: float(np.median(v)) for name, v in middle.items()} | {"dark centre": float((centre < 0).mean())}
