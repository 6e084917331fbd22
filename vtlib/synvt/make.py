"""SynVT as files: a whole data set in the layout of SYSU-MM01 or RegDB, with its lists and its factors.

People walk in front of visible and thermal cameras. Four groups of factors are drawn from streams of their own, so that
each can be changed alone (people.py; draw.py turns them into pixels):
    shape    (seed, pid)               proportions, hair, hat, cut of clothes, bag, shoes, gait: seen by every camera
    colours  (colour_seed, pid)        colours and patterns: seen by visible cameras only
    heats    (heat_seed, pid)          how warm each garment looks: seen by thermal cameras only
    scene    (seed, pid, cam, number)  view, pose, light, weather, obstacles, sensor: drawn anew for each image
The two modalities therefore share shape and cut alone.

An image depends on its own (pid, cam, number) alone, not on the order or the process in which images are drawn. So a
set can be drawn by many processes, stopped and resumed. Its bytes are the same on the same machine with the same
versions of NumPy and Pillow.
"""

import io
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from scipy.io import loadmat, savemat
from tqdm.auto import tqdm

from ..common import unknown
from ..files import lock, read_json
from .draw import VISIBLE
from .people import CAMERAS, MEASURED, NAMED, SPLIT, Key, Spec, random_stream, render_batch, scene, shape

VERSION = 1  # of the pixels: raise it when one changes, here, in people.py or in draw.py


class Structure(NamedTuple):
    """Which images a data set has, and the identities of each split."""

    counts: dict[int, dict[int, int]]  # camera -> identity -> number of images
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def structure(spec: Spec) -> Structure:
    """The structure of a drawn set: identities 1 to n in every camera, with a random split into train, val and test.

    Args: spec: its layout, seed, identities, images, gallery_images and apart count.
    """
    n, (train, val, _) = sum(spec.identities), spec.identities
    parts = np.split(1 + random_stream(spec.seed, SPLIT).permutation(n), (train, train + val))
    counts = {}
    for cam, camera in CAMERAS[spec.layout].items():
        pids = range(1 + (camera.modality if spec.apart else 0), n + 1, 2 if spec.apart else 1)
        counts[cam] = dict.fromkeys(pids, spec.images)
        if camera.modality == VISIBLE:
            gallery = counts[cam].keys() & set(parts[2].tolist())
            counts[cam] |= dict.fromkeys(gallery, max(spec.images, spec.gallery_images))
    return Structure(counts, *(tuple(sorted(p.tolist())) for p in parts))


def read_structure(mat_path: str | Path, train: Iterable[int], val: Iterable[int], test: Iterable[int]) -> Structure:
    """The structure of the real SYSU-MM01, with the numbers of images that its rand_perm_cam.mat states.

    As in the real set, some identities have images and are in no split.
    Args: mat_path: rand_perm_cam.mat, for each camera and identity a cell of (10, n) permutations of its n images;
        train, val, test: the identities of each split.
    """
    parts = [tuple(sorted(map(int, ids))) for ids in (train, val, test)]
    counts = {}
    for cam, column in enumerate(loadmat(mat_path)["rand_perm_cam"][:, 0], start=1):
        counts[cam] = {pid: cell.shape[1] for pid, (cell,) in enumerate(column, start=1) if cell.size}
    return Structure(counts, *parts)


def image_path(spec: Spec, key: Key) -> str:
    """Path of an image relative to the data folder. Args: spec: of the set; key: (pid, cam, number)."""
    pid, cam, number = key
    if spec.layout == "sysu":
        return f"cam{cam}/{pid:04d}/{number:04d}.jpg"
    view, frame = "front" if shape(spec, pid).front else "back", number + (cam - 1) * spec.images
    return f"{('Visible', 'Thermal')[cam - 1]}/{pid}/{view}_{'vt'[cam - 1]}_{frame:05d}_{pid}.bmp"


def factors(spec: Spec, keys: Iterable[Key]) -> list[dict]:
    """The factors of each image, one dictionary per image: the rows of factors.csv (columns: data/README.md).

    Args: spec: of the set; keys: (pid, cam, number) of each image. Units: degrees, metres, degrees Celsius.
    """
    rows = []
    for key in keys:
        body = shape(spec, key[0])
        view = scene(spec, body, key)
        drawn = vars(body) | vars(view)
        row = {"path": image_path(spec, key), "pid": key[0], "cam": key[1], "number": key[2]}
        row |= {"modality": view.cam.modality} | {name: drawn[name] for name in NAMED}
        row |= {name: round(float(drawn[name]), 3) for name in MEASURED}
        rows.append(row | {"yaw": round(float(np.degrees(view.yaw)) % 360, 1)})
    return rows


def _put(root: Path, name: str, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that no half-written file has the final name."""
    target, temporary = root / name, root / ".partial" / str(os.getpid())
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    os.replace(temporary, target)


def _write_image(spec: Spec, root: Path, key: Key) -> None:
    """Draw and write one image: JPEG in the layout of SYSU-MM01, BMP in that of RegDB."""
    stream = io.BytesIO()
    image = Image.fromarray(render_batch(spec, [key])[0])
    image.save(stream, "JPEG" if spec.layout == "sysu" else "BMP", quality=92)
    _put(root, image_path(spec, key), stream.getvalue())


def _sysu_lists(spec: Spec, plan: Structure):
    """Name and bytes of each file in exp/: the identities of the splits, and ten random draws of the galleries."""
    listed, last = sorted(plan.train + plan.val + plan.test), max(max(pids) for pids in plan.counts.values() if pids)
    for name, ids in zip(("train", "val", "test", "available"), (*plan[1:], listed), strict=True):
        yield f"exp/{name}_id.txt", ",".join(map(str, ids)).encode()
    cells = np.empty((len(CAMERAS["sysu"]), 1), object)
    for cam in CAMERAS["sysu"]:
        cells[cam - 1, 0] = column = np.empty((last, 1), object)
        for pid in range(1, len(column) + 1):
            g, n = random_stream(spec.seed, SPLIT, cam, pid), plan.counts.get(cam, {}).get(pid, 0)
            column[pid - 1, 0] = np.stack([1 + g.permutation(n) for _ in range(10)]).astype(np.uint16)
    stream = io.BytesIO()
    savemat(stream, {"rand_perm_cam": cells}, do_compression=True)
    # The title takes the place of the date that savemat writes: the same spec gives the same bytes.
    title = b"MATLAB 5.0 MAT-file, permutations of SynVT".ljust(116)
    yield "exp/rand_perm_cam.mat", title + stream.getvalue()[116:]


def _regdb_lists(spec: Spec, plan: Structure):
    """Name and bytes of each file in idx/: lists of images and labels for ten random splits into two halves."""
    for trial in range(1, 11):
        g = random_stream(spec.seed, SPLIT, trial)
        halves = np.split(g.permutation(sorted(plan.counts[1])), [len(plan.train)])
        for part, ids in zip(("train", "test"), halves, strict=True):
            labels = dict(zip(sorted(ids.tolist()), g.permutation(len(ids)).tolist(), strict=True))
            for cam, modality in ((1, "visible"), (2, "thermal")):
                keys = [(pid, cam, n + 1) for pid in labels for n in range(spec.images)]
                lines = [f"{image_path(spec, key)} {labels[key[0]]}\n" for key in keys]
                yield f"idx/{part}_{modality}_{trial}.txt", "".join(lines).encode()


def _finished(root: Path, record: str) -> bool:
    """Whether `root` holds this data set completely. ValueError if it holds, or someone is drawing, anything else."""
    for name in ("synvt.json", ".partial/synvt.json"):
        if (root / name).exists():
            present = read_json(root / name, f"remove the folder {root}, and it is drawn anew")
            present["spec"] = asdict(Spec()) | present.get("spec", {})  # older sets lack newer fields: their defaults
            if json.dumps(present, sort_keys=True) != json.dumps(json.loads(record), sort_keys=True):
                raise ValueError(f"{root} holds a data set of another spec: choose another name, or remove that folder")
            return name == "synvt.json"
    if root.exists() and any(p.name != ".partial" for p in root.iterdir()):
        raise ValueError(f"{root} holds files but no synvt.json: choose another name, or remove that folder")
    return False


def _fill(spec: Spec, root: Path, keys: list[Key], workers: int | None, progress: bool) -> None:
    """Draw the images that `root` does not hold yet, in at most `workers` processes."""
    missing = [k for k in keys if not (root / image_path(spec, k)).exists()]
    workers = min(workers or joblib.cpu_count(), 1 + len(missing) // 32)
    pool = joblib.Parallel(workers, batch_size=32, return_as="generator_unordered")  # loky: scripts need no main guard
    results = pool(joblib.delayed(_write_image)(spec, root, key) for key in missing)
    start = len(keys) - len(missing)
    try:
        for _ in tqdm(results, total=len(keys), initial=start, desc=root.name, unit="img", disable=not progress):
            pass
    finally:
        if workers > 1:
            get_reusable_executor().shutdown()  # else its processes stay for minutes


def make(
    spec: Spec, root: str | Path, *, plan: Structure | None = None, workers: int | None = None, progress: bool = True
) -> Path:
    """Draw the data set of `spec` into `root`: images, lists, factors.csv, and last synvt.json: the set is complete.

    Does nothing if the set is complete; a stopped call is resumed and gives the same bytes.
    Args: spec: what to draw; root: the folder, made if missing; plan: the images of a set in the SYSU layout, such as
        read_structure() returns, by default structure(spec); workers: processes, by default one per core; progress:
        whether to show a bar.
    Returns: the folder. Raises: ValueError if it belongs to another spec or holds other files, or for a plan of RegDB.
    """
    if plan is not None and spec.layout != "sysu":
        raise ValueError("plan: only the SYSU layout takes another structure; leave it out")
    root, plan, extra = Path(root), plan or structure(spec), {"plan": plan._asdict()} if plan else {}
    keys = [(pid, cam, n + 1) for cam, counts in plan.counts.items() for pid in counts for n in range(counts[pid])]
    head = {"generator": "SynVT", "version": VERSION, "spec": asdict(spec), "images": len(keys)}
    record = json.dumps(head | extra, indent=1)
    if _finished(root, record):
        return root
    root.mkdir(parents=True, exist_ok=True)
    place = root.resolve()
    with lock(place.with_name(f".{place.name}.lock")):  # a second call waits, and finds the set complete
        (root / ".partial").mkdir(exist_ok=True)
        if not _finished(root, record):
            _put(root, ".partial/synvt.json", record.encode())
            _fill(spec, root, keys, workers, progress)
            for name, data in (_sysu_lists if spec.layout == "sysu" else _regdb_lists)(spec, plan):
                _put(root, name, data)
            rows = sorted(factors(spec, keys), key=lambda row: row["path"])
            lines = [",".join(map(str, line)) + "\n" for line in (rows[0], *(row.values() for row in rows))]
            _put(root, "factors.csv", "".join(lines).encode())
            _put(root, "synvt.json", record.encode())
            shutil.rmtree(root / ".partial")
    return root


_SYSU = Spec("sysu", identities=(200, 30, 100), images=6)
_REGDB = Spec("regdb", identities=(103, 0, 103), images=10)
# For pre-training: another seed, so that its people are in no other set; nobody is seen by both modalities.
_START = Spec("sysu", 1000, (2900, 99, 1), apart=True, height=192, width=96, nuisance=0.3, yaw=0.5)
PRESETS = {  # by the name of the data folder
    "synvt_sysu_quick": replace(_SYSU, identities=(12, 4, 6), images=4, gallery_images=10),
    "synvt_regdb_quick": replace(_REGDB, identities=(12, 0, 12), images=4),
    "synvt_sysu": replace(_SYSU, identities=(500, 60, 210), images=4, gallery_images=10, nuisance=0.3, yaw=0.5),
    "synvt_regdb": replace(_REGDB, identities=(206, 0, 206), nuisance=0.3, yaw=0.5),
    "synvt_start": replace(_START, height=96, width=48),
    "synvt_start_full": replace(_START),
    "synvt_sysu_full": replace(_SYSU, identities=(296, 99, 96), gallery_images=10, height=288, width=144),
    "synvt_regdb_full": replace(_REGDB, identities=(206, 0, 206), height=288, width=144),
}


def preset(name: str) -> Spec:
    """The spec that a name stands for: a preset, or a preset with changes, as `synvt_sysu,nuisance=1.0,yaw=0.5`.

    Args: name: changes name fields of Spec; identities are written as 250+30+100.
    Raises: ValueError for an unknown preset or field, a field that is named twice, or as Spec.
    """
    base, *changes = name.split(",")
    if base not in PRESETS:
        raise ValueError(unknown("data set", base, PRESETS))
    values = {}
    for field, _, text in (change.partition("=") for change in changes):
        if field not in Spec.__dataclass_fields__ or field in values:
            fields = Spec.__dataclass_fields__.keys() - values
            raise ValueError(f"{name}: {unknown('field of a SynVT set', field, fields)}")
        values[field] = _value(field, text)
    return replace(PRESETS[base], **values)


def _value(field: str, text: str):
    """The value that a text stands for, or else the text itself, which Spec then refuses with a message."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (lambda t: tuple(map(int, t.split("+"))),) if field == "identities" else (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
