"""SynVT, the data set: its people, cameras and scenes as known factors, and its images in the public sets' layouts.

People walk before visible and thermal cameras; draw.py turns them into pixels. Four things are drawn apart, so that
each can be changed alone:
    shape    (seed, pid)               proportions, hair, hat, cut of clothes, bag, shoes, gait: seen by every camera
    colours  (colour_seed, pid)        colours and patterns: seen by visible cameras only
    heats    (heat_seed, pid)          how warm each garment looks: seen by thermal cameras only
    scene    (seed, pid, cam, number)  view, pose, light, weather, things in the way, sensor: one draw an image
Shape and cut are therefore all that the two modalities share.

An image depends on its own key alone, never on the batch, the process or the order, so a data set can be made by many
workers, stopped and resumed, and has the same bytes on the same machine with the same versions of NumPy and Pillow.
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
from .people import _MEASURED, _NAMED, _SPLIT, CAMERAS, Key, Spec, _rng, render_batch, scene, shape

VERSION = 1  # raise it whenever a pixel changes, here or in draw.py


class Structure(NamedTuple):
    """Which images a data set has, and the identities of each part."""

    counts: dict[int, dict[int, int]]  # {cam: {pid: images}}
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def structure(spec: Spec) -> Structure:
    """`spec.images` images of identities 1 to n in every camera; identities are dealt to the parts at random."""
    n, (train, val, _) = sum(spec.identities), spec.identities
    parts = np.split(1 + _rng(spec.seed, _SPLIT).permutation(n), (train, train + val))
    counts = {}
    for cam, camera in CAMERAS[spec.layout].items():
        seen = range(1 + (camera.modality if spec.apart else 0), n + 1, 2 if spec.apart else 1)
        counts[cam] = dict.fromkeys(seen, spec.images)
        if camera.modality == VISIBLE:
            gallery = counts[cam].keys() & set(parts[2].tolist())
            counts[cam] |= dict.fromkeys(gallery, max(spec.images, spec.gallery_images))
    return Structure(counts, *(tuple(sorted(p.tolist())) for p in parts))


def read_structure(mat_path: str | Path, train: Iterable[int], val: Iterable[int], test: Iterable[int]) -> Structure:
    """The structure of a real SYSU-MM01: image counts of its rand_perm_cam.mat (cells of (10, n) permutations).

    As in the real set, identities that are in no list have images too. Args: train, val, test: the lists' identities.
    """
    parts = [tuple(sorted(map(int, ids))) for ids in (train, val, test)]
    counts = {}
    for cam, column in enumerate(loadmat(mat_path)["rand_perm_cam"][:, 0], start=1):
        counts[cam] = {pid: cell.shape[1] for pid, (cell,) in enumerate(column, start=1) if cell.size}
    return Structure(counts, *parts)


def image_path(spec: Spec, key: Key) -> str:
    """Where the image of (pid, cam, number) lies, relative to the data folder."""
    pid, cam, number = key
    if spec.layout == "sysu":
        return f"cam{cam}/{pid:04d}/{number:04d}.jpg"
    view, frame = "front" if shape(spec, pid).front else "back", number + (cam - 1) * spec.images
    return f"{('Visible', 'Thermal')[cam - 1]}/{pid}/{view}_{'vt'[cam - 1]}_{frame:05d}_{pid}.bmp"


def factors(spec: Spec, keys: Iterable[Key]) -> list[dict]:
    """What generated each image, one row each. Degrees, metres, degrees Celsius; side: where a bag hangs."""
    rows = []
    for key in keys:
        body = shape(spec, key[0])
        view = scene(spec, body, key)
        drawn = vars(body) | vars(view)
        row = {"path": image_path(spec, key), "pid": key[0], "cam": key[1], "number": key[2]}
        row |= {"modality": view.cam.modality} | {name: drawn[name] for name in _NAMED}
        row |= {name: round(float(drawn[name]), 3) for name in _MEASURED}
        rows.append(row | {"yaw": round(float(np.degrees(view.yaw)) % 360, 1)})
    return rows


def _put(root: Path, name: str, data: bytes) -> None:
    """Write under a name of this process, then move: a file that has its final name is whole."""
    target, temporary = root / name, root / ".partial" / str(os.getpid())
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    os.replace(temporary, target)


def _write_image(spec: Spec, root: Path, key: Key) -> None:
    stream = io.BytesIO()
    image = Image.fromarray(render_batch(spec, [key])[0])
    image.save(stream, "JPEG" if spec.layout == "sysu" else "BMP", quality=92)
    _put(root, image_path(spec, key), stream.getvalue())


def _sysu_lists(spec: Spec, plan: Structure):
    listed, last = sorted(plan.train + plan.val + plan.test), max(max(pids) for pids in plan.counts.values() if pids)
    for name, ids in zip(("train", "val", "test", "available"), (*plan[1:], listed), strict=True):
        yield f"exp/{name}_id.txt", ",".join(map(str, ids)).encode()
    cells = np.empty((len(CAMERAS["sysu"]), 1), object)
    for cam in CAMERAS["sysu"]:
        cells[cam - 1, 0] = column = np.empty((last, 1), object)
        for pid in range(1, len(column) + 1):
            g, n = _rng(spec.seed, _SPLIT, cam, pid), plan.counts.get(cam, {}).get(pid, 0)
            column[pid - 1, 0] = np.stack([1 + g.permutation(n) for _ in range(10)]).astype(np.uint16)
    stream = io.BytesIO()
    savemat(stream, {"rand_perm_cam": cells}, do_compression=True)
    title = b"MATLAB 5.0 MAT-file, permutations of SynVT".ljust(116)  # in place of the date: same spec, same bytes
    yield "exp/rand_perm_cam.mat", title + stream.getvalue()[116:]


def _regdb_lists(spec: Spec, plan: Structure):
    for trial in range(1, 11):
        g = _rng(spec.seed, _SPLIT, trial)
        halves = np.split(g.permutation(sorted(plan.counts[1])), [len(plan.train)])
        for part, ids in zip(("train", "test"), halves, strict=True):
            labels = dict(zip(sorted(ids.tolist()), g.permutation(len(ids)).tolist(), strict=True))
            for cam, modality in ((1, "visible"), (2, "thermal")):
                keys = [(pid, cam, n + 1) for pid in labels for n in range(spec.images)]
                lines = [f"{image_path(spec, key)} {labels[key[0]]}\n" for key in keys]
                yield f"idx/{part}_{modality}_{trial}.txt", "".join(lines).encode()


def _finished(root: Path, record: str) -> bool:
    """Whether `root` holds this data set, complete; ValueError where it holds, or is getting, something else."""
    for name in ("synvt.json", ".partial/synvt.json"):
        if (root / name).exists():
            found = read_json(root / name, f"remove the folder {root}, and it is drawn anew")
            found["spec"] = asdict(Spec()) | found.get("spec", {})  # a field that came later is at its default
            if json.dumps(found, sort_keys=True) != json.dumps(json.loads(record), sort_keys=True):
                raise ValueError(f"{root} holds a data set of another spec: choose another name, or remove that folder")
            return name == "synvt.json"
    if root.exists() and any(p.name != ".partial" for p in root.iterdir()):
        raise ValueError(f"{root} holds files but no synvt.json: choose another name, or remove that folder")
    return False


def _fill(spec: Spec, root: Path, keys: list[Key], workers: int | None, progress: bool) -> None:
    """Write the images that are not there yet."""
    missing = [k for k in keys if not (root / image_path(spec, k)).exists()]
    workers = min(workers or joblib.cpu_count(), 1 + len(missing) // 32)
    pool = joblib.Parallel(workers, batch_size=32, return_as="generator_unordered")  # needs no main guard in a script
    done = pool(joblib.delayed(_write_image)(spec, root, key) for key in missing)
    begun = len(keys) - len(missing)
    try:
        for _ in tqdm(done, total=len(keys), initial=begun, desc=root.name, unit="img", disable=not progress):
            pass
    finally:
        if workers > 1:
            get_reusable_executor().shutdown()  # else its processes wait for more work, for minutes


def make(
    spec: Spec, root: str | Path, *, plan: Structure | None = None, workers: int | None = None, progress: bool = True
) -> Path:
    """Write the data set of `spec` under `root`: images, lists, factors.csv, last synvt.json, which says "complete".

    Returns the folder; at once where it is complete, and where a make was stopped it goes on to the same bytes.
    plan:    the images of a SYSU layout, by default structure(spec); read_structure() gives the sizes of the real set
    workers: processes, by default one a core
    Raises ValueError if the folder belongs to another spec or holds other files.
    """
    if plan is not None and spec.layout != "sysu":
        raise ValueError("plan: only the SYSU layout takes another structure; leave it out")
    root, plan, own = Path(root), plan or structure(spec), {"plan": plan._asdict()} if plan else {}
    keys = [(pid, cam, n + 1) for cam, counts in plan.counts.items() for pid in counts for n in range(counts[pid])]
    about = {"generator": "SynVT", "version": VERSION, "spec": asdict(spec), "images": len(keys)}
    record = json.dumps(about | own, indent=1)
    if _finished(root, record):
        return root
    root.mkdir(parents=True, exist_ok=True)
    place = root.resolve()
    with lock(place.with_name(f".{place.name}.lock")):  # a second make of the folder waits, and then finds it done
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
# people of their own for pre-training: another seed, so nobody of any other set; none is seen by both modalities
_START = Spec("sysu", 1000, (2900, 99, 1), apart=True, height=192, width=96, nuisance=0.3, yaw=0.5)
PRESETS = {  # names are those of the data folders
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
    """The spec of a data set's name: a preset, or one with other values, as `synvt_sysu,nuisance=1.0,yaw=0.5`.

    Identities are given as 250+30+100. Raises: ValueError for an unknown preset or field, and what Spec raises.
    """
    base, *changes = name.split(",")
    if base not in PRESETS:
        raise ValueError(unknown("data set", base, PRESETS))
    values = {}
    for field, _, text in (change.partition("=") for change in changes):
        if field not in Spec.__dataclass_fields__ or field in values:
            known = Spec.__dataclass_fields__.keys() - values
            raise ValueError(f"{name}: {unknown('field of a SynVT set', field, known)}")
        values[field] = _value(field, text)
    return replace(PRESETS[base], **values)


def _value(field: str, text: str):
    """What a field's text stands for, or else the text itself, of which Spec then says what is wrong."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (lambda t: tuple(map(int, t.split("+"))),) if field == "identities" else (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
