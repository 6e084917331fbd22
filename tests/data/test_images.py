"""Store: reuse, change, digest, faults. Augmentation: both forms, ranges, statistics. Sampler: properties."""

import errno
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vtlib.data import images
from vtlib.data.batches import DRAWS, MEAN, STD, PKSampler, _plan, augment, draw, normalise

COUNTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9)


@pytest.fixture
def tree(tmp_path):
    """A table of seven noisy images in four formats, and their root."""
    noise, names = np.random.default_rng(0), ["b/x.jpg", "b/y.bmp", "a/z.png", "a/w.jpg", "c.png", "d.bmp", "grey.png"]
    for name in names:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (20, 10) if name == "grey.png" else (20, 10, 3)
        Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return pd.DataFrame({"path": names}), tmp_path / "set", tmp_path / "cache"


# ---------------------------------------------------------------------------------------------- store


def test_the_store_is_aligned_with_the_table(tree):
    table, root, cache = tree
    got = images.store(table, root, 20, 10, cache=cache)
    assert isinstance(got.pixels, np.memmap) and got.pixels.dtype == np.uint8 and got.pixels.mode == "r"
    for row, name in enumerate(table.path):
        expected = np.asarray(Image.open(root / name).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(got.pixels[row], expected), name
    assert sorted(p.suffix for p in cache.iterdir()) == [".json", ".npy"]  # nothing half made is left


def test_the_digest_is_that_of_sha256sum_and_not_of_the_size(tree):
    table, root, cache = tree
    lines = [f"{hashlib.sha256((root / p).read_bytes()).hexdigest()}  {p}\n" for p in sorted(table.path)]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    small, large = (images.store(table, root, h, h // 2, cache=cache) for h in (8, 20))
    assert small.digest == large.digest == expected
    assert small.pixels.shape == (7, 3, 8, 4) and large.pixels.shape == (7, 3, 20, 10)
    assert images.store(table[::-1].reset_index(drop=True), root, 8, 4, cache=cache).digest == expected


def test_a_store_is_reused_until_a_file_changes(tree, monkeypatch):
    table, root, cache = tree
    first, decode, calls = images.store(table, root, 8, 4, cache=cache), images._pixels, []
    monkeypatch.setattr(images, "_pixels", lambda *a: calls.append(a) or decode(*a))
    assert images.store(table, root, 8, 4, cache=cache).digest == first.digest and not calls
    Image.new("RGB", (10, 20), "red").save(root / "c.png")
    second = images.store(table, root, 8, 4, cache=cache)
    assert len(calls) == 7 and second.digest != first.digest
    assert second.pixels[4, 0].min() == 255 and np.array_equal(second.pixels[:4], first.pixels[:4])
    os.utime(root / "c.png", (1, 1))  # looked at again, found the same
    assert images.store(table, root, 8, 4, cache=cache).digest == second.digest and len(calls) == 14


def test_many_who_build_one_store_at_once_all_get_it(tree):
    table, root, cache = tree
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: images.store(table, root, 8, 4, cache=cache), range(6)))
    assert len({s.digest for s in stores}) == 1
    assert all(np.array_equal(s.pixels, stores[0].pixels) for s in stores)
    assert len(list(cache.iterdir())) == 2


def test_the_store_lies_in_the_data_root_by_default(tree, monkeypatch):
    table, root, cache = tree
    monkeypatch.setenv("VTLIB_DATA", str(cache))
    images.store(table, root, 8, 4)
    assert len(list((cache / ".store").iterdir())) == 2


def test_a_broken_image_is_named_and_leaves_nothing_behind(tree):
    table, root, cache = tree
    (root / "a/w.jpg").write_bytes((root / "a/w.jpg").read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"a/w\.jpg cannot be decoded"):
        images.store(table, root, 8, 4, cache=cache)
    assert list(cache.iterdir()) == []


def test_images_that_would_lose_values_or_are_not_there_are_refused(tree):
    table, root, cache = tree
    Image.fromarray(np.full((20, 10), 3000, np.uint16)).save(root / "c.png")
    with pytest.raises(ValueError, match=r"c\.png has more than 8 bits"):
        images.store(table, root, 8, 4, cache=cache)
    (root / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"c\.png"):
        images.store(table, root, 8, 4, cache=cache)
    with pytest.raises(ValueError, match="the table is empty"):
        images.store(table[:0], root, 8, 4, cache=cache)


def test_a_store_is_made_anew_where_two_files_change_places(tree):
    """Two files of one size and one time, as an archive is unpacked: the folders of two people are swapped."""
    table, root, cache = tree
    for name, colour in (("b/y.bmp", "red"), ("d.bmp", "blue")):
        Image.new("RGB", (10, 20), colour).save(root / name)
        os.utime(root / name, (1e9, 1e9))
    first = images.store(table, root, 8, 4, cache=cache)
    red, blue = first.pixels[1].copy(), first.pixels[5].copy()
    (root / "b/y.bmp").rename(root / "x")
    (root / "d.bmp").rename(root / "b/y.bmp")
    (root / "x").rename(root / "d.bmp")
    second = images.store(table, root, 8, 4, cache=cache)
    assert np.array_equal(second.pixels[1], blue) and np.array_equal(second.pixels[5], red)
    assert second.digest != first.digest


def test_a_copy_of_a_set_is_decoded_once_and_has_its_digest(tree, tmp_path):
    table, root, cache = tree
    first = images.store(table, root, 8, 4, cache=cache)
    shutil.copytree(root, tmp_path / "copy")  # with all times, as cp -a
    root.rename(tmp_path / "old")
    (tmp_path / "copy").rename(root)
    second = images.store(table, root, 8, 4, cache=cache)
    assert second.digest == first.digest and np.array_equal(second.pixels, first.pixels)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILT = {
    "cut pixels": (".npy", cut),
    "empty pixels": (".npy", lambda p: p.write_bytes(b"")),
    "no pixels": (".npy", lambda p: p.unlink()),
    "pixels of another size": (".npy", lambda p: np.save(p, np.zeros((7, 3, 4, 8), np.uint8))),
    "pixels of another kind": (".npy", lambda p: np.save(p, np.zeros((7, 3, 8, 4), np.float32))),
    "an archive": (".npy", lambda p: p.write_bytes(b"PK" + b"0" * 50)),
    "cut record": (".json", cut),
    "empty record": (".json", lambda p: p.write_text("")),
    "record without digest": (".json", lambda p: p.write_text("{}")),
    "record of another kind": (".json", lambda p: p.write_text('["digest"]')),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_store_is_made_anew(tree, name):
    table, root, cache = tree
    first = images.store(table, root, 8, 4, cache=cache)
    expected, (suffix, spoil) = first.pixels.copy(), SPOILT[name]
    spoil(next(p for p in cache.iterdir() if p.suffix == suffix))
    again = images.store(table, root, 8, 4, cache=cache)
    assert np.array_equal(again.pixels, expected) and again.digest == first.digest and len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("where", ["reserve", "record"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_sentence_and_leaves_no_part_behind(tree, monkeypatch, where, code):
    table, root, cache = tree

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(images, {"reserve": "_reserve", "record": "write_json"}[where], full)
    words = rf"{cache}: .*: the decoded images of {root} need 6.72e-07 GB: clear some, or let VTLIB_DATA name"
    with pytest.raises(OSError, match=words) as caught:
        images.store(table, root, 8, 4, cache=cache)
    assert "\n" not in str(caught.value) and not list(cache.glob("*.tmp"))


def test_the_space_of_a_store_is_taken_before_an_image_is_decoded(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 20)
    assert (tmp_path / "sparse").stat().st_blocks == 0
    images._reserve(tmp_path / "sparse")
    assert (tmp_path / "sparse").stat().st_blocks * 512 >= 1 << 20


def test_a_store_that_cannot_be_written_is_a_sentence(tree):
    table, root, cache = tree
    cache.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cache: .*let VTLIB_DATA name a folder that can be written"):
        images.store(table, root, 8, 4, cache=cache)


def test_shrinking_averages_the_footprint(tmp_path):
    """A fine chequerboard becomes grey; without antialiasing it would become black or white."""
    board = (np.indices((64, 32)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    pixels = images.store(pd.DataFrame({"path": ["board.png"]}), tmp_path, 8, 4, cache=tmp_path / "c").pixels
    assert abs(pixels.astype(int) - 127).max() < 8


# ---------------------------------------------------------------------------------------------- augmentation


def batch(n=16, height=24, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8), generator


@pytest.mark.parametrize("size", [(24, 12), (12, 24), (7, 7)])
@pytest.mark.parametrize("options", [{}, {"erase": 1.0}, {"pad": 0}, {"pad": 3, "flip": 1.0, "erase": 0.5}])
def test_both_forms_agree(size, options):
    x, generator = batch(64, *size)
    draws = draw(64, generator)
    one, other = (augment(x, draws, form=form, **options) for form in ("slice", "gather"))
    assert one.dtype == torch.float32 and one.shape == x.shape
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert torch.equal(augment(x, draws, **options), one)  # what a CPU takes by itself


def test_nothing_to_do_is_normalise():
    x, generator = batch()
    expected = (x / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(normalise(x), expected, rtol=0, atol=2e-6)
    for form in ("slice", "gather"):
        same = augment(x, draw(16, generator), pad=0, flip=0.0, form=form)
        torch.testing.assert_close(same, expected, rtol=0, atol=2e-6)


def test_crops_start_everywhere_in_the_padding_and_it_is_black():
    x = torch.full((4000, 3, 8, 4), 255, dtype=torch.uint8)
    x[:, :, 0, 0] = 100  # a mark to find the crop by, where it is inside
    out = augment(x, draw(4000, torch.Generator().manual_seed(0)), pad=2, flip=0.0)
    black, mark = normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)), 0
    plan = _plan(draw(4000, torch.Generator().manual_seed(0)), 8, 4, 2, 0.0, 0.0)
    assert set(map(tuple, plan[:, :2].tolist())) == {(i, j) for i in range(5) for j in range(5)}
    assert torch.bincount(plan[:, 0] * 5 + plan[:, 1]).min() > 100  # 160 expected of each
    for image, (top, left, *_) in zip(out[:200], plan.tolist(), strict=False):
        inside = torch.zeros(8, 4, dtype=torch.bool)
        inside[max(0, 2 - top) : 10 - top, max(0, 2 - left) : 6 - left] = True
        torch.testing.assert_close(image[:, ~inside], black[0, :, 0].expand(-1, int((~inside).sum())))
        assert (image[:, inside] > black[0, :, 0]).all()
        mark += top <= 2 and left <= 2 and bool((image[0, 2 - top, 2 - left] < 1).item())
    assert mark == sum(top <= 2 and left <= 2 for top, left, *_ in plan[:200].tolist())


def test_flip_mirrors_about_half_of_the_images():
    x, generator = batch(1000)
    draws = draw(1000, generator)
    mirrored = normalise(x).flip(-1)
    torch.testing.assert_close(augment(x, draws, pad=0, flip=1.0), mirrored, rtol=0, atol=1e-6)
    some = (augment(x, draws, pad=0, flip=0.5) - mirrored).abs().amax((1, 2, 3)) < 1e-6
    assert 0.45 < some.float().mean() < 0.55


@pytest.mark.parametrize("size", [(64, 32), (32, 64)])
def test_erasing_takes_a_rectangle_of_2_to_40_percent(size):
    x = torch.full((500, 3, *size), 255, dtype=torch.uint8)
    draws = draw(500, torch.Generator().manual_seed(1))
    gone = augment(x, draws, pad=0, erase=1.0) == 0  # white is never 0 after normalising
    assert torch.equal(gone[:, 0], gone[:, 2])
    area = gone[:, 0].float().mean((1, 2))
    high, wide = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(high * wide, gone[:, 0].sum((1, 2)))  # a rectangle
    assert 0.015 < area.min() < 0.04 and 0.37 < area.max() < 0.42  # whole pixels blur the ends
    assert 0.24 < (high / wide).min() < 0.5 and 2 < (high / wide).max() < 4.2
    assert gone[:, 0].float().mean(0).min() > 0  # every pixel is reached, corners least often
    assert 0.4 < (augment(x, draws, pad=0, erase=0.5) == 0).any(3).any(2).any(1).float().mean() < 0.6


def test_draws_come_from_the_generator_alone():
    state = torch.get_rng_state()
    one, other = (draw(5, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, other) and one.shape == (5, DRAWS) and torch.equal(state, torch.get_rng_state())


def test_faults_of_augment_are_named():
    x, generator = batch(4)
    draws = draw(4, generator)
    for arguments in ((x.float(), draws), (x, draws[:3]), (x[0], draws)):
        with pytest.raises(ValueError, match="augment takes"):
            augment(*arguments)
    for options, words in (({"pad": -1}, "pad -1"), ({"flip": 2.0}, "flip 2.0"), ({"form": "slices"}, "'slices'")):
        with pytest.raises(ValueError, match=words):
            augment(x, draws, **options)


# ---------------------------------------------------------------------------------------------- sampler


def columns(counts):
    """pids (spread, not 0..n-1) and modality of identities with (visible, thermal) counts, rows shuffled."""
    rows = [(7 * i + 3, m) for i, pair in enumerate(counts) for m in (0, 1) for _ in range(pair[m])]
    rows = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return np.random.default_rng(0).permutation(rows).T


@settings(max_examples=80, deadline=None)
@given(COUNTS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_sampler_properties(counts, p, k, steps, seed):
    pids, modality = columns(counts)
    usable = {7 * i + 3 for i, (v, t) in enumerate(counts) if v and t}
    if len(usable) < p:
        few = f"needs two people with images of both modalities and has {len(usable)}: name more people to train on"
        lower = f"{len(usable)} identities have both modalities, a batch needs {p}: set identities_per_batch to "
        with pytest.raises(ValueError, match=few if len(usable) < 2 else f"{lower}{len(usable)} or lower"):
            PKSampler(pids, modality, p, k, steps, seed)
        return
    batches = list(PKSampler(pids, modality, p, k, steps, seed).epoch(2))
    assert len(batches) == steps
    dealt = []
    for index in batches:
        assert index.shape == (2 * p * k,) and index.dtype == np.int64
        visible, thermal = pids[index].reshape(2, p, k)
        assert np.array_equal(visible, thermal) and (visible == visible[:, :1]).all()
        assert (modality[index].reshape(2, -1) == [[0], [1]]).all()
        assert len(set(visible[:, 0])) == p  # no identity twice
        dealt += visible[:, 0].tolist()
        for block in index.reshape(2 * p, k):
            have = ((pids == pids[block[0]]) & (modality == modality[block[0]])).sum()
            assert len(set(block)) == k or have < k
    turns = [dealt.count(pid) for pid in usable]
    assert set(dealt) <= usable and max(turns) - min(turns) <= 1  # all before one again


def test_sampler_is_a_function_of_seed_and_epoch():
    pids, modality = columns([(3, 2)] * 7)
    sampler = PKSampler(pids, modality, 3, 2, 5, seed=1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    later = [np.stack(list(sampler.epoch(e))) for e in (4, 0, 4)]
    assert np.array_equal(later[0], later[2]) and not np.array_equal(later[0], later[1])
    assert np.array_equal(later[1], np.stack(list(PKSampler(pids, modality, 3, 2, 5, seed=1).epoch(0))))
    assert not np.array_equal(later[1], np.stack(list(PKSampler(pids, modality, 3, 2, 5, seed=2).epoch(0))))
    assert torch.equal(state, torch.get_rng_state()) and np.array_equal(numpy_state, np.random.get_state()[1])


def test_faults_of_the_sampler_are_named():
    pids, modality = columns([(2, 2)] * 4)
    for change, words in (({"p": 0}, "p 0"), ({"steps": 0}, "steps 0"), ({"seed": -1}, "seed -1")):
        with pytest.raises(ValueError, match=words):
            PKSampler(pids, modality, **{"p": 2, "k": 2, "steps": 3, "seed": 0, **change})
    with pytest.raises(ValueError, match="of 0 and 1"):
        PKSampler(pids, modality + 1, 2, 2, 3, 0)
