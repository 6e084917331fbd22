"""One job of a plan: a data set, a start, a run's notebook or a notebook of results, with a record of it."""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common import shown
from ..files import read_json, write_json
from ..memory import peak_host_memory
from .graph import LAST, environment, stamp


def make(path: Path, name: str) -> None:
    """One job of a plan, with a record of it under jobs/, written before and after. Raises what stops the job."""
    made = read_json(path, "give the command again, which makes it anew")
    if name not in made.get("jobs", {}) or made["jobs"][name].get("rule") not in RULES:
        raise ValueError(
            f"{shown(path)} has no job {name!r}: a later call has made another plan; give the command again"
        )

    about, results, start = made["jobs"][name], Path(made["results"]), time.time()
    os.environ |= {"VTLIB_DATA": made["data"], "VTLIB_RESULTS": made["root"]}
    record, row = results / "jobs" / f"{name}.json", {"started": start, "state": "failed"}
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, row | {"reason": "its process was killed, or the machine ran out of memory"})
    try:
        RULES[about["rule"]](results, about)
        row |= {"state": "ran", "reason": ""}
    except BaseException as error:
        row["reason"] = " ".join(str(error).split()) or type(error).__name__
        raise
    finally:
        write_json(record, row | {"seconds": round(time.time() - start, 1), "GB": round(peak_host_memory(), 2)})


def make_data(results: Path, about: dict) -> None:
    from .. import runs

    folder = runs.data_folder(about["what"])
    write_json(results / about["output"], {"folder": str(folder)})


def make_weights(results: Path, about: dict) -> None:
    from .. import pretrain

    if not (file := Path(about["file"])).is_file():
        pretrain.make(about["backbone"], file)
    write_json(results / about["output"], {"file": about["file"]})


def execute(path: Path, target: Path, given: dict) -> None:
    """papermill in the current folder; a failing cell is one sentence that names it and the kept notebook."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    with kernel_folder() as (folder, sockets):
        config = Config()
        config.KernelManager.connection_file = f"{folder}/kernel.json"
        if sockets:  # no port is raced for
            config.KernelManager.transport, config.KernelManager.ip = "ipc", f"{folder}/k"
        options = {"progress_bar": sys.stderr.isatty(), "config": config, "kernel_name": "python3"}
        options |= {"kernel_manager_class": own_kernel(folder), "start_timeout": 600}
        try:
            papermill.execute_notebook(literal(path), literal(target), given, **options)
        except papermill.PapermillExecutionError as error:
            raise RuntimeError(
                f"{path}: cell [{error.exec_count}]: {error.ename}: {error.evalue} (kept: {shown(target)})"
            ) from None
        except DeadKernelError:
            raise RuntimeError(
                f"{path}: its kernel was killed; mostly that is for want of memory: fewer runs at a time (--jobs) or a "
                f"smaller batch take less (kept: {shown(target)})"
            ) from None


def literal(path: Path) -> str:
    """A path for papermill, which takes what stands in braces for the name of a parameter."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextmanager
def kernel_folder() -> Iterator[tuple[str, bool]]:
    """A folder of one kernel for the time of a `with`, in TMPDIR or else /tmp, and whether sockets can lie in it."""
    places = [place for place in (tempfile.gettempdir(), "/tmp") if os.access(place, os.W_OK)]
    for place in places:
        with tempfile.TemporaryDirectory(prefix="vt", dir=place, ignore_cleanup_errors=True) as folder:
            if (sockets := holds_sockets(folder)) or place == places[-1]:
                yield folder, sockets
                return


def holds_sockets(folder: str) -> bool:
    """Whether sockets can lie in a folder: the path of one has some 100 bytes, and not every file system has them."""
    if not hasattr(socket, "AF_UNIX"):  # Windows
        return False
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"{folder}/k-0")
    except OSError:
        return False
    return True


def own_kernel(folder: str) -> type:
    """The manager of a kernel of this very interpreter and environment(), whatever kernels and settings a user has."""
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class OwnKernel(AsyncKernelManager):
        kernel_spec = KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

        async def start_kernel(self, **options) -> None:
            await super().start_kernel(env=environment() | {"IPYTHONDIR": folder}, **options)

    return OwnKernel


def make_notebook(results: Path, about: dict) -> None:
    execute(Path(about["source"]), results / about["notebook"], about["parameters"])
    if Path(about["notebook"]).name.startswith(LAST):
        from ..suite import report

        report.page(results / about["notebook"])
    if about["rule"] == "notebook":
        write_json(results / about["output"], stamp(results, about))


RULES = {"data": make_data, "weights": make_weights, "train": make_notebook, "notebook": make_notebook}
