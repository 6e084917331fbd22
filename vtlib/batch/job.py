"""One job of a plan: make a data set or weights, or execute a notebook; with a record of what became of it."""

import os
import sys
import time
from pathlib import Path

from ..common import shown
from ..files import read_json, write_json
from ..memory import peak_host_memory
from ..suite import index
from . import forkserver
from .graph import LAST, Job, environment, stamp


def make(path: Path, name: str) -> None:
    """Do one job of a plan. Its record under jobs/ is written before, in case the process is killed, and after.

    Args: path: of plan.json; name: of the job in it.
    Raises: ValueError where the plan has no such job; whatever stops the job.
    """
    plan = read_json(path, "give the command again, which makes it anew")
    if name not in plan.get("jobs", {}) or plan["jobs"][name].get("rule") not in RULES:
        raise ValueError(
            f"{shown(path)} has no job {name!r}: a later call has made another plan; give the command again"
        )

    job, results, start = plan["jobs"][name], Path(plan["results"]), time.time()
    os.environ |= {"VTLIB_DATA": plan["data"], "VTLIB_RESULTS": plan["root"]}
    path, record = results / "jobs" / f"{name}.json", {"started": start, "state": "failed"}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record | {"reason": "its process was killed, or the machine ran out of memory"})
    try:
        RULES[job["rule"]](results, job)
        record |= {"state": "ran", "reason": ""}
    except BaseException as error:
        record["reason"] = " ".join(str(error).split()) or type(error).__name__
        raise
    finally:
        write_json(path, record | {"seconds": round(time.time() - start, 1), "GB": round(peak_host_memory(), 2)})
        if job["rule"] == "notebook":
            index.write(plan)


def make_data(results: Path, job: Job) -> None:
    """Draw a SynVT set if it is not there, or find a real one."""
    from .. import runs

    folder = runs.data_folder(job["what"])
    write_json(results / job["output"], {"folder": str(folder)})


def make_weights(results: Path, job: Job) -> None:
    """Pre-train the weights that runs start from, if their file is not there."""
    from .. import pretrain

    if not (file := Path(job["file"])).is_file():
        pretrain.make(job["backbone"], file)
    write_json(results / job["output"], {"file": job["file"]})


def execute(path: Path, target: Path, parameters: dict) -> None:
    """Execute a notebook by papermill, in the current folder; the copy is kept also where a cell fails.

    Args: path: of the notebook; target: of its executed copy; parameters: values by name.
    Raises: RuntimeError, one sentence that names the failed cell, or says that the kernel was killed, and the copy.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    with forkserver.waiting_kernel(environment()) as kernel, forkserver.socket_folder() as (folder, sockets):
        config = Config()
        config.KernelManager.connection_file = f"{folder}/kernel.json"
        if sockets:  # two kernels that start at once may choose the same port, but never the same socket file
            config.KernelManager.transport, config.KernelManager.ip = "ipc", f"{folder}/k"
        options = {"progress_bar": sys.stderr.isatty(), "config": config, "kernel_name": "python3"}
        options |= {"kernel_manager_class": own_kernel(folder, kernel), "start_timeout": 600}
        if kernel:  # all that its cells have said is here by then, and its own way to end takes half a second
            options["shutdown_kernel"] = "immediate"
        try:
            papermill.execute_notebook(literal(path), literal(target), parameters, **options)
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
    """A path for papermill, which would take a word in braces for the name of a parameter."""
    return str(path).replace("{", "{{").replace("}", "}}")


def own_kernel(folder: str, kernel: forkserver.Kernel | None = None) -> type:
    """A kernel manager that starts this very interpreter with environment(), whatever kernels a user has installed.

    Args: folder: of IPython's files; kernel: the process that becomes the kernel, None: a new one.
    """
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning import LocalProvisioner

    class Waiting(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **options) -> dict:
            # the parent that a kernel ends with: ipykernel reads JPY_PARENT_PID when it is imported, long ago here
            parent = f"--IPKernelApp.parent_handle={os.getpid()}"
            variables = options["env"] | {"JPY_PARENT_PID": str(os.getpid())}
            kernel.start([*cmd[cmd.index("-m") + 1 :], parent], options.get("cwd"), variables)
            self.process, self.pid, self.pgid = kernel, kernel.pid, kernel.pid
            return self.connection_info

        async def kill(self, restart: bool = False) -> None:
            kernel.kill()

    class OwnKernel(AsyncKernelManager):
        kernel_spec = KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

        async def start_kernel(self, **options) -> None:
            if kernel:
                self.provisioner = Waiting(kernel_spec=self.kernel_spec, parent=self)
            await super().start_kernel(env=environment() | {"IPYTHONDIR": folder}, **options)

    return OwnKernel


def make_notebook(results: Path, job: Job) -> None:
    """Execute the notebook of a run, or a notebook of results. The run itself writes a run's output."""
    execute(Path(job["source"]), results / job["notebook"], job["parameters"])
    if Path(job["notebook"]).name.startswith(LAST):
        from ..suite import report

        report.page(results / job["notebook"])
    if job["rule"] == "notebook":
        write_json(results / job["output"], stamp(results, job))


RULES = {"data": make_data, "weights": make_weights, "train": make_notebook, "notebook": make_notebook}
