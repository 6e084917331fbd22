"""The fork server: a copy is what a new process would be; whoever ends takes along what it started; the way without."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
from safetensors.torch import load_file

from vtlib.batch import forkserver, graph

pytestmark = pytest.mark.skipif(not forkserver.POSSIBLE, reason="only Linux has fork servers")
LIGHT = "from vtlib.batch import forkserver; forkserver.IMPORTS = ['nbformat']; forkserver.main()"
TORCH = LIGHT.replace("'nbformat'", "'nbformat', 'torch'")
ASK = "import sys; from vtlib.batch import forkserver as f; code = f.ask('run_text', *sys.argv[1:])\n"
ASK += "print('nobody ran it') if code is None else sys.exit(code)"
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
KILLED = "the process that had forked this job was killed, and the job with it"


class Client:
    """Starts processes that ask a server."""

    def __init__(self, folder, variables, server, threads):
        self.folder, self.server = folder, server
        self.env = variables | dict.fromkeys(forkserver.THREADS, str(threads))
        self.env |= {forkserver.NAME: os.environ[forkserver.NAME]}

    def start(self, text, *argv, **changed):
        """Run a text of Python in a copy of the server."""
        return self.popen([sys.executable, "-c", ASK, text, *argv], **changed)

    def popen(self, command, **changed):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, cwd=self.folder, env=self.env | changed, text=True, **pipes)

    def output(self, text, *argv, **changed):
        return self.start(text, *argv, **changed).communicate(timeout=60)[0]


@contextmanager
def serving(folder, call=forkserver.CALL, threads=1):
    """A client of a server that runs `call`, and that has a module to run an argument."""
    (folder / "run_text.py").write_text("import sys\nexec(sys.argv[1])")
    variables = graph.environment()
    variables["PYTHONPATH"] += os.pathsep + str(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forkserver, "CALL", call)
        with forkserver.started(folder, variables, {threads}) as (server,):
            yield Client(folder, variables, server, threads)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as one:
        yield one


@pytest.fixture
def light(tmp_path):
    """A client of a server that has imported next to nothing."""
    with serving(tmp_path, LIGHT) as one:
        yield one


def gone(pid, seconds=10):
    """Whether a process ends within some seconds."""
    end = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_a_copy_has_streams_folder_variables_and_exit_code_of_who_asks(light, tmp_path):
    (other := tmp_path / "other").mkdir()
    light.folder = other
    text = "import os, sys, tempfile; print(sys.stdin.read(), sys.argv[2:], os.getcwd(), os.getppid(), os.getsid(0) == "
    text += "os.getpid(), os.environ['SHLVL'], tempfile.gettempdir(), __name__); print('bad', file=sys.stderr); "
    process = light.start(f"{text} sys.exit(7)", "a b", SHLVL="5", TMPDIR=str(other))
    out, error = process.communicate("said", timeout=60)
    assert out.split() == f"said ['a b'] {other} {light.server.pid} True 5 {other} __main__".split()
    assert error == "bad\n" and process.returncode == 7
    ends = {"pass": (0, ""), "sys.exit('a sentence')": (1, "a sentence"), "1 / 0": (1, "division by zero")}
    for text, (code, last) in (ends | {"import os; os.kill(os.getpid(), 9)": (137, "")}).items():
        process = light.start(f"import sys; {text}")
        assert process.communicate(timeout=60)[1].strip().endswith(last) and process.returncode == code
    text = "import atexit; atexit.register(print, 'last'); print('first')"
    assert light.output(text).split() == ["first", "last"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_copy(light, number):
    text = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))\n"
    process = light.start(text + "try: print(flush=True); time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(2)")
    process.stdout.readline()
    process.send_signal(number)
    assert process.wait(timeout=10) == number


def test_a_copy_ends_with_who_asked_and_the_next_is_served(light):
    process = light.start(f"import subprocess; subprocess.Popen(['sleep', '60']); {SLEEP}")
    pid = int(process.stdout.readline())
    (child,) = psutil.Process(pid).children()
    process.kill()
    assert gone(pid) and gone(child.pid)
    assert light.output("print('here')") == "here\n"


def test_a_killed_server_takes_its_copies_along_in_one_sentence(light):
    process = light.start(SLEEP)
    pid = int(process.stdout.readline())
    light.server.kill()
    assert KILLED in process.communicate(timeout=10)[1] and process.returncode == 1 and gone(pid)
    assert light.output("print('here')") == "nobody ran it\n"


def test_a_server_ends_with_its_owner(light, tmp_path):
    call = f"""
import os, sys, time; from pathlib import Path
from vtlib.batch import forkserver; forkserver.CALL = {LIGHT!r}
with forkserver.started(Path.cwd(), dict(os.environ), [1]):
    print(os.environ[forkserver.NAME], flush=True); time.sleep(60)"""
    owner = light.popen([sys.executable, "-c", call])
    process = light.start(SLEEP, **{forkserver.NAME: owner.stdout.readline().strip()})
    pid = int(process.stdout.readline())
    server = psutil.Process(pid).ppid()
    assert server != light.server.pid
    owner.kill()
    assert gone(server) and gone(pid) and KILLED in process.communicate(timeout=10)[1]


def test_who_has_other_variables_or_no_server_is_told_that_nobody_ran_it(light, monkeypatch, tmp_path):
    for name in ("MKL_CBWR", "LD_PRELOAD", "TQDM_DISABLE", "CUDA_VISIBLE_DEVICES", "VTLIB_DATA"):
        assert light.output("print('here')", **{name: "7"}) == "nobody ran it\n"
    assert light.output("print('here')", OMP_NUM_THREADS="7") == "nobody ran it\n"
    assert light.output("print('here')", **{forkserver.NAME: str(tmp_path)}) == "nobody ran it\n"
    assert light.output("print('here')") == "here\n"
    monkeypatch.setattr(forkserver, "POSSIBLE", False)
    before = dict(os.environ)
    with forkserver.started(tmp_path, dict(os.environ), {1}), forkserver.waiting_kernel(before) as kernel:
        assert dict(os.environ) == before and kernel is None


def test_a_server_has_one_thread_whatever_number_its_jobs_have(tmp_path):
    text = "import numpy, os, torch; print(torch.get_num_threads(), *(len(os.listdir(f'/proc/{pid}/task')) for pid in "
    text += "(os.getppid(), os.getpid())), torch.cuda.is_initialized(), flush=True); "
    text += "a = numpy.ones((900, 900)); print((a @ a).max(), (torch.ones(900, 900) @ torch.ones(900, 900)).max())"
    with serving(tmp_path, TORCH, 2) as two:
        assert two.output(text).split() == [str(min(2, os.cpu_count())), "1", "1", "False", "900.0", "tensor(900.)"]


def test_no_two_copies_have_the_same_random_numbers(client):
    text = "import random, numpy, torch, uuid; print(torch.initial_seed(), torch.rand(1).item(), random.random(), "
    text += "numpy.random.random(), numpy.random.default_rng().random(), uuid.uuid4())"
    assert len({*client.output(text).split(), *client.output(text).split()}) == 12


def test_all_that_notebooks_import_is_imported(client):
    wanted = {"papermill", "ipykernel.kernelapp"}
    for path in graph.NOTEBOOKS.glob("*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
                if isinstance(node, ast.Import):
                    wanted |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    rooms = {f"{node.module}.{alias.name}" for alias in node.names}
                    known = {
                        r for r in rooms if (graph.PACKAGE.parent / r.replace(".", "/")).with_suffix(".py").is_file()
                    }
                    wanted |= {node.module, *known}
    loaded = set(client.output("import sys; print(*sys.modules)").split())
    assert wanted <= loaded and "vtlib.suite.report" in wanted
    assert "matplotlib_inline.backend_inline" not in loaded  # it is imported in the kernel whose figures it shows


STATE = (
    """
import json, os, sys, matplotlib, matplotlib.pyplot as plt
own = {"JPY_PARENT_PID", "IPYTHONDIR", "VTLIB_FORKSERVER", "PYDEVD_USE_FRAME_EVAL"}  # the last is the debugger's own
told = {"path": sys.path, "env": {k: v for k, v in sorted(os.environ.items()) if k not in own},
        "backend": matplotlib.get_backend(), "cwd": os.getcwd(), "argv": sys.argv[0], "utf8": sys.flags.utf8_mode,
        "safe": sys.flags.safe_path, "main": sorted(vars(sys.modules["__main__"])),
        "encoding": sys.stdout.encoding, "magics": len(get_ipython().magics_manager.magics["line"])}
print(json.dumps(told))
""",
    "plt.plot([1, 2]); plt.show()",
    "from vtlib import config, runs; runs.run(config.experiment('quick', 'cmdc', seed=1))",
)


def plan_of(folder, *cells, name="state"):
    """A plan of one job, which executes some cells."""
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / f"{name}.ipynb")
    one = {"rule": "train", "source": str(folder / f"{name}.ipynb"), "notebook": f"{name}-done.ipynb", "parameters": {}}
    roots = {"results": str(folder), "root": str(folder), "data": str(folder)}
    (folder / f"{name}.json").write_text(json.dumps({"jobs": {name: one | {"output": "x"}}} | roots))
    return [str(folder / f"{name}.json"), name]


WAYS = {"server": "import sys; from vtlib import launch; sys.exit(launch.main(['job', *sys.argv[1:]]))"}
WAYS["self"] = f"import os; os.environ.pop({forkserver.NAME!r}); {WAYS['server']}"
WAYS["ordinary"] = f"from vtlib.batch import forkserver; forkserver.POSSIBLE = False; {WAYS['self']}"


def test_a_kernel_is_as_an_ordinary_one_and_its_numbers_are_bit_by_bit_the_same(client, home):
    told, shown, measured = {}, {}, {}
    for way, call in WAYS.items():
        (folder := client.folder / way).mkdir()
        plan, name = plan_of(folder, *STATE)
        Path(plan).write_text(json.dumps(json.loads(Path(plan).read_text()) | {"data": os.environ["VTLIB_DATA"]}))
        process = client.popen([sys.executable, "-c", call, plan, name])
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0 and "Error" not in error, error
        state, figure, _ = (cell.outputs for cell in nbformat.read(folder / "state-done.ipynb", 4).cells)
        told[way], shown[way] = json.loads(state[0]["text"].replace(str(folder), "")), figure[-1]["data"]
        (metrics,) = folder.glob("quick/runs/*/metrics.json")
        measured[way] = json.loads(metrics.read_text()), load_file(metrics.with_name("features.safetensors"))
    assert told["server"] == told["self"] == told["ordinary"]
    assert shown["server"] == shown["self"] == shown["ordinary"] and "image/png" in shown["server"]
    metrics, features = measured.pop("ordinary")
    for mine, same in measured.values():
        assert all(mine[key] == metrics[key] for key in ("protocols", "threads", "data_digest", "start_digest"))
        assert features.keys() == same.keys() and all(torch.equal(features[name], same[name]) for name in same)


def test_a_kernel_of_the_server_is_a_copy_of_a_copy(client):
    arguments = plan_of(client.folder, "import os, psutil; print(psutil.Process(os.getppid()).ppid())", name="parents")
    assert client.popen([sys.executable, "-c", WAYS["server"], *arguments]).wait(timeout=60) == 0
    assert f"{client.server.pid}\\n" in (client.folder / "parents-done.ipynb").read_text()
    assert json.loads((client.folder / "jobs" / "parents.json").read_text())["state"] == "ran"


def test_a_kernel_that_is_killed_is_one_sentence_and_harms_no_other(client):
    cells = "print('as far as this')", "import os; os.kill(os.getpid(), 9)"
    process = client.popen([sys.executable, "-c", WAYS["server"], *plan_of(client.folder, *cells, name="killed")])
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "its kernel was killed; mostly that is for want of memory" in error
    assert "as far as this" in (client.folder / "killed-done.ipynb").read_text()
    assert "its kernel was killed" in json.loads((client.folder / "jobs" / "killed.json").read_text())["reason"]
    assert client.output("print('here')") == "here\n"


def test_a_kernel_ends_with_its_killed_job_and_memory_is_its_own(client):
    hold = "import os, time; held = bytearray(2 * 10**9); print(os.getpid()); open('held', 'w').write(str(os.getpid()))"
    process = client.popen(
        [sys.executable, "-c", WAYS["server"], *plan_of(client.folder, hold, "time.sleep(60)", name="held")]
    )
    while not (pid := (client.folder / "held").is_file() and (client.folder / "held").read_text()):
        time.sleep(0.05)
    job_pid = psutil.Process(int(pid)).ppid()
    text = "from vtlib.memory import peak_host_memory; print(peak_host_memory())"
    assert 0.1 < float(client.output(text)) < 1.9  # not that of another copy
    os.kill(job_pid, signal.SIGKILL)
    assert process.wait(timeout=10) == 137 and gone(int(pid))
