"""Set-up: the lock carries versions and hashes but no address, and every door installs this very lock."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_lock_has_no_address_and_a_hash_for_every_pin():
    assert not re.search(r"https?://|--(extra-)?index|--find-links|file:", LOCK)
    pins = re.findall(r"^[a-zA-Z0-9._-]+==.*?(?=^[a-zA-Z]|\Z)", LOCK, re.M | re.S)
    assert len(pins) > 50 and all("--hash=sha256:" in pin for pin in pins)


def test_lock_holds_every_dependency_and_is_what_is_installed():
    wanted = PROJECT["dependencies"] + [w for extra in PROJECT["optional-dependencies"].values() for w in extra]
    pins = {m.replace("_", "-").lower() for m in re.findall(r"^([a-zA-Z0-9._-]+)==", LOCK, re.M)}
    names = {re.match(r"[a-zA-Z0-9._-]+", w).group().lower() for w in wanted}
    assert names <= pins
    for name in ("torch", "torchvision", "papermill", "scikit-learn"):
        assert f"{name}=={version(name)}" in LOCK


def test_environment_yml_is_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert {re.match(r"[a-z]+", d).group() for d in conda} == {"python", "pip"}
    assert f"python{PROJECT['requires-python']}" in conda
    assert pip == ["--require-hashes -r requirements.lock"]


def test_run_all_helps_and_refuses_unknown_commands():
    def call(*arguments):
        return subprocess.run(["bash", ROOT / "run_all.sh", *arguments], capture_output=True, text=True)

    helped, wrong = call("--help"), call("tset")
    assert helped.returncode == 0 and "--profile" in helped.stdout and "test" in helped.stdout
    assert wrong.returncode == 2 and "unknown command 'tset'" in wrong.stderr


OTHER_NAMES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "IPython": "ipykernel"}
WITHOUT_IMPORT = {"jupyterlab", "ipywidgets", "snakemake-executor-plugin-slurm"}  # called, or used by others


def imported(path):
    """The packages outside the standard library that a file or notebook imports, also inside functions."""
    sources = [path.read_text()]
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(sources[0])["cells"] if c["cell_type"] == "code"]
        sources = ["".join(c["source"]) for c in cells]
    names = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    names -= set(sys.stdlib_module_names) | {"vtlib"}
    return {OTHER_NAMES.get(name, name).replace("_", "-").lower() for name in names}


def test_what_is_imported_is_declared_and_what_is_declared_is_used():
    def declared(wanted):
        return {re.match(r"[a-zA-Z0-9._-]+", w).group().lower() for w in wanted}

    extras = {name: declared(wanted) for name, wanted in PROJECT["optional-dependencies"].items()}
    alone = declared(PROJECT["dependencies"])
    run = alone | extras["suite"]
    optional = {"pytorch-metric-learning"}  # losses of it are asked for by name
    used = {p: imported(p) for p in [*ROOT.glob("vtlib/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]}
    for path, names in used.items():
        needs_suite = {"suite", "batch", "launch.py", "notebooks"} & set(path.relative_to(ROOT).parts)
        known = (run if needs_suite else alone) | optional
        assert names <= known, f"{path.name} imports {names - known}, which pyproject.toml does not name"
    assert run - WITHOUT_IMPORT == set().union(*used.values()) - optional
    tests = set().union(*(imported(p) for p in ROOT.glob("tests/**/*.py")))
    own = {p.stem.replace("_", "-") for p in ROOT.glob("tests/**/*.py")} | {"tests"}
    assert tests - own <= run | extras["test"] | {"nbformat"}


def test_the_python_of_readme_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(code, {})
    assert "t2v" in capsys.readouterr().out


def test_the_citation_names_both_papers_and_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"] and cited["license"] == PROJECT["license"]
    assert [r["year"] for r in cited["references"]] == [2022, 2021]
