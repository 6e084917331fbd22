"""Roots, files that are whole or as before, and locks."""

import errno
import json
import os
from pathlib import Path

import pytest

from vtlib import common, files


@pytest.mark.parametrize(
    ("variable", "where"), [("VTLIB_DATA", common.data_root), ("VTLIB_RESULTS", common.results_root)]
)
def test_both_roots_take_the_home_folder_a_relative_path_and_nothing(variable, where, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/x y")
    assert where() == tmp_path / "x y"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "here")
    assert where() == tmp_path / "here"
    monkeypatch.setenv(variable, "")
    assert where().parent == Path(files.__file__).parents[1]
    monkeypatch.setenv(variable, "~nobody-at-all/x")
    with pytest.raises(ValueError, match=f"{variable}: '~nobody-at-all/x' names the home folder of nobody"):
        where()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b'{"a": 1', "Expecting"),
        (b"\xff\xfe{", "decode"),
        (b"[1]", "no JSON object"),
        (b"[" * 9999, ""),
    ],
)
def test_a_broken_state_file_is_named_with_its_repair(tmp_path, content, why):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        files.read_json(path, "delete the run")
    text = str(error.value)
    assert str(path) in text and why in text and text.endswith("delete the run") and "\n" not in text


def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    with pytest.raises(KeyboardInterrupt), files.whole(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert files.read_json(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_lines_of_json_are_read_one_by_one(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch"')
    with pytest.raises(ValueError, match=r"history\.jsonl cannot be read"):
        files.read_json_lines(path, "delete it")


@pytest.mark.parametrize("code", [None, *files.NO_LOCKS])
def test_a_lock_keeps_others_out_also_where_the_file_system_has_none(tmp_path, monkeypatch, code):
    if code:
        import filelock

        def refuse(self, *args, **kwargs):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    path = tmp_path / "x.lock"
    with files.lock(path):
        pass
    with files.lock(path), pytest.raises(BlockingIOError, match=r"x\.lock"), files.lock(path, wait=False):
        pytest.fail("two holders")
    with files.lock(path, wait=False):
        pass


def test_another_fault_of_a_lock_is_not_hidden(tmp_path, monkeypatch):
    import filelock

    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(OSError, match="read-only"), files.lock(tmp_path / "x.lock"):
        pass


def test_json_is_written_as_text_of_one_coding(tmp_path, monkeypatch):
    path = tmp_path / "ü.json"
    files.write_json(path, {"ä": "ö"})
    assert json.loads(path.read_bytes().decode("utf-8")) == files.read_json(path) == {"ä": "ö"}


@pytest.mark.parametrize("code", files.NO_ROOM)
def test_a_full_disk_is_one_sentence_and_the_file_stays_as_it_was(tmp_path, code):
    path = tmp_path / "checkpoint.pt"
    path.write_text("before")
    with pytest.raises(OSError, match="clear some room") as error, files.whole(path) as part:
        part.write_text("half")
        raise OSError(code, os.strerror(code))
    assert str(path) in str(error.value) and "VTLIB_RESULTS" in str(error.value) and "\n" not in str(error.value)
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(PermissionError), files.whole(path):
        raise PermissionError(errno.EACCES, "denied")
