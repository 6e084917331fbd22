"""Files that are written whole or not at all, JSON, digests and locks. Every job imports this: no heavy imports."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # errors of flock on a file system without locks


def digest(files: Iterable[Path], value: object) -> str:
    """sha256, as hex digits, of a JSON value followed by the bytes of some files."""
    content = hashlib.sha256(json.dumps(value, sort_keys=True).encode())
    for file in files:
        content.update(file.read_bytes())
    return content.hexdigest()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; at the end of the `with` it replaces `path`, unless there was an error.

    So `path` is always either complete or as it was before.
    Raises: OSError naming the file and a remedy where the disk is full.
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
    """Write a value as JSON; the file is complete or as it was before (whole())."""
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")


def read_json(path: Path, repair: str = "delete it, and it is made again") -> dict:
    """The JSON object in a file.

    Args: path; repair: what to do about a broken file, the end of an error's sentence.
    Raises: ValueError naming the file where it is cut, empty or no JSON object; FileNotFoundError.
    """
    return parse_object(read_bytes(path, repair), path, repair)


def remembered(path: Path) -> dict:
    """The JSON object in a file that can be made again; {} where the file is absent, cut or empty."""
    try:
        return read_json(path)
    except (ValueError, FileNotFoundError):
        return {}


def read_bytes(path: Path, repair: str) -> bytes:
    """The bytes of a file. Raises: FileNotFoundError, or ValueError for a folder; both end with `repair`."""
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
    """The JSON object in a text that comes from `path`. Raises: ValueError as read_json()."""
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
    """Hold a lock on a file during a `with`; the system frees it when the process dies.

    On a file system without locks the existence of a file is the lock; one that a dead process of this machine has left
    is taken over.
    Args: path; wait: for another process that holds it. Raises: BlockingIOError at once if wait is false.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    patience = -1 if wait else 0
    file_lock = FileLock(path, timeout=patience)
    try:
        try:
            file_lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            file_lock = SoftFileLock(f"{path}.soft", timeout=patience)
            file_lock.acquire()
    except Timeout:
        raise BlockingIOError(f"{path} is held by another process") from None
    try:
        yield
    finally:
        file_lock.release()
