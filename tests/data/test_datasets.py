"""Readers and checks on generated trees with one fault each, on two tiny real sets, and on the official SYSU lists."""

import io
import json
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from scipy.io import savemat

from vtlib.common import data_root
from vtlib.data import check, datasets


def picture(path, colour=(200, 40, 90), size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def grey(thermal):
    return (70, 70, 70) if thermal else (200, 40, 90)


def sysu(root, ids=None, images=2):
    """Six cameras; identity 9 has images, but is in no list."""
    ids = ids or {"train": "1,2", "val": "3", "test": "4, 5\n"}
    cells = np.empty((6, 1), object)
    for cam in range(1, 7):
        for pid in (1, 2, 3, 4, 5, 9):
            for n in range(images):
                picture(root / f"cam{cam}" / f"{pid:04d}" / f"{n + 1:04d}.jpg", grey(cam in (3, 6)))
        cells[cam - 1, 0] = column = np.empty((9, 1), object)
        for pid in range(9):
            column[pid, 0] = np.stack([1 + np.random.permutation(images) for _ in range(10)]).astype(np.uint8)
    (root / "exp").mkdir()
    for name, text in {**ids, "available": "1,2,3,4,5"}.items():
        (root / "exp" / f"{name}_id.txt").write_text(text)
    savemat(root / "exp" / "rand_perm_cam.mat", {"rand_perm_cam": cells})
    return root


def regdb(root):
    """Identities 1 to 4; in every split 1 and 2 train. Labels start anew in the test lists and run backwards there."""
    (root / "idx").mkdir(parents=True)
    lines = {}
    for pid in range(1, 5):
        for letter, name in zip("vt", ("Visible", "Thermal"), strict=True):
            for n in range(2):
                path = f"{name}/{pid}/female_front_{letter}_{n:05d}_{pid}.bmp"
                picture(root / path, grey(letter == "t"))
                side = "train" if pid < 3 else "test"
                label = pid - 1 if side == "train" else 4 - pid
                lines.setdefault((side, name.lower()), []).append(f"{path} {label}\n")
    for (side, name), text in lines.items():
        for t in range(1, 11):
            (root / "idx" / f"{side}_{name}_{t}.txt").write_text("".join(text))
    return root


def folder(root, pids=(3, 12)):
    for pid in pids:
        picture(root / "visible" / str(pid) / "b.png")
        picture(root / "visible" / str(pid) / "a.png")
        picture(root / "Thermal" / str(pid) / "a.png", grey(True))
    return root


TREES = {"sysu": sysu, "regdb": regdb, "folder": folder}


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("layout", TREES)
def test_the_table_has_its_columns_and_order(tmp_path, layout):
    root = TREES[layout](tmp_path / "camera-cam3-0001")  # a root that misleads who slices paths
    (root / "Thumbs.db").write_bytes(b"")
    table = datasets.read(layout, root)
    assert list(table.columns) == ["path", "pid", "cam", "modality", "split", "number", "frame"]
    assert table.path.tolist() == sorted(table.path) and table.path.is_unique
    assert table.index.equals(pd.RangeIndex(len(table)))
    assert all((root / path).is_file() for path in table.path)
    assert (table.pid == table.path.str.split("/").str[1].astype(int)).all()
    assert set(table.modality) == {0, 1} and table.number.min() == 1
    assert check.problems(check.check(layout, root, published=False)) == []


def test_sysu_takes_cameras_numbers_and_splits_from_the_tree(tmp_path):
    root = sysu(tmp_path / "s")
    (root / "cam1" / "0004" / "Thumbs.db").write_bytes(b"")
    (root / "cam1" / "0004" / "._0001.jpg").write_bytes(b"")
    table = datasets.read("sysu", root)
    assert len(table) == 6 * 5 * 2 and 9 not in set(table.pid)
    assert set(table.cam[table.modality == 1]) == {3, 6} and set(table.cam[table.modality == 0]) == {1, 2, 4, 5}
    assert table.groupby("split").pid.unique().map(list).to_dict() == {"train": [1, 2], "val": [3], "test": [4, 5]}
    assert (table.number == table.path.str.extract(r"(\d+)\.jpg")[0].astype(int)).all()


def test_sysu_leaves_out_identities_that_are_not_available(tmp_path):
    root = sysu(tmp_path / "s")
    (root / "exp" / "available_id.txt").write_text("1\n3 4,5")
    assert set(datasets.read("sysu", root).pid) == {1, 3, 4, 5}


def test_regdb_takes_identities_from_folders_and_splits_from_lists(tmp_path):
    table = datasets.read("regdb", regdb(tmp_path / "r"), split=10)
    assert table.groupby("split").pid.unique().map(list).to_dict() == {"test": [3, 4], "train": [1, 2]}
    assert (table.cam == table.modality + 1).all() and set(table.number) == {1, 2}


def test_folder_without_manifest_has_one_camera_a_modality(tmp_path):
    table = datasets.read("folder", folder(tmp_path / "f"))
    assert (table.cam == table.modality + 1).all() and set(table.split) == {"test"} and set(table.frame) == {""}
    assert table[(table.pid == 12) & (table.modality == 0)].number.tolist() == [1, 2]


def write_manifest(file, root, prefix="", **change):
    rows = datasets.read("folder", root)
    names = rows.modality.map({0: "visible", 1: "thermal"})
    frames = rows.path.str.extract(r"(\w)\.png")[0]
    columns = {"modality": names, "id": rows.pid, "camera": rows.pid.map({3: "roof", 12: "door"}), "frame": frames}
    pd.DataFrame({**columns, "file": prefix + rows.path, **change}).to_csv(file, index=False)


@pytest.mark.parametrize("above", [False, True])
def test_folder_takes_cameras_and_frames_from_a_manifest(tmp_path, above):
    root = folder(tmp_path / "f")
    write_manifest(tmp_path / "manifest.csv" if above else root / "manifest.csv", root, "f/" if above else "")
    table = datasets.read("folder", root)
    assert table.groupby("pid").cam.unique().map(list).to_dict() == {3: [2], 12: [1]}  # door 1, roof 2
    pair = table[table.frame == "roof/a"]
    assert pair.modality.tolist() == [1, 0] and set(pair.pid) == {3}


def test_a_manifest_of_other_folders_is_not_ours(tmp_path):
    root = folder(tmp_path / "f")
    write_manifest(tmp_path / "manifest.csv", root, "elsewhere/")
    assert set(datasets.read("folder", root).frame) == {""}


def test_folder_takes_splits_from_split_csv(tmp_path):
    root = folder(tmp_path / "f")
    (root / "split.csv").write_text("id,split\n3,train\n12,test\n")
    assert datasets.read("folder", root).groupby("pid").split.first().to_dict() == {3: "train", 12: "test"}


@pytest.mark.parametrize(("name", "pids", "images"), [("kaist_ped", 32, (39, 69)), ("metu4", 4, (36, 40))])
def test_two_tiny_real_sets_read_and_check(shared, name, pids, images):
    root = shared / "realdata" / name
    if not root.is_dir():
        pytest.skip("the tiny real sets are not here")
    table = datasets.read("folder", root)
    assert table.pid.nunique() == pids and tuple(np.bincount(table.modality)) == images
    assert (table.frame != "").all() and table.groupby("frame").cam.nunique().max() == 1
    assert check.problems(check.check("folder", root)) == []
    if name == "kaist_ped":  # ids 16 to 32: both modalities of one instant
        assert (table[table.pid > 15].groupby("pid").frame.nunique() == 1).all()


# ---------------------------------------------------------------------------------------------- faults

FAULTS = {  # name: (layout, what breaks it, words of the one sentence)
    "no camera folder": ("sysu", lambda r: (r / "cam4").rename(r / "camera4"), "has no folder cam4"),
    "no id file": ("sysu", lambda r: (r / "exp/val_id.txt").unlink(), "val_id.txt is missing"),
    "empty id file": ("sysu", lambda r: (r / "exp/test_id.txt").write_text("\n"), "test_id.txt is empty"),
    "words for ids": ("sysu", lambda r: (r / "exp/test_id.txt").write_text("4,five"), "'five' is not the number"),
    "empty split": ("sysu", lambda r: (r / "exp/test_id.txt").write_text("77"), "split 'test' is empty"),
    "id twice": ("sysu", lambda r: (r / "exp/test_id.txt").write_text("3,4,5"), "identity 3 is in val_id.txt and in"),
    "person by name": ("sysu", lambda r: (r / "cam1/0001").rename(r / "cam1/anna"), "must be named by its number"),
    "no list": ("regdb", lambda r: (r / "idx/test_thermal_1.txt").unlink(), "test_thermal_1.txt is missing"),
    "empty list": ("regdb", lambda r: (r / "idx/test_thermal_1.txt").write_text(""), "test_thermal_1.txt is empty"),
    "no label": ("regdb", lambda r: (r / "idx/test_visible_1.txt").write_text("Visible/3/x.bmp"), "`path label`"),
    "list names missing files": (
        "regdb",
        lambda r: [p.unlink() for p in (r / "Visible/3").iterdir()],
        r"test_visible_1.txt, line 1 lists Visible/3/\S+, which is not there \(and 1 more\)",
    ),
    "overlap behind labels": (
        "regdb",
        lambda r: (
            edit(r / "idx/test_visible_1.txt", "_00000_3.bmp", "_00000_1.bmp")
            or edit(r / "idx/test_visible_1.txt", "Visible/3/female_front_v_00000", "Visible/1/female_front_v_00000")
        ),
        r"1.txt: 1 test identities are in the training lists too, the first is 1",
    ),
    "wrong modality": (
        "regdb",
        lambda r: (r / "idx/train_visible_1.txt").write_text((r / "idx/train_thermal_1.txt").read_text()),
        "lists Thermal/1/.* not a visible image",
    ),
    "listed twice": (
        "regdb",
        lambda r: (f := r / "idx/train_visible_1.txt").write_text(f.read_text() * 2),
        r"train_visible_1.txt, line 5 lists Visible/1/\S+ once more, as line 1 does",
    ),
    "no thermal": ("folder", lambda r: (r / "Thermal").rename(r / ".Thermal"), "has no folder Thermal"),
    "slip in a folder": ("folder", lambda r: (r / "Thermal").rename(r / "Thremal"), "'Thremal'.*mean 'Thermal'"),
    "two folders of a number": (
        "folder",
        lambda r: picture(r / "visible/03/a.png"),
        "visible: the folders 03 and 3 have one number, 3",
    ),
    "cam1/0001 and cam1/1": ("sysu", lambda r: picture(r / "cam1/1/a.jpg"), "cam1: the folders 0001 and 1 have one"),
    "superscript": ("folder", lambda r: picture(r / "Thermal/\u00b2/a.png"), "must be named by its number"),
    "Arabic digit": ("folder", lambda r: picture(r / "Thermal/\u0663/a.png"), "must be named by its number"),
    "number of 20 digits": ("folder", lambda r: picture(r / f"Thermal/{2**63}/a.png"), "below 2\\^63"),
    "two spellings": (
        "sysu",
        lambda r: (r / "exp/test_id.txt").write_text("4\n5 04"),
        "line 2: 4 and 04 are one number",
    ),
    "Arabic list": (
        "sysu",
        lambda r: (r / "exp/test_id.txt").write_text("4\n\u0665", encoding="utf-8"),
        "line 2: '.' is",
    ),
    "commas alone": ("sysu", lambda r: (r / "exp/test_id.txt").write_text(",;\n"), "test_id.txt is empty"),
    "NUL in a list": (
        "sysu",
        lambda r: (r / "exp/test_id.txt").write_bytes(b"4,\n5\0"),
        "line 2: this is no text in UTF-8",
    ),
    "two visible folders": (
        "folder",
        lambda r: picture(r / "Visible/3/a.png"),
        "the folders Visible and visible are one modality",
    ),
    "label in Arabic": (
        "regdb",
        lambda r: (r / "idx/test_visible_1.txt").write_text("Visible/3/x.bmp \u0663", encoding="utf-8"),
        "line 1: .* is not of the form `path label`",
    ),
    "other suffixes alone": (
        "folder",
        lambda r: [p.rename(p.with_suffix(".gif")) for p in r.rglob("*.png")],
        "holds no image: .* and 6 .gif are not read: convert them to PNG",
    ),
    "no images": ("folder", lambda r: [p.unlink() for p in r.rglob("*.png")], "holds no image"),
    "bad split": (
        "folder",
        lambda r: (r / "split.csv").write_text("id,split\n3,tests\n12,test\n"),
        "csv, line 2: .*mean 'test'",
    ),
    "id without split": ("folder", lambda r: (r / "split.csv").write_text("id,split\n3,test\n"), "split.csv must"),
    "split without column": ("folder", lambda r: (r / "split.csv").write_text("pid,split\n3,test\n"), "no column 'id'"),
    "image not in manifest": (
        "folder",
        lambda r: write_manifest(r / "manifest.csv", r) or picture(r / "visible/3/new.png"),
        "must list each image once: look at visible/3/new.png",
    ),
    "manifest of another mind": (
        "folder",
        lambda r: write_manifest(r / "manifest.csv", r, modality="thermal"),
        "modality or id of visible/",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_sentence_that_names_it(tmp_path, name):
    layout, spoil, words = FAULTS[name]
    root = TREES[layout](tmp_path / layout)
    spoil(root)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        datasets.read(layout, root)
    assert "\n" not in str(caught.value) and str(root.name) in str(caught.value)


def test_faults_of_the_call(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        datasets.read("sysu", tmp_path / "none")
    with pytest.raises(ValueError, match="unknown layout 'sisu': did you mean 'sysu'"):
        datasets.read("sisu", tmp_path)
    for layout, split in (("regdb", 11), ("regdb", 0), ("sysu", 2), ("regdb", 1.5)):
        with pytest.raises(ValueError, match="split must be 1 to 10 for regdb"):
            datasets.read(layout, tmp_path, split=split)


def test_locate_prefers_a_folder_then_the_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("VTLIB_DATA", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert data_root() == tmp_path
    assert datasets.locate("mine") == datasets.locate(tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds mine, and {Path.cwd() / 'theirs'} is none"):
        datasets.locate("theirs")
    monkeypatch.setenv("VTLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder.*--data or VTLIB_DATA names the folder"):
        datasets.locate("theirs")
    with pytest.raises(FileNotFoundError, match="no data set is named"):
        datasets.locate("")
    monkeypatch.delenv("VTLIB_DATA")
    assert data_root() == Path(datasets.__file__).parents[2] / "data"


SPLIT = "id,split\n3,train\n12,test\n"
READ = {  # what Excel, Windows and people make of a split.csv, all of one meaning
    "plain": SPLIT.encode(),
    "UTF-8 with a mark": SPLIT.encode("utf-8-sig"),
    "UTF-16": SPLIT.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + SPLIT.encode("utf-16-be"),
    "tabs in UTF-16": SPLIT.replace(",", "\t").encode("utf-16"),
    "semicolons": SPLIT.replace(",", ";").encode(),
    "Windows": SPLIT.replace("\n", "\r\n").encode(),
    "old Mac": SPLIT.replace("\n", "\r").encode(),
    "no end": SPLIT.strip().encode(),
    "quotes": b'"id","split"\n"3","train"\n"12", "test"\n',
    "spaces": b" id , split \n 3, train \n\t12 ,test\n\n",
    "upper case": b"ID,Split\n3,Train\n12,TEST\n",
    "zeros": b"id,split\n0003,train\n012,test\n",
    "more columns": b"name,split,id\nanna,train,3\nb,test,12\n",
    "empty values at the end": b"id,split\n3,train,\n12,test,,\n,,\n",
    "people who are not there": SPLIT.encode() + b"99,val\n",
}
REFUSED = {
    "empty": (b"", "split.csv is empty: its first line must name id, split"),
    "blank": (b"\n \n", "split.csv is empty"),
    "no rows": (b"id,split\n", "must give every identity one line `id,split`: 3 has none .nor 1 more"),
    "no header": (b"3,train\n12,test\n", "has no column 'id'"),
    "two columns": (b"id,split,ID\n3,train,4\n", "has two columns 'id'"),
    "ragged": (SPLIT.encode() + b"4,test,x\n", "line 4 has 3 values, the first line names 2"),
    "short": (b"id,split\n\n3\n", "line 3 has 1 values, the first line names 2"),
    "Latin-1": (b"id,split,name\n3,train,Andr\xe9\n", "line 2: this is no text in UTF-8"),
    "Latin-1, old Mac": (b"id,split,name\r3,train,a\r12,test,Andr\xe9\r", "line 3: this is no text in UTF-8"),
    "UTF-16 without a mark": (SPLIT.encode("utf-16-le"), "line 1: this is no text in UTF-8"),
    "UTF-32": (SPLIT.encode("utf-32"), "line 1: this is no text in UTF-8"),
    "NUL": (b"id,split\n3,train\0\n", "line 2: this is no text in UTF-8"),
    "a quote that does not end": (b'id,split\n3,"train\n12,test\n', "line 2: unexpected end of data"),
    "a person twice": (SPLIT.encode() + b"03,test\n", "line 4: identity 3 has more than one line"),
    "a name": (b"id,split\nanna,train\n", "line 2: 'anna' is not the number"),
    "a fraction": (b"id,split\n3.0,train\n", "line 2: '3.0' is not the number"),
    "a number of 20 digits": (f"id,split\n{2**63},train\n".encode(), "line 2: '9223372036854775808' is not the number"),
    "no such split": (b"id,split\n3,training\n", "line 2: unknown split 'training': did you mean 'train'"),
}


@pytest.mark.parametrize("name", READ)
def test_a_table_is_read_as_it_is_meant(tmp_path, name):
    root = folder(tmp_path / "f")
    (root / "split.csv").write_bytes(READ[name])
    assert datasets.read("folder", root).groupby("pid").split.first().to_dict() == {3: "train", 12: "test"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_read_is_named_with_its_line(tmp_path, name):
    root, (data, words) = folder(tmp_path / "f"), REFUSED[name]
    (root / "split.csv").write_bytes(data)
    with pytest.raises(ValueError, match=words) as caught:
        datasets.read("folder", root)
    assert str(root / "split.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_lists_are_read_as_they_are_meant(tmp_path):
    root, other = sysu(tmp_path / "s"), regdb(tmp_path / "r")
    expected, listed = datasets.read("sysu", root), datasets.read("regdb", other)
    for text in ("4,5\r\n", "4;5", " 4\t5 ", "4\r5\r", "4\n5\n5"):
        for encoding in ("utf-8-sig", "utf-16"):
            (root / "exp" / "test_id.txt").write_bytes(text.encode(encoding))
            pd.testing.assert_frame_equal(datasets.read("sysu", root), expected)
    file = other / "idx" / "test_visible_1.txt"
    plain = file.read_text()
    for change in (("/", "\\"), (" ", "\t"), ("\n", "\r\n"), ("\n", "  \n\n")):
        file.write_bytes(plain.replace(*change).encode("utf-16"))
        pd.testing.assert_frame_equal(datasets.read("regdb", other), listed)


def test_a_manifest_may_come_from_windows(tmp_path):
    root = folder(tmp_path / "f")
    write_manifest(root / "manifest.csv", root)
    expected, text = datasets.read("folder", root), (root / "manifest.csv").read_text()
    for change in (("/", "\\"), (",", ";"), ("visible/", ".\\visible\\"), ("modality", "Modality")):
        (root / "manifest.csv").write_text(text.replace(*change))
        pd.testing.assert_frame_equal(datasets.read("folder", root), expected)


def test_camera_1_and_01_are_one_camera_whose_instants_are_known(tmp_path):
    root = folder(tmp_path / "f", pids=(3,))
    write_manifest(root / "manifest.csv", root, camera=["1", "01", "1"])
    table = datasets.read("folder", root)
    assert set(table.cam) == {1} and table.frame.tolist() == ["1/a", "1/a", "1/b"]


def test_frame_001_and_1_are_one_instant(tmp_path):
    root = folder(tmp_path / "f", pids=(3,))
    write_manifest(root / "manifest.csv", root, camera="a", frame=["001", "1", "2"])
    assert datasets.read("folder", root).frame.tolist() == ["a/1", "a/1", "a/2"]


def test_a_manifest_above_is_found_through_a_link_and_from_inside(tmp_path, monkeypatch):
    root = folder(tmp_path / "ext" / "f")
    write_manifest(tmp_path / "ext" / "manifest.csv", root, "f/")
    expected = datasets.read("folder", root)
    assert (expected.frame != "").all()
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root / "Thermal")
    for place in (tmp_path / "link", ".."):
        pd.testing.assert_frame_equal(datasets.read("folder", place), expected)


@pytest.mark.parametrize("name", ["Manifest.csv", "SPLIT.csv"])
def test_a_list_under_another_name_is_not_passed_over(tmp_path, name):
    root = folder(tmp_path / "f")
    (root / name).write_text("id,split\n")
    with pytest.raises(ValueError, match=f"{name} must be called {name.lower()}"):
        datasets.read("folder", root)


MANIFESTS = {  # column, value of the second image, words
    "person": ("id", "4", "line 3: modality or id of visible/12/a.png is not"),
    "person above 2^53": ("id", str(2**53 + 1), "line 3: modality or id"),
    "modality": ("modality", "infrared", "line 3: modality or id"),
    "camera": ("camera", "", "line 3: visible/12/a.png has no camera"),
    "file": ("file", "visible/12/c.png", "must list each image once: look at visible/12/a.png"),
    "file twice": ("file", "Thermal/12/a.png", "must list each image once: look at visible/12/a.png"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_slip_in_a_manifest_is_named(tmp_path, name):
    root, (column, value, words) = folder(tmp_path / "f"), MANIFESTS[name]
    write_manifest(root / "manifest.csv", root)
    table = pd.read_csv(root / "manifest.csv", dtype=str)
    table.loc[2, column] = value
    table.loc[[2, 0, 1, 3, 4, 5]].to_csv(root / "manifest.csv", index=False)
    with pytest.raises(ValueError, match=words.replace("line 3", "line 2")) as caught:
        datasets.read("folder", root)
    assert str(root / "manifest.csv") in str(caught.value)


def test_identities_are_exact_up_to_2_to_the_63(tmp_path):
    pids = (2**63 - 1, 2**63 - 2, 2**53, 2**53 + 1)
    root = folder(tmp_path / "f", pids)
    (root / "split.csv").write_text("id,split\n" + "".join(f"{p},{'train' if p % 2 else 'test'}\n" for p in pids))
    write_manifest(root / "manifest.csv", root, camera="door")
    table = datasets.read("folder", root)
    assert set(table.pid) == set(pids) and ((table.pid % 2 == 1) == (table.split == "train")).all()


# ---------------------------------------------------------------------------------------------- images


def encoded(image, kind="PNG", **options):
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


# Pillow's modes -> what (200, 100, 50) becomes in them and back; None: more than 8 bits a channel
MODES = dict.fromkeys(("RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"), (200, 100, 50))
MODES |= dict.fromkeys(("L", "LA", "La"), (124, 124, 124)) | {"1": (0, 0, 0), "P": (204, 102, 51), "PA": (204, 102, 51)}
MODES |= dict.fromkeys(("I", "F", "I;16", "I;16L", "I;16B", "I;16N"))
STEPS = {"La": ("LA", "La"), "PA": ("P", "PA")}


def test_every_mode_of_pillow_is_known():
    assert set(Image.MODES if hasattr(Image, "MODES") else MODES) <= set(MODES)


@pytest.mark.parametrize("mode", [m for m, value in MODES.items() if value])
def test_a_mode_gives_its_colour(mode):
    image = Image.new("RGB", (4, 3), MODES[mode] if mode == "1" else (200, 100, 50))
    for step in STEPS.get(mode, (mode,)):
        image = image.convert(step)
    assert image.mode == mode
    rgb, transparent = datasets._opaque(image, None)
    assert rgb.mode == "RGB" and not transparent
    assert np.abs(np.asarray(rgb).astype(int) - MODES[mode]).max() <= 1


DEEP = {m: encoded(Image.new(m, (4, 3)), "TIFF") for m in ("I", "F", "I;16", "I;16B")}
DEEP["PNG"] = encoded(Image.new("I;16", (4, 3)))


def png16(kind, channels):
    """A PNG of 16 bits a channel, which Pillow cannot write: 4 x 3 pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header, lines = (
        struct.pack(">IIBBBBB", 4, 3, 16, kind, 0, 0, 0),
        zlib.compress((b"\0" + b"\x12\x34" * 4 * channels) * 3),
    )
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


DEEP |= {f"PNG of {n} channels": png16(kind, n) for kind, n in ((2, 3), (4, 2), (6, 4))}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_refused(name):
    with pytest.raises(ValueError, match=r"^a\.png has more than 8 bits a channel: convert the set to 8 bits first$"):
        datasets.picture(DEEP[name], Path("a.png"))


PAGES = [Image.new("RGB", (4, 3), c) for c in ("red", "blue")]
UNUSABLE = {
    "empty": (b"", "^a.png is empty"),
    "text": (b"hello", "^a.png is no image that can be read"),
    "cut": (encoded(Image.effect_noise((40, 30), 50))[:-200], "^a.png cannot be decoded"),
    "pages": (encoded(PAGES[0], "TIFF", save_all=True, append_images=PAGES[1:]), "^a.png holds 2 images"),
    "film": (encoded(PAGES[0], "WEBP", save_all=True, append_images=PAGES[1:]), "^a.png holds 2 images"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_image_that_cannot_be_used_is_one_sentence(name):
    data, words = UNUSABLE[name]
    with pytest.raises(ValueError, match=words) as caught:
        datasets.picture(data, Path("a.png"))
    assert "\n" not in str(caught.value)


def test_a_huge_image_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ValueError, match=r"^a\.png has too many pixels"):
        datasets.picture(encoded(Image.new("L", (20, 20))), Path("a.png"))


def test_transparent_pixels_are_laid_on_black():
    pixels = np.full((2, 2, 4), (200, 100, 50, 255), np.uint8)
    assert not datasets.picture(encoded(Image.fromarray(pixels)), Path("a.png")).transparent
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 128
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.putpixel((0, 0), 0)
    for data, half in ((encoded(Image.fromarray(pixels)), 100), (encoded(palette, transparency=0), 200)):
        found = datasets.picture(data, Path("a.png"))
        values = np.asarray(found.image)
        assert found.transparent and values[0, 0].tolist() == [0, 0, 0] and values[1, 1].tolist() == [200, 100, 50]
        assert abs(int(values[0, 1, 0]) - half) <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [0, *range(1, 9), 99])
def test_an_image_is_set_upright_by_its_exif(kind, orientation):
    """Against Pillow's own way; 0 and 99 mean nothing."""
    stored = Image.fromarray(np.repeat(np.repeat(np.arange(6, dtype=np.uint8).reshape(3, 2) * 50, 8, 0), 8, 1)).convert(
        "RGB"
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = datasets.picture(data := encoded(stored, kind, exif=exif), Path("a.jpg"))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(np.asarray(found.image), np.asarray(expected))
    assert found.turned == (2 <= orientation <= 8) and (found.image.width > found.image.height) == (
        5 <= orientation <= 8
    )


def test_a_broken_exif_leaves_the_image_as_it_is():
    data = encoded(Image.new("RGB", (4, 3), "red"), "JPEG", exif=b"Exif\0\0no exif at all")
    assert not datasets.picture(data, Path("a.jpg")).turned


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder(tmp_path / "sets" / "f")
    assert datasets.locate("~/sets/f") == tmp_path / "sets/f" and datasets.is_there("~/sets/f")
    assert datasets.folders("~/sets") == datasets.folders("~/sets/f") == [tmp_path / "sets/f"]
    assert len(datasets.read("folder", "~/sets/f")) == 6 and check.check("folder", "~/sets/f").ok.all()


# ---------------------------------------------------------------------------------------------- checking


def row(report, item):
    return report.set_index("item").loc[item]


def test_check_names_unreadable_images_and_hints_at_grey_visible_ones(tmp_path):
    root = sysu(tmp_path / "s")
    cut = root / "cam2" / "0001" / "0002.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    picture(root / "cam1" / "0001" / "0001.jpg", grey(True))
    report = check.check("sysu", root, published=False)
    note = "cam2/0001/0002.jpg (cannot be decoded, copy it from the set again: Truncated File Read)"
    assert row(report, "unreadable images").note == note
    assert row(report, "visible images without colour").note == "cam1/0001/0001.jpg"
    assert check.problems(report) == [f"unreadable images: found 1, expected 0: {note}"]


def test_check_allows_an_identity_in_one_modality_only_in_test(tmp_path):
    root = folder(tmp_path / "f", pids=(3, 4, 5, 12))
    for name in ("visible/12/a.png", "visible/12/b.png"):
        (root / name).unlink()
    (root / "split.csv").write_text("id,split\n3,train\n4,train\n5,test\n12,test\n")
    report = check.check("folder", root)
    assert check.problems(report) == []
    assert row(report, "other identities in one modality").note == "test 12"
    assert row(report, "identities with one image").note == "test 12"
    (root / "split.csv").write_text("id,split\n3,train\n4,train\n5,test\n12,train\n")
    assert "train 12" in check.problems(check.check("folder", root))[0]


def test_check_calls_sound_only_what_can_be_trained_and_searched(tmp_path):
    root = folder(tmp_path / "f", pids=range(1, 5))
    report = check.check("folder", root)
    assert report.ok.all() and "can be searched, not trained on" in row(report, "training people").note
    splits = "id,split\n1,train\n2,train\n3,test\n4,test\n"
    (root / "split.csv").write_text(splits)
    report = check.check("folder", root)
    assert report.ok.all() and "training people" not in set(report["item"])
    for old, new, words in (
        ("test", "val", "nobody is in split 'test': name people in split.csv"),
        ("train", "val", "nobody is in split 'train': name people in split.csv"),
    ):
        (root / "split.csv").write_text(splits.replace(old, new))
        sentence = check.problems(check.check("folder", root))
        assert len(sentence) == 1 and words in sentence[0]
    (root / "split.csv").unlink()
    for image in (root / "Thermal").rglob("*.png"):
        image.unlink()
    assert "split 'test' has no thermal image: add images" in check.problems(check.check("folder", root))[0]
    for pid in (5, 6):
        picture(root / "Thermal" / str(pid) / "a.png", grey(True))
    assert "nobody in split 'test' has visible and thermal" in check.problems(check.check("folder", root))[0]


def test_check_notes_that_a_set_has_no_indoor_search(tmp_path):
    root = sysu(tmp_path / "s")
    for cam in ("cam1", "cam2"):
        for pid in ("0004", "0005"):
            shutil.rmtree(root / cam / pid)
    report = check.check("sysu", root, published=False)
    assert report.ok.all() and row(report, "indoor-search").note == "indoor-search: no gallery, its rows are left out"


def test_check_names_what_it_leaves_out_and_what_it_changes(tmp_path):
    root, exif = folder(tmp_path / "f"), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6), "red").save(root / "visible/3/phone.jpg", exif=exif)
    Image.new("RGBA", (6, 8), (9, 200, 9, 0)).save(root / "visible/3/glass.png")
    Image.new("RGB", (1, 1), "blue").save(root / "visible/3/POINT.PNG")
    Image.new("RGB", (6, 8)).save(root / "visible/12/p.jfif", "JPEG")
    Image.new("RGB", (6, 8)).save(root / "visible/loose.png")
    np.save(root / "Thermal/3/raw.npy", np.zeros(3))
    for name in ("folder.png", "more"):
        (root / "Thermal/12" / name).mkdir()
    (root / "Thermal/12/README").write_text("")
    report = check.check("folder", root)
    assert report.ok.all() and row(report, "images on disk").found == "7 visible, 2 thermal"
    assert row(report, "files left out").note.startswith(
        "1 .jfif, 1 .npy, 2 folders, 1 outside of a person's folder, 1 without suffix: only .bmp .jpeg"
    )
    assert row(report, "images turned upright as their EXIF orientation says").note == "visible/3/phone.jpg"
    assert row(report, "transparent images, laid on black").note == "visible/3/glass.png"


def test_check_refuses_what_the_store_refuses(tmp_path):
    root = folder(tmp_path / "f")
    Image.new("I;16", (6, 8), 3000).save(root / "Thermal/3/a.png")
    (root / "visible/3/empty.png").write_bytes(b"")
    (root / "visible/3/gone.png").symlink_to(root / "nowhere.png")
    assert check.problems(check.check("folder", root)) == [
        "unreadable images: found 3, expected 0: Thermal/3/a.png (has more than 8 bits a channel: convert the set to 8 "
        "bits first); visible/3/empty.png (is empty, copy it from the set again); visible/3/gone.png (No such file or "
        "directory)"
    ]


def test_check_names_every_regdb_split_that_leaks(tmp_path):
    root = regdb(tmp_path / "r")
    for t in (4, 7):
        (root / "idx" / f"test_visible_{t}.txt").write_text((root / "idx" / f"train_visible_{t}.txt").read_text())
    report = check.check("regdb", root, published=False)
    assert row(report, "unreadable splits").found == "2"
    assert re.search(r"test_thermal_4\.txt.*test_thermal_7\.txt", check.problems(report)[0])


@pytest.mark.parametrize("layout", ["sysu", "regdb"])
def test_check_holds_a_set_against_the_published_counts(tmp_path, layout):
    report = check.check(layout, TREES[layout](tmp_path / "x"))
    sentences = check.problems(report)
    assert len(sentences) == len(check.PUBLISHED[layout])
    assert any(s.startswith("train: found 2 identities") for s in sentences)


def test_check_compares_folders_with_the_official_draw(tmp_path):
    root = sysu(tmp_path / "s")
    picture(root / "cam5" / "0004" / "0003.jpg")
    report = check.check("sysu", root, published=True)
    assert row(report, "galleries unlike rand_perm_cam.mat").note == "cam5/0004"
    (root / "exp" / "rand_perm_cam.mat").unlink()
    assert "rand_perm_cam.mat is missing" in check.problems(check.check("sysu", root))[-1]
    assert check.problems(check.check("sysu", root, published=False)) == []


# ---------------------------------------------------------------------------------------------- the official lists


@pytest.fixture
def official(shared):
    """The official galleries, and the identities of each split."""
    if not (shared / "protocol" / "rand_perm_cam.mat").is_file():
        pytest.skip("the official SYSU-MM01 lists are not here")
    ids = json.loads((shared / "protocol" / "sysu_structure.json").read_text())["ids"]
    return datasets.sysu_permutations(shared / "protocol" / "rand_perm_cam.mat"), ids


def test_the_official_permutations_give_the_known_counts(official):
    drawn, ids = official
    test, thermal = set(ids["test"]), {3, 6}
    assert all(x.shape[0] == 10 for x in drawn.values())
    assert sum(x.shape[1] for (c, p), x in drawn.items() if p in test and c in thermal) == 3803
    for cams, shots, size in (({1, 2, 4, 5}, 1, 301), ({1, 2, 4, 5}, 10, 3010), ({1, 2}, 1, 112), ({1, 2}, 10, 1120)):
        assert sum(len(set(x[0, :shots])) for (c, p), x in drawn.items() if p in test and c in cams) == size


def test_published_counts_follow_from_the_official_lists(official):
    drawn, ids = official
    part = {pid: name for name in ("train", "val", "test") for pid in ids[name]}
    rows = [(p, int(c in (3, 6)), c, k) for (c, p), x in drawn.items() for k in range(x.shape[1])]
    disk = pd.DataFrame(rows, columns=["pid", "modality", "cam", "number"])
    table = disk.assign(split=disk.pid.map(part)).dropna(subset="split")
    facts = check._facts("sysu", disk, [table])
    assert {k: facts[k] for k in check.PUBLISHED["sysu"]} == check.PUBLISHED["sysu"]


def test_a_mat_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "rand_perm_cam.mat"
    with pytest.raises(FileNotFoundError, match="is missing"):
        datasets.sysu_permutations(path)
    path.write_bytes(b"no mat file at all")
    with pytest.raises(ValueError, match="not the official"):
        datasets.sysu_permutations(path)
    cell = np.empty((1, 1), object)
    cell[0, 0] = np.empty((1, 1), object)
    cell[0, 0][0, 0] = np.array([[1, 1, 3]])
    savemat(path, {"rand_perm_cam": cell})
    with pytest.raises(ValueError, match="no permutation"):
        datasets.sysu_permutations(path)


# ---------------------------------------------------------------------------------------------- hold-out


def test_hold_out_moves_whole_training_identities(tmp_path):
    table = datasets.read("regdb", regdb(tmp_path / "r"))
    held = datasets.hold_out(table, 1, seed=3)
    assert held.groupby("pid").split.nunique().max() == 1
    assert held[held.split == "val"].pid.nunique() == 1 and set(held.pid[held.split == "val"]) <= {1, 2}
    assert held[table.split == "test"].equals(table[table.split == "test"])
    assert held.equals(datasets.hold_out(table, 1, seed=3)) and datasets.hold_out(table, 0).equals(table)
    assert len({datasets.hold_out(table, 1, seed=s).query("split == 'val'").pid.iloc[0] for s in range(9)}) == 2
    with pytest.raises(ValueError, match="cannot hold out 2 identities: the set has 2 to train on"):
        datasets.hold_out(table, 2)
    with pytest.raises(ValueError, match="validation identities of its own"):
        datasets.hold_out(held, 1)
    with pytest.raises(ValueError, match="nobody is in split 'train', so nobody can be held out"):
        datasets.hold_out(table[table.split == "test"], 1)


# ---------------------------------------------------------------------------------------------- obstacles


def rows(*people):
    """A table from (pid, split, cam, frame), modality by SYSU-MM01's cameras."""
    table = pd.DataFrame(people, columns=["pid", "split", "cam", "frame"])
    return table.assign(modality=table.cam.isin([3, 6]).astype(int), number=1)


def seen(pid, split, *cams, frame=""):
    return [(pid, split, cam, frame) for cam in cams]


TRAIN = [*seen(1, "train", 1, 6), *seen(2, "train", 1, 6)]
OBSTACLES = {  # layout, rows, words of each sentence
    "none": ("sysu", [*TRAIN, *seen(3, "test", 1, 6)], []),
    "no train": ("folder", seen(3, "test", 1, 6), ["nobody is in split 'train': name people in split.csv, without"]),
    "one to train": ("folder", [*TRAIN[:3], *seen(3, "test", 1, 6)], ["'train' has 1 with visible and thermal"]),
    "no pair to train": ("regdb", [TRAIN[0], TRAIN[3], *seen(3, "test", 1, 6)], ["'train' has nobody .*idx/train_"]),
    "no test": ("sysu", TRAIN, ["nobody is in split 'test': name people in exp/test_id.txt"]),
    "no thermal": ("sysu", [*TRAIN, *seen(3, "test", 1, 2)], ["no thermal image of cameras 3 6: .*exp/test_id.txt"]),
    "no visible": ("sysu", [*TRAIN, *seen(3, "test", 3)], ["no visible image of cameras 1 2 4 5: add images"]),
    "blind": ("sysu", [*TRAIN, *seen(3, "test", 3, 2)], ["camera 3 never searches camera 2"]),
    "not blind": ("sysu", [*TRAIN, *seen(3, "test", 3, 2), *seen(4, "test", 3, 5)], []),
    "strangers": ("regdb", [*TRAIN, *seen(3, "test", 1), *seen(4, "test", 6)], ["nobody in split 'test' has visible"]),
    "instant": ("folder", [*TRAIN, *seen(3, "test", 1, 6, frame="a/1")], ["show one instant"]),
    "two instants": ("folder", [*TRAIN, *seen(3, "test", 1, 6, frame="1"), *seen(3, "test", 1, frame="2")], []),
    "nothing": ("folder", [], ["nobody is in split 'train'", "nobody is in split 'test'"]),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_an_obstacle_is_one_sentence(name):
    layout, people, words = OBSTACLES[name]
    found = datasets.obstacles(layout, rows(*people))
    assert len(found) == len(words) and all(map(re.search, words, found)), found
    assert not any("\n" in sentence for sentence in found)
    test_alone = [s for s in found if "'train'" not in s]
    assert datasets.obstacles(layout, rows(*people), train=False) == test_alone


def test_a_set_without_indoor_gallery_can_be_searched_outdoors():
    table = rows(*seen(3, "test", 3, 2, 4), *seen(4, "test", 6, 5))
    assert datasets.sysu_modes(table) == ["all"]
    assert datasets.sysu_modes(rows(*seen(3, "test", 3, 1))) == ["all", "indoor"]


def test_the_official_draw_must_fit_the_images(tmp_path):
    root = sysu(tmp_path / "s")
    assert datasets.obstacles("sysu", datasets.read("sysu", root), root=root) == []
    (root / "cam5" / "0004" / "0002.jpg").unlink()
    found = datasets.obstacles("sysu", datasets.read("sysu", root), root=root)
    assert len(found) == 1 and "rand_perm_cam.mat does not draw from the 1 images of identity 4 in camera 5" in found[0]
    (root / "exp" / "rand_perm_cam.mat").write_bytes(b"")
    assert "is not the official" in datasets.obstacles("sysu", datasets.read("sysu", root), root=root)[0]
