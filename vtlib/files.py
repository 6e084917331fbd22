"""Where data and results lie, files that are whole or absent, and locks; every job begins here, so nothing is heavy."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what flock answers on a file system without locks


def digest(files: Iterable[Path], given: object) -> str:
    """Hash of files and of a JSON value."""
    whole = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place if the `with` ends well: `path` is whole or as before.

    Raises: OSError naming the file and what to do where the disk is full.
    """
    part = path.with_name(f"{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        why = f"{path} cannot be written: {os.strerror(error.errno)}"
        repair = "clear some room, or let VTLIB_RESULTS and VTLIB_DATA name folders on a larger disk"
        full = OSError(f"{why}: {repair}; what is finished is kept")
        full.errno = error.errno
        raise full from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write atomically: the file is whole or as it was before."""
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")


def read_json(path: Path, repair: str = "delete it, and it is made again") -> dict:
    """The JSON object of a file that write_json() wrote.

    Raises: ValueError naming the file and the `repair` where it is cut, empty or of another kind; FileNotFoundError.
    """
    return parse_object(read_bytes(path, repair), path, repair)


def read_bytes(path: Path, repair: str) -> bytes:
    """Raises: FileNotFoundError, or ValueError where the path is no file, with the `repair`."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: {repair}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder and no file: {repair}") from None


def read_json_lines(path: Path, repair: str) -> list[dict]:
    """The JSON objects of a file, one a line. Raises: as read_json()."""
    return [parse_object(line, path, repair) for line in read_bytes(path, repair).splitlines() if line.strip()]


def parse_object(text: bytes, path: Path, repair: str) -> dict:
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        why = "it is empty" if not text.strip() else str(error)
        raise ValueError(f"{path} cannot be read ({why}): {repair}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} cannot be read (it holds no JSON object): {repair}")
    return value


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a file lock; the system lets it go if the process dies, whatever killed it.

    On a file system without locks the file itself is the lock, and one that a dead process of this machine left is
    taken over. Args: wait: for another holder; else BlockingIOError at once.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    patience = -1 if wait else 0
    held = FileLock(path, timeout=patience)
    try:
        try:
            held.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            held = SoftFileLock(f"{path}.soft", timeout=patience)
            held.acquire()
    except Timeout:
        raise BlockingIOError(f"{path} is held by another process") from None
    try:
        yield
    finally:
        held.release()
