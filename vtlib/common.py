"""What every room needs: where data and results lie, paths as people write them, one sentence for an unknown name."""

import difflib
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]  # the folder that holds the package
NOTEBOOKS = ROOT / "notebooks"

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels: the backbones' weights expect these


def unknown(kind: str, name: str, known) -> str:
    """One sentence for a name that is not known, with the nearest that is."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}: {hint}"


def data_root() -> Path:
    """Folder of all data sets: VTLIB_DATA, or data/ beside the package."""
    return user_path(os.environ.get("VTLIB_DATA") or ROOT / "data", "VTLIB_DATA")


def results_root() -> Path:
    """Where results lie: VTLIB_RESULTS, or results/ beside the package."""
    return user_path(os.environ.get("VTLIB_RESULTS") or ROOT / "results", "VTLIB_RESULTS")


def user_path(text: str | Path, what: str = "a path") -> Path:
    """A path as a person wrote it, absolute, with ~ for the home folder. Raises: ValueError for the home of nobody."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{what}: {str(text)!r} names the home folder of nobody: write the whole path") from error


def shown(path: Path) -> str:
    """A path as the reader of a terminal wants it: relative where it lies under the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
