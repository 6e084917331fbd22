"""SynVT: the promises about bytes, layouts and factors."""

import csv
import errno
import hashlib
import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from vtlib import synvt
from vtlib.synvt import CAMERAS, PRESETS, Spec, draw, factors, image_path, make, render_batch, shape

SYSU = Spec("sysu", seed=3, identities=(3, 1, 2), images=2, height=48, width=24)
REGDB = Spec("regdb", seed=3, identities=(3, 0, 3), images=2, height=48, width=24)

module = sys.modules["vtlib.synvt.make"]  # vtlib.synvt.make itself is its function


def digests(root: Path) -> dict[str, str]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def lines(path: Path) -> list[tuple[str, int]]:
    return [(a, int(b)) for a, b in (line.split() for line in path.read_text().splitlines())]


@pytest.fixture(scope="module")
def sysu(tmp_path_factory):
    return make(SYSU, tmp_path_factory.mktemp("data") / "sysu", workers=1, progress=False)


@pytest.fixture(scope="module")
def regdb(tmp_path_factory):
    return make(REGDB, tmp_path_factory.mktemp("data") / "regdb", workers=1, progress=False)


def test_an_image_depends_on_its_key_alone():
    keys = [(pid, cam, number) for pid in (1, 2) for cam in CAMERAS["sysu"] for number in (1, 2)]
    together = render_batch(SYSU, keys)
    assert together.shape == (24, 48, 24, 3) and together.dtype == np.uint8
    for image, key in reversed(list(zip(together, keys, strict=True))):
        assert np.array_equal(image, render_batch(SYSU, [key])[0]), key
    assert len({image.tobytes() for image in together}) == len(keys)
    other = render_batch(replace(SYSU, seed=4), keys)
    assert all(not np.array_equal(a, b) for a, b in zip(together, other, strict=True))


def test_colours_are_unseen_by_thermal_cameras_and_heats_by_visible_ones():
    keys = [(pid, cam, n) for pid in range(1, 5) for cam in CAMERAS["sysu"] for n in (1, 2, 3)]
    thermal = np.array([CAMERAS["sysu"][cam].modality for _, cam, _ in keys]) == draw.THERMAL
    base = render_batch(SYSU, keys)
    for change, blind in (({"colour_seed": 99}, thermal), ({"heat_seed": 99}, ~thermal)):
        same = (render_batch(replace(SYSU, **change), keys) == base).all(axis=(1, 2, 3))
        assert np.array_equal(same, blind), change
    assert (base[thermal] == base[thermal][..., :1]).all()  # one channel, three times


def test_nuisance_scales_the_spread_of_one_person():
    keys = [(1, 3, n) for n in range(1, 25)]
    calm, wild = (factors(replace(SYSU, nuisance=k), keys) for k in (0.0, 1.0))
    assert all(row["occluder"] == "none" and row["scale"] == 0.9 for row in calm)
    assert any(row["occluder"] != "none" for row in wild) and len({row["scale"] for row in wild}) > 10
    assert len({row["yaw"] % 180 for row in factors(replace(SYSU, yaw=0.0), keys)}) == 1


def test_realism_weakens_thermal_contrast_and_sharpness_and_is_off_by_default():
    keys = [(p, c, 1) for p in range(1, 9) for c in (1, 3, 6)]
    thermal = np.array([c != 1 for _, c, _ in keys])
    plain, real = (render_batch(replace(SYSU, realism=r), keys).mean(-1) for r in (0.0, 1.0))
    assert np.array_equal(plain, render_batch(SYSU, keys).mean(-1))
    assert real[thermal].std((1, 2)).mean() < 0.5 * plain[thermal].std((1, 2)).mean()
    step = [np.abs(np.diff(x[~thermal], axis=2)).mean() for x in (plain, real)]
    assert step[1] < 0.95 * step[0]
    rows = [[row | {"path": ""} for row in factors(replace(SYSU, realism=r), keys)] for r in (0.0, 1.0)]
    assert rows[0] == rows[1]  # people, poses and views stay as they are


def test_same_spec_same_bytes_in_any_number_of_processes(sysu, tmp_path):
    again = make(SYSU, tmp_path / "again", workers=2, progress=False)
    assert digests(again) == digests(sysu)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("spec", [SYSU, REGDB], ids=["sysu", "regdb"])
def test_an_interrupted_make_goes_on_to_the_same_bytes(spec, tmp_path, monkeypatch, request):
    write, written = module._put, []

    def stop_after_ten(root, name, data):
        if len(written) == 10:
            raise KeyboardInterrupt
        written.append(name)
        write(root, name, data)

    monkeypatch.setattr(module, "_put", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        make(spec, tmp_path / "set", workers=1, progress=False)
    kept = [tmp_path / "set" / name for name in written if not name.startswith(".")]
    times = {p: p.stat().st_mtime_ns for p in kept}
    (tmp_path / "set" / ".partial" / "12345").write_bytes(b"half an image")
    assert times and not (tmp_path / "set" / "synvt.json").exists()

    monkeypatch.setattr(module, "_put", write)
    root = make(spec, tmp_path / "set", workers=1, progress=False)
    assert digests(root) == digests(request.getfixturevalue(spec.layout))
    assert {p: p.stat().st_mtime_ns for p in kept} == times  # not written twice
    monkeypatch.setattr(module, "_put", None)
    assert make(spec, root, progress=False) == root  # complete: nothing is written


def test_a_folder_of_another_spec_or_of_someone_else_is_left_alone(sysu, tmp_path):
    with pytest.raises(ValueError, match="another spec"):
        make(replace(SYSU, seed=5), sysu, progress=False)
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"no synvt\.json"):
        make(SYSU, tmp_path, progress=False)
    (tmp_path / "begun" / ".partial").mkdir(parents=True)
    (tmp_path / "begun" / ".partial" / "synvt.json").write_text("{}")
    with pytest.raises(ValueError, match="another spec"):
        make(SYSU, tmp_path / "begun", progress=False)


def test_sysu_layout(sysu):
    parts = {p: list(map(int, (sysu / f"exp/{p}_id.txt").read_text().split(","))) for p in ("train", "val", "test")}
    assert [len(v) for v in parts.values()] == [3, 1, 2]
    everyone = sorted(pid for ids in parts.values() for pid in ids)
    assert everyone == [1, 2, 3, 4, 5, 6]  # so the parts are disjoint
    assert (sysu / "exp/available_id.txt").read_text() == "1,2,3,4,5,6"
    images = sorted(p.relative_to(sysu).as_posix() for p in sysu.glob("cam*/*/*"))
    assert images == [f"cam{c}/{p:04d}/{n:04d}.jpg" for c in range(1, 7) for p in everyone for n in (1, 2)]
    with Image.open(sysu / images[0]) as image:
        assert image.size == (24, 48) and image.mode == "RGB" and image.format == "JPEG"


@pytest.mark.parametrize("text", ["", '{"generator": "Syn', "[]"])
@pytest.mark.parametrize("name", ["synvt.json", ".partial/synvt.json"])
def test_a_record_that_is_cut_is_named(tmp_path, name, text):
    record = tmp_path / name
    record.parent.mkdir(exist_ok=True)
    record.write_text(text)
    with pytest.raises(ValueError, match=r"synvt\.json cannot be read .*: remove the folder .*, and it is drawn anew"):
        make(SYSU, tmp_path, workers=1, progress=False)


def test_a_set_is_drawn_where_the_file_system_has_no_locks(sysu, tmp_path, monkeypatch):
    import filelock

    def refuse(self, *args, **kwargs):
        raise OSError(errno.EOPNOTSUPP, "no locks")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    root = make(SYSU, ".", workers=1, progress=False)
    assert digests(tmp_path / "here") == digests(sysu) and root == Path(".")


def test_sysu_permutations_have_the_official_cells(sysu):
    cells = loadmat(sysu / "exp/rand_perm_cam.mat")["rand_perm_cam"]
    assert cells.shape == (6, 1) and cells.dtype == object
    for column in cells[:, 0]:
        assert column.shape == (6, 1)
        for table in column[:, 0]:
            assert table.shape == (10, 2) and np.array_equal(np.sort(table, axis=1), np.tile([1, 2], (10, 1)))
    assert len({c.tobytes() for column in cells[:, 0] for c in column[:, 0]}) > 1


def test_sysu_in_the_sizes_of_another_set(tmp_path):
    cells = np.empty((6, 1), object)
    for cam in range(6):
        cells[cam, 0] = np.empty((3, 1), object)
        for pid in range(3):
            cells[cam, 0][pid, 0] = np.zeros((10, 0 if (cam, pid) == (0, 1) else 1 + (cam + pid) % 2), np.uint8)
    savemat(tmp_path / "sizes.mat", {"rand_perm_cam": cells})
    plan = synvt.read_structure(tmp_path / "sizes.mat", train=[1], val=[], test=[3, 2])
    assert plan.counts[1] == {1: 1, 3: 1} and plan.counts[2] == {1: 2, 2: 1, 3: 2} and plan.test == (2, 3)
    root = make(SYSU, tmp_path / "set", plan=plan, workers=1, progress=False)
    found = {(c, p): len(list(root.glob(f"cam{c}/{p:04d}/*.jpg"))) for c in range(1, 7) for p in (1, 2, 3)}
    assert found == {(c, p): cells[c - 1, 0][p - 1, 0].shape[1] for c, p in found}
    ours = loadmat(root / "exp/rand_perm_cam.mat")["rand_perm_cam"]
    assert {(c, p): ours[c - 1, 0][p - 1, 0].shape for c, p in found} == {k: (10, n) for k, n in found.items()}
    with pytest.raises(ValueError, match="another spec"):
        make(SYSU, root, progress=False)
    with pytest.raises(ValueError, match="only the SYSU layout"):
        make(REGDB, tmp_path / "other", plan=plan)


def test_regdb_layout(regdb):
    assert len(list(regdb.glob("Visible/*/*.bmp"))) == len(list(regdb.glob("Thermal/*/*.bmp"))) == 12
    halves = []
    for trial in range(1, 11):
        ids = {}
        for part in ("train", "test"):
            visible, thermal = (lines(regdb / f"idx/{part}_{m}_{trial}.txt") for m in ("visible", "thermal"))
            assert len(visible) == len(thermal) == 6 and all((regdb / path).exists() for path, _ in visible + thermal)
            assert all(path.startswith("Visible/") for path, _ in visible)
            of = [[(int(path.split("/")[1]), label) for path, label in rows] for rows in (visible, thermal)]
            assert of[0] == of[1]  # the same identities and labels in the same order
            ids[part] = dict(of[0])
            assert sorted(ids[part].values()) == [0, 1, 2]
        assert sorted([*ids["train"], *ids["test"]]) == [1, 2, 3, 4, 5, 6]
        halves.append((tuple(ids["train"].items()), tuple(ids["test"].items())))
    assert len(set(halves)) > 5
    with Image.open(next(regdb.glob("Thermal/1/*.bmp"))) as image:
        assert image.size == (24, 48) and image.mode == "RGB" and image.format == "BMP"


def test_regdb_shows_one_side_of_a_person():
    spec = replace(REGDB, identities=(20, 0, 20))
    rows = factors(spec, [(pid, cam, n) for pid in range(1, 41) for cam in (1, 2) for n in (1, 2)])
    back = {(row["pid"], 90 < row["yaw"] < 270) for row in rows}
    assert len(back) == 40 and {side for _, side in back} == {True, False}


def test_factors_agree_with_the_files(sysu, regdb):
    for root, spec in ((sysu, SYSU), (regdb, REGDB)):
        with (root / "factors.csv").open() as file:
            rows = list(csv.DictReader(file))
        images = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix in (".jpg", ".bmp")]
        assert [row["path"] for row in rows] == sorted(images)
        for row in rows:
            key = tuple(int(row[n]) for n in ("pid", "cam", "number"))
            assert image_path(spec, key) == row["path"] and shape(spec, key[0]).legs == row["legs"]
            assert int(row["modality"]) == CAMERAS[spec.layout][key[1]].modality
        record = json.loads((root / "synvt.json").read_text())
        assert record["images"] == len(rows) and record["spec"]["layout"] == spec.layout
    image = Image.open(regdb / rows[0]["path"])  # BMP loses nothing
    assert np.array_equal(
        np.asarray(image), render_batch(REGDB, [tuple(int(rows[0][n]) for n in ("pid", "cam", "number"))])[0]
    )


def test_what_cameras_share_tells_people_apart():
    names = ("hair", "hat", "coat", "legs", "bag", "shoes", "side", "sleeve")
    people = [tuple(row[n] for n in names) for row in factors(SYSU, [(pid, 1, 1) for pid in range(1, 101)])]
    assert len(set(people)) > 80  # by cut alone, before any length


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "llcm"}, "layout must be one of"),
        ({"identities": (3, 1)}, "identities must be"),
        ({"identities": (0, 1, 2)}, "identities must be"),
        ({"layout": "regdb", "identities": (3, 0, 2)}, "half and half"),
        ({"images": 0}, "images must be a whole number from 1"),
        ({"height": 8}, "height must be"),
        ({"width": 24.0}, "width must be a whole number"),
        ({"nuisance": 1.5}, "nuisance must be a number from 0 to 1"),
        ({"yaw": "wide"}, "yaw must be"),
        ({"realism": 2.0}, "realism must be a number from 0 to 1"),
        ({"seed": -1}, "seed must be"),
        ({"colour_seed": "red"}, "colour_seed must be"),
    ],
)
def test_bad_specs_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SYSU, **change)


def test_unknown_camera_is_named():
    with pytest.raises(ValueError, match="camera must be one of"):
        render_batch(REGDB, [(1, 3, 1)])


def test_presets():
    assert {name.rsplit("_", 1)[-1] for name in PRESETS} == {"quick", "full", "sysu", "regdb", "start"}
    assert all(name.startswith((f"synvt_{spec.layout}", "synvt_start")) for name, spec in PRESETS.items())
    rows = synvt.sheet(PRESETS["synvt_regdb_quick"], pids=[1, 2, 3], cams=[1, 2])
    assert rows.shape == (2 * 96, 3 * 48, 3) and rows.std() > 10


def test_a_script_without_a_main_guard_makes_a_set_with_several_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from vtlib import synvt\n"
        "print('begun')\n"
        "synvt.make(synvt.PRESETS['synvt_sysu_quick'], 'set', workers=2, progress=False)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "begun\n", done.stderr
    assert (tmp_path / "set" / "synvt.json").is_file()
