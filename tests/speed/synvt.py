"""SynVT: images drawn, written, decoded and mapped a second. Nothing else draws it, so there is no reference."""

import io
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pandas as pd
import torch

from vtlib import synvt
from vtlib.data import images as im

from .timing import Row, compare, one_thread

DRAWN = {"synvt_sysu": 48, "synvt_sysu_full": 12}  # preset, images of a batch
MADE = synvt.PRESETS["synvt_sysu_quick"]


def measure(repeats: int) -> Iterator[Row]:
    """Drawing on one core, writing a small data set on as many as torch's threads, loading it."""
    with one_thread():
        yield from drawing(repeats)
    with tempfile.TemporaryDirectory() as folder:
        yield from making(repeats, Path(folder))


def drawing(repeats: int) -> Iterator[Row]:
    for name, count in DRAWN.items():
        spec = synvt.PRESETS[name]
        cams = list(synvt.CAMERAS[spec.layout])
        keys = [(1 + i // len(cams), cams[i % len(cams)], 1) for i in range(count)]
        synvt.render_batch(spec, keys)
        yield from compare(
            "render_batch, 1 core",
            f"{name}: {count} x {spec.height} x {spec.width}",
            lambda spec=spec, keys=keys: synvt.render_batch(spec, keys),
            repeats=repeats,
            limit=lambda ms, count=count: rate(count, ms),
            clock=time.process_time,
        )


def making(repeats: int, folder: Path) -> Iterator[Row]:
    """Each round makes, or decodes, into a folder of its own."""
    workers, number = torch.get_num_threads(), iter(range(10**9))

    def make() -> Path:
        return synvt.make(MADE, folder / f"made{next(number)}", workers=workers, progress=False)

    root = make()
    table = pd.read_csv(root / "factors.csv")

    def load(cache: Path) -> im.Store:
        with redirect_stderr(io.StringIO()):  # its progress bar
            return im.store(table, root, MADE.height, MADE.width, cache=cache)

    if load(folder / "mapped").pixels.shape != (len(table), 3, MADE.height, MADE.width):
        raise RuntimeError("images.store: not all images were decoded")
    for part, call in {
        f"make, {workers} cores": make,
        "store, decoded": lambda: load(folder / f"store{next(number)}"),
        "store, mapped again": lambda: load(folder / "mapped"),
    }.items():
        size = f"{len(table)} x {MADE.height} x {MADE.width}"
        yield from compare(part, size, call, repeats=repeats, limit=lambda ms: rate(len(table), ms))


def rate(count: int, ms: float) -> str:
    return f"{1000 * count / ms:,.0f} images/s"
