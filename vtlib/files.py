"""Where data and results lie, and files that are whole or absent; imports nothing heavy, as every job begins here."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def data_root() -> Path:
    """Folder of all data sets: VTLIB_DATA, or data/ beside the package."""
    return Path(os.environ.get("VTLIB_DATA") or Path(__file__).parents[1] / "data").expanduser().absolute()


def results_root() -> Path:
    """Where results lie: VTLIB_RESULTS, or results/ beside the package."""
    return Path(os.environ.get("VTLIB_RESULTS") or Path(__file__).parents[1] / "results").absolute()


def digest(files: Iterable[Path], given: object) -> str:
    """Hash of files and of a JSON value."""
    whole = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()


def write_json(path: Path, value: dict) -> None:
    """Write atomically: the file is whole or absent."""
    part = path.with_suffix(".tmp")
    part.write_text(json.dumps(value, indent=1))
    os.replace(part, path)


def shown(path: Path) -> str:
    """A path as the reader of a terminal wants it: relative where it lies under the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
