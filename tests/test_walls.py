"""The walls of the house: who may import whom, how long the heart is, and that it needs no package of the suite."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vtlib"
ROOMS = {
    ".".join(f.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): f
    for f in PACKAGE.rglob("*.py")
    if f != PACKAGE / "__init__.py"
}
HEART = {"model", "backbones", "ranking", "evaluate", "common"} | {r for r in ROOMS if r.split(".")[0] == "losses"}
WINGS = ("suite", "batch")
LEFT_OUT = (  # what the suite needs and the heart, data, training and runs do not
    *("matplotlib", "seaborn", "sklearn", "papermill", "snakemake", "jupyterlab", "jupyter_client", "ipykernel"),
    *("IPython", "nbclient", "nbconvert", "traitlets", "ipywidgets", "yaml"),
)


def imports(room):
    """Rooms and packages that a room imports, also inside functions: ("vtlib", "data.images") or ("torch", "")."""
    file = ROOMS[room]
    folder = file.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name.split(".")[0], "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] != "vtlib", f"{room}: import vtlib's rooms with dots"
            found.add((node.module.split(".")[0], ""))
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1]
            for alias in node.names:
                path = [*start, *(node.module or "").split("."), alias.name]
                name = ".".join(part for part in path if part)
                found.add(("vtlib", name if name in ROOMS else name.rpartition(".")[0]))
    return found


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_room_keeps_the_walls(room):
    own = {name for package, name in imports(room) if package == "vtlib" and name}
    wing = room.split(".")[0]
    if room != "launch" and wing not in WINGS:  # the command line is the one door that knows all wings
        assert not {name for name in own if name.split(".")[0] in WINGS}, (
            "nothing outside a wing imports suite or batch"
        )
    if wing != "launch":
        assert "launch" not in own or wing in WINGS
    if wing == "synvt":
        assert own <= {"common", "files", *(r for r in ROOMS if r.split(".")[0] == "synvt")}
    if wing == "systems":
        assert own <= HEART | {r for r in ROOMS if r.split(".")[0] == "systems"}
    if room in HEART:
        assert own <= HEART
        packages = {package for package, _ in imports(room)} - {"vtlib"} - sys.stdlib_module_names
        assert packages <= {"torch", "torchvision", "numpy", "pandas", "safetensors"}


def test_no_room_imports_itself_in_a_circle():
    arrows = {room: {name for package, name in imports(room) if package == "vtlib"} - {room} for room in ROOMS}
    done = set()
    while left := [room for room in arrows if room not in done]:
        ready = [room for room in left if arrows[room] & arrows.keys() <= done]
        assert ready, f"a circle among {sorted(left)}"
        done |= set(ready)


def test_the_heart_is_read_in_an_hour():
    lines = {room: len(ROOMS[room].read_text().splitlines()) for room in sorted(HEART)}
    assert sum(lines.values()) <= 1400, lines


ALONE = """
import sys
from importlib.machinery import ModuleSpec
class Wall:
    def find_spec(self, name, path=None, target=None):  # torch asks where packages lie and does not import them
        return ModuleSpec(name, self, origin="nowhere") if name.split(".")[0] in {blocked} else None
    def create_module(self, spec):
        raise ModuleNotFoundError(f"{{spec.name}} is left out", name=spec.name)
sys.meta_path.insert(0, Wall())
import numpy as np, torch
from vtlib import evaluate, losses, model, runs
from vtlib.config import experiment

features = torch.randn(16, 8, requires_grad=True)
labels, modality = torch.arange(4).repeat(4), torch.tensor([0, 1]).repeat_interleave(8)
losses.cmdc(features, labels, modality).backward()
assert features.grad.isfinite().all()
net = model.TwoStreamNet(4, "thin").eval()
assert net(torch.randn(2, 3, 96, 48), torch.tensor([0, 1])).features.shape == (2, 192)
rng = np.random.default_rng(0)
cams, pids = np.repeat([1, 2, 3, 4, 5, 6], 4), np.tile([7, 8], 12)
numbers = np.tile([1, 1, 2, 2], 6)
table = evaluate.sysu(rng.random((24, 5)), pids, cams, numbers, gallery="community", trials=2)
assert len(table) == 2 and table.mAP.between(0, 1).all()
assert evaluate.regdb(rng.random((4, 5)), [1, 1, 2, 2], rng.random((4, 5)), [1, 2, 1, 2]).rank1.between(0, 1).all()
run = runs.run(experiment("quick", "cmdc", device="cpu"))
print(runs.collect([run]).mAP.between(0, 1).all())
"""


def test_heart_data_training_and_runs_need_no_package_of_the_suite(home):
    call = [sys.executable, "-c", ALONE.format(blocked=LEFT_OUT)]
    said = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.splitlines()[-1] == "True", said.stderr[-2000:]


def test_the_digest_of_code_covers_every_room_that_a_result_depends_on():
    from fnmatch import fnmatch

    from vtlib import runs

    reached, waiting = set(), ["train", "protocols", "inference"]
    while waiting:
        if (room := waiting.pop()) not in reached:
            reached.add(room)
            waiting += [name for package, name in imports(room) if package == "vtlib" and name]
    covered = {room for room in reached if any(fnmatch(room.replace(".", "/"), name) for name in runs.RESULT_CODE)}
    covered |= {room for room in reached if f"{room.replace('.', '/')}/*" in runs.RESULT_CODE}  # a package's __init__
    # the fields of an experiment are in its id; the others write, count and watch
    assert reached - covered <= {"common", "config", "files", "mechanisms", "memory", "methods"}, reached - covered
