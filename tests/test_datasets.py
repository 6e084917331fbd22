"""Readers and checks on generated trees with one fault each, on two tiny real sets, and on the official SYSU lists."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from vtlib import datasets

SHARED = Path(__file__).parents[2] / "shared"


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
    assert datasets.problems(datasets.check(layout, root, published=False)) == []


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
def test_two_tiny_real_sets_read_and_check(name, pids, images):
    root = SHARED / "realdata" / name
    if not root.is_dir():
        pytest.skip("the tiny real sets are not here")
    table = datasets.read("folder", root)
    assert table.pid.nunique() == pids and tuple(np.bincount(table.modality)) == images
    assert (table.frame != "").all() and table.groupby("frame").cam.nunique().max() == 1
    assert datasets.problems(datasets.check("folder", root)) == []
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
    assert datasets.data_root() == tmp_path
    assert datasets.locate("mine") == datasets.locate(tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds mine, and {Path.cwd() / 'theirs'} is none"):
        datasets.locate("theirs")
    monkeypatch.setenv("VTLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder.*--data or VTLIB_DATA names the folder"):
        datasets.locate("theirs")
    monkeypatch.delenv("VTLIB_DATA")
    assert datasets.data_root() == Path(datasets.__file__).parents[1] / "data"


# ---------------------------------------------------------------------------------------------- checking


def row(report, item):
    return report.set_index("item").loc[item]


def test_check_names_unreadable_images_and_hints_at_grey_visible_ones(tmp_path):
    root = sysu(tmp_path / "s")
    cut = root / "cam2" / "0001" / "0002.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    picture(root / "cam1" / "0001" / "0001.jpg", grey(True))
    report = datasets.check("sysu", root, published=False)
    note = "cam2/0001/0002.jpg (cannot be decoded, copy it from the set again: Truncated File Read)"
    assert row(report, "unreadable images").note == note
    assert row(report, "visible images without colour").note == "cam1/0001/0001.jpg"
    assert datasets.problems(report) == [f"unreadable images: found 1, expected 0: {note}"]


def test_check_allows_an_identity_in_one_modality_only_in_test(tmp_path):
    root = folder(tmp_path / "f", pids=(3, 4, 5, 12))
    for name in ("visible/12/a.png", "visible/12/b.png"):
        (root / name).unlink()
    (root / "split.csv").write_text("id,split\n3,train\n4,train\n5,test\n12,test\n")
    report = datasets.check("folder", root)
    assert datasets.problems(report) == []
    assert row(report, "other identities in one modality").note == "test 12"
    assert row(report, "identities with one image").note == "test 12"
    (root / "split.csv").write_text("id,split\n3,train\n4,train\n5,test\n12,train\n")
    assert "train 12" in datasets.problems(datasets.check("folder", root))[0]


def test_check_names_every_regdb_split_that_leaks(tmp_path):
    root = regdb(tmp_path / "r")
    for t in (4, 7):
        (root / "idx" / f"test_visible_{t}.txt").write_text((root / "idx" / f"train_visible_{t}.txt").read_text())
    report = datasets.check("regdb", root, published=False)
    assert row(report, "unreadable splits").found == "2"
    assert re.search(r"test_thermal_4\.txt.*test_thermal_7\.txt", datasets.problems(report)[0])


@pytest.mark.parametrize("layout", ["sysu", "regdb"])
def test_check_holds_a_set_against_the_published_counts(tmp_path, layout):
    report = datasets.check(layout, TREES[layout](tmp_path / "x"))
    sentences = datasets.problems(report)
    assert len(sentences) == len(datasets.PUBLISHED[layout])
    assert any(s.startswith("train: found 2 identities") for s in sentences)


def test_check_compares_folders_with_the_official_draw(tmp_path):
    root = sysu(tmp_path / "s")
    picture(root / "cam5" / "0004" / "0003.jpg")
    report = datasets.check("sysu", root, published=True)
    assert row(report, "galleries unlike rand_perm_cam.mat").note == "cam5/0004"
    (root / "exp" / "rand_perm_cam.mat").unlink()
    assert "rand_perm_cam.mat is missing" in datasets.problems(datasets.check("sysu", root))[-1]
    assert datasets.problems(datasets.check("sysu", root, published=False)) == []


# ---------------------------------------------------------------------------------------------- the official lists


def official():
    if not (SHARED / "protocol" / "rand_perm_cam.mat").is_file():
        pytest.skip("the official SYSU-MM01 lists are not here")
    ids = json.loads((SHARED / "protocol" / "sysu_structure.json").read_text())["ids"]
    return datasets.sysu_permutations(SHARED / "protocol" / "rand_perm_cam.mat"), ids


def test_the_official_permutations_give_the_known_counts():
    drawn, ids = official()
    test, thermal = set(ids["test"]), {3, 6}
    assert all(x.shape[0] == 10 for x in drawn.values())
    assert sum(x.shape[1] for (c, p), x in drawn.items() if p in test and c in thermal) == 3803
    for cams, shots, size in (({1, 2, 4, 5}, 1, 301), ({1, 2, 4, 5}, 10, 3010), ({1, 2}, 1, 112), ({1, 2}, 10, 1120)):
        assert sum(len(set(x[0, :shots])) for (c, p), x in drawn.items() if p in test and c in cams) == size


def test_published_counts_follow_from_the_official_lists():
    drawn, ids = official()
    part = {pid: name for name in ("train", "val", "test") for pid in ids[name]}
    rows = [(p, int(c in (3, 6)), c, k) for (c, p), x in drawn.items() for k in range(x.shape[1])]
    disk = pd.DataFrame(rows, columns=["pid", "modality", "cam", "number"])
    table = disk.assign(split=disk.pid.map(part)).dropna(subset="split")
    facts = datasets._facts("sysu", disk, [table])
    assert {k: facts[k] for k in datasets.PUBLISHED["sysu"]} == datasets.PUBLISHED["sysu"]


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
