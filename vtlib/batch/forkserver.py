"""Processes that have imported what jobs and kernels import, and fork a copy of themselves for each job.

A job needs papermill, its kernel torch and half of a science library: 8 s of imports, where a run of profile quick
computes for one. graph.work() starts a *fork server* with started(). `python -m vtlib.launch job` asks it with ask():
the server forks, and the copy does the job with the caller's arguments, streams, folder and variables, as a process
started by the caller would. That copy forks once more for its kernel (waiting_kernel()). A job that has no server, or
none that fits, is an ordinary process; it imports everything itself and forks its kernel, or elsewhere than on Linux
starts an ordinary one. The results are the same, bit by bit.

Whoever ends takes what it started with it, also where it is killed: Linux kills a process whose parent is gone
(end_with()), and the server kills a job whose caller is gone. A killed job or kernel harms no other.
A copy has one thread, that which forked, so the server must have no other: it computes nothing and touches no GPU.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

POSSIBLE = hasattr(os, "fork") and hasattr(os, "pidfd_open") and hasattr(socket, "send_fds")  # Linux
NAME = "VTLIB_FORKSERVER"  # the variable that names the folder of the servers' sockets, one for each number of threads
CALL = "from vtlib.batch import forkserver; forkserver.main()"
IMPORTS = (  # of a job, of ipykernel, and of the notebooks; not matplotlib's inline backend, which has to find a kernel
    *("papermill", "nbclient", "nbconvert", "ipykernel.kernelapp", "ipykernel.kernelspec", "ipykernel.debugger"),
    *("IPython.display", "IPython.core.completerlib", "IPython.core.debugger", "IPython.core.oinspect", "sqlite3"),
    *("IPython.core.pylabtools", "IPython.extensions.storemagic", "tornado.platform.asyncio", "filelock"),
    *("torch", "torchvision", "pandas", "pandas.io.formats.style", "scipy.stats", "sklearn.manifold", "seaborn"),
    *("matplotlib.backends.backend_agg", "vtlib.launch", "vtlib.train", "vtlib.mechanisms", "vtlib.synvt"),
    *("vtlib.suite.calibrate", "vtlib.suite.choose", "vtlib.suite.cues", "vtlib.suite.embeddings"),
    *("vtlib.suite.explain", "vtlib.suite.field", "vtlib.suite.report", "vtlib.suite.transfer"),
)
INLINE = "module://matplotlib_inline.backend_inline"  # what a kernel sets before its first cell imports matplotlib
# Snakemake sets these to the threads of a job, and libraries read them when they are loaded: a server for each number
THREADS = [f"{library}_NUM_THREADS" for library in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")]
THREADS += ["VECLIB_MAXIMUM_THREADS"]
OF_A_SHELL = {"PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "TMP", "TEMPDIR", "TEMP"}  # no library reads them when loaded
PR_SET_PDEATHSIG = 1

forked = False  # whether this process is a copy that a server has made


def copied(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that a server and who asks it must have in common, as libraries may have read them: nearly all."""
    return {name: value for name, value in variables.items() if name not in OF_A_SHELL}


@contextmanager
def socket_folder() -> Iterator[tuple[str, bool]]:
    """Make a private folder for the files of a server or a kernel, and remove it at the end of the `with`.

    Yields: the folder, in TMPDIR or else in /tmp, and whether it can hold socket files.
    """
    places = [place for place in (tempfile.gettempdir(), "/tmp") if os.access(place, os.W_OK)]
    for place in places:
        with tempfile.TemporaryDirectory(prefix="vt", dir=place, ignore_cleanup_errors=True) as folder:
            if (sockets := holds_sockets(folder)) or place == places[-1]:
                yield folder, sockets
                return


def holds_sockets(folder: str) -> bool:
    """Whether a folder can hold socket files: their path has at most some 100 bytes, and not all file systems do."""
    if not hasattr(socket, "AF_UNIX"):  # Windows
        return False
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"{folder}/k-0")
    except OSError:
        return False
    return True


@contextmanager
def started(folder: Path, variables: dict[str, str], threads: Collection[int]) -> Iterator[list[subprocess.Popen]]:
    """Run fork servers during a `with`; they end with it, or with this process. Without Linux there are none.

    Args: folder: that they work in, like the jobs, because matplotlib reads its settings there; variables: the
        environment of the jobs, but for what Snakemake adds; threads: of the jobs, a server for each number.
    Yields: the servers.
    """
    if not (POSSIBLE and threads):
        yield []
        return
    servers = []
    with socket_folder() as (private, sockets):
        try:
            for number in sorted(threads) if sockets else ():
                with socket.socket(socket.AF_UNIX) as listener:  # from now on a caller waits for an answer
                    listener.bind(f"{private}/{number}")
                    listener.listen(256)
                    command = [sys.executable, "-c", CALL, str(listener.fileno()), str(os.getpid())]
                    own = variables | dict.fromkeys(THREADS, str(number)) | {NAME: private}
                    options = {"env": own, "cwd": folder, "pass_fds": [listener.fileno()], "start_new_session": True}
                    options |= dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
                    servers.append(subprocess.Popen(command, **options))
            os.environ[NAME] = private
            yield servers
        finally:
            os.environ.pop(NAME, None)
            for server in servers:
                server.terminate()
                server.wait()


def ask(*argv: str) -> int | None:
    """Have a server run `python -m ARGV` in a copy of itself, and wait for its end. SIGINT and SIGTERM are handed on.

    Returns: its exit code, or None where nothing was run, because there is no server or it has other variables.
    Raises: RuntimeError where the server, and so the copy, was killed.
    """
    if forked or not (folder := os.environ.get(NAME)):
        return None
    pid, early = 0, []

    def hand_on(number, frame):
        if not pid:  # the copy may be at work before its pid is here
            early.append(number)
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    handlers = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(f"{folder}/{os.environ.get(THREADS[0])}")
            request = json.dumps({"argv": argv, "cwd": os.getcwd(), "env": dict(os.environ)}).encode()
            socket.send_fds(server, [b"%8d" % len(request)], [0, 1, 2])
            server.sendall(request)
            answer = server.makefile("rb")
            pid = int(answer.readline() or 0)
        except OSError:
            pid = 0
        if not pid:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        for number in early:
            os.kill(pid or os.getpid(), number)
        if not pid:
            return None
        code = b""
        with suppress(ConnectionError):
            code = answer.readline()
        if not code:
            raise RuntimeError("the process that had forked this job was killed, and the job with it: start it again")
    return int(code) if int(code) >= 0 else 128 - int(code)  # as a shell says that a signal ended it


def main() -> None:
    """Be a server: import everything, then fork whenever somebody asks. sys.argv: number of the socket, the owner."""
    listener, owner = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    end_with(owner, signal.SIGTERM)
    own = copied(os.environ)
    os.close(os.pidfd_open(os.getpid()))  # an old Linux has none: the server ends here, and jobs go their own way
    load()
    if tasks() == 1:
        gc.freeze()  # the collector of a copy does not touch, and so not copy, what it shares
        serve(listener, own)


def load() -> None:
    """Import everything, and leave the variables as they are."""
    before = dict(os.environ)
    # as in a kernel; and debugpy, which a kernel imports, need not say that it cannot debug Python's frozen modules
    os.environ |= {"MPLBACKEND": INLINE, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    for name in IMPORTS:
        importlib.import_module(name)
    sys.modules["nbformat"].validate(sys.modules["nbformat"].v4.new_notebook())  # it compiles the schema once
    os.environ.clear()
    os.environ.update(before)
    if not os.fork():  # OpenBLAS may have threads from its import on, which it ends before a fork, until it needs some
        os._exit(0)
    os.wait()


def tasks() -> int:
    """How many threads this process has, those of C libraries too."""
    return len(os.listdir("/proc/self/task"))


def serve(listener: socket.socket, own: dict[str, str]) -> None:
    """Fork for everybody who asks with the variables of `own`; tell who asked the pid, and in the end the exit code."""
    watched = selectors.DefaultSelector()
    watched.register(listener, selectors.EVENT_READ)
    while True:
        key = watched.select()[0][0]
        if key.fileobj is listener:
            client = listener.accept()[0]
            if not (pid := answer(client, own, watched)):
                client.close()
                continue
            watched.register(client, selectors.EVENT_READ, pid)
            watched.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, client))
        elif isinstance(key.data, int):  # a client has gone, as it says nothing more
            watched.unregister(key.fileobj)
            with suppress(ProcessLookupError):
                os.kill(key.data, signal.SIGKILL)
                os.killpg(key.data, signal.SIGKILL)
        else:
            pid, client = key.data
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            watched.unregister(key.fileobj)
            os.close(key.fileobj)
            if client in watched.get_map():
                watched.unregister(client)
            with suppress(OSError), client:
                client.sendall(b"%d\n" % code)


def answer(client: socket.socket, own: dict[str, str], watched: selectors.BaseSelector) -> int:
    """Read a request and fork. Returns: the pid, which the client is told; 0 where it gets nothing."""
    fds, server = [], os.getpid()
    try:
        client.settimeout(10)
        size, fds, *_ = socket.recv_fds(client, 8, 3)
        request = json.loads(client.makefile("rb").read(int(size)))
        pid = os.fork() if copied(request["env"]) == own else 0
        if not pid and os.getpid() != server:
            for key in list(watched.get_map().values()):
                os.close(key.fd)
            client.close()
            end_with(server, signal.SIGKILL)
            become(request, fds)
        client.sendall(b"%d\n" % pid)
        return pid
    except (OSError, ValueError):
        return 0
    finally:
        for fd in fds:
            os.close(fd)


def end_with(parent: int, number: int) -> None:
    """Have Linux send this process a signal as soon as its parent has ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def become(request: dict, fds: list[int]) -> None:
    """Make this copy what `python -m ARGV` would be, in a session of its own, and end. It never returns.

    Args: request: argv, cwd, env; fds: files that become its standard streams, from 0 on.
    """
    global forked
    code = 1
    try:
        os.setsid()
        forked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for place, fd in enumerate(fds):
            os.dup2(fd, place)
            os.close(fd)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        tempfile.tempdir = None  # found again by the new TMPDIR
        atexit._clear()  # what libraries do at an end for their imports takes 0.2 s, and their files are the server's
        if "numpy" in sys.modules:  # Python draws its own again at a fork
            sys.modules["numpy"].random.seed()
        if "torch" in sys.modules:
            sys.modules["torch"].default_generator.seed()
        sys.argv = request["argv"]
        warnings.filterwarnings("ignore", "'vtlib.launch' found in sys.modules", RuntimeWarning)
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:  # as an interpreter ends, less the time to take it apart
        with suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 255)


class Kernel:
    """A copy of this process that waits to be told which module to run: a Popen as far as jupyter_client needs one."""

    stdin = stdout = stderr = returncode = None

    def __init__(self):
        self.line, line = socket.socketpair()
        parent, self.pid = os.getpid(), os.fork()
        if self.pid:
            line.close()
            return
        self.line.close()
        end_with(parent, signal.SIGKILL)
        if not (request := line.makefile("rb").read()):  # this process was not needed
            os._exit(0)
        line.close()
        become(json.loads(request), [os.open(os.devnull, os.O_RDONLY)])

    def start(self, argv: list[str], cwd: str | None, env: dict[str, str]) -> None:
        """Have it run `python -m ARGV`, with nothing to read and this process's output."""
        self.line.sendall(json.dumps({"argv": argv, "cwd": cwd or os.getcwd(), "env": env}).encode())
        self.line.close()

    def poll(self) -> int | None:
        """Its exit code, with a minus the signal that ended it; None while it lives."""
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self) -> int:
        """Wait for its end. Returns: as poll()."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it and wait for its end."""
        self.send_signal(signal.SIGKILL)
        self.wait()


@contextmanager
def waiting_kernel(variables: dict[str, str]) -> Iterator[Kernel | None]:
    """Have a copy of this process wait during a `with`, to become a kernel; None where it would not be as a new one.

    A job that no server has forked, as on Slurm, imports everything itself. A run of profile quick so takes 15 s of
    processor time, where with a kernel that imports for itself it takes 20 s.
    Args: variables: the environment of the kernel.
    """
    fits = forked or (POSSIBLE and tasks() == 1 and at_start(variables) == at_start(os.environ))
    if fits and not forked:
        load()
    if not fits or tasks() > 1:
        yield None
        return
    kernel = Kernel()
    try:
        yield kernel
    finally:
        kernel.line.close()
        kernel.kill()


def at_start(variables: Mapping[str, str]) -> dict:
    """The variables as Python takes them: the same folder twice in PYTHONPATH counts once."""
    return {**variables, "PYTHONPATH": list(dict.fromkeys(variables.get("PYTHONPATH", "").split(os.pathsep)))}
