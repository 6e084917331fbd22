"""From the store to the first batch: augmentation beside pipelines of torchvision, start of an epoch, memory map."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtlib.data.batches import MEAN, STD, PKSampler, augment, draw, normalise

from .timing import HAS_MEMORY, Row, compare, devices, fresh, interleaved, memory, one_thread, share

BATCH, HEIGHT, WIDTH, PAD = 64, 288, 144, 10
VISIBLE, THERMAL, IDENTITIES = 22_258, 11_909, 395  # training images of SYSU-MM01
P, K, STEPS = 8, 4, 695
STORED, EPOCHS = 4_000, (1, 5, 10)  # images of the memory map; epochs after which memory is read


def measure(repeats: int) -> Iterator[Row]:
    """Raises: RuntimeError if a reference gives other crops, other index lists or other batches."""
    for device in devices():
        with one_thread():  # as every worker of a loader has
            rows = list(augmentation(repeats, device))
        yield from rows
    yield from epoch_start(repeats)
    with tempfile.TemporaryDirectory() as folder:
        yield from stored(repeats, Path(folder) / "pixels.npy")


def augmentation(repeats: int, device: str) -> Iterator[Row]:
    """A batch; references run on the CPU and are copied to a GPU.

    What is augmented lies in memory, decoded: of ours on the device, as training has it.
    """
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(256, (BATCH, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)
    here = batch.to(device)
    forms = {"ours": lambda: augment(here, draw(BATCH, generator), pad=PAD), **torchvision_forms(batch)}
    for name, form in forms.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            check_augmented(name, batch, form().cpu())
    out = forms["ours"]()
    (copy,) = interleaved([out.clone], repeats, device)

    def limit(ms):
        return f"{1000 * BATCH / ms:,.0f} images/s; {share(copy, ms)} of a copy's speed"

    ours, *references = (lambda form=form: form().to(device) for form in forms.values())
    named = dict(zip(list(forms)[1:], references, strict=True))
    size = f"{BATCH} x 3 x {HEIGHT} x {WIDTH}"
    yield from compare("augment", size, ours, named, repeats=repeats, limit=limit, device=device)


def torchvision_forms(batch: Tensor) -> dict[str, Callable[[], Tensor]]:
    """An image at a time: by Pillow from decoded arrays, as public code keeps them, and on uint8 tensors."""
    from torchvision.transforms import v2

    pillow = pil_pipeline(HEIGHT, WIDTH)
    tensors = v2.Compose(
        [
            v2.RandomCrop((HEIGHT, WIDTH), padding=PAD),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    arrays = list(batch.permute(0, 2, 3, 1).contiguous().numpy())
    return {
        "Pillow, an image each": lambda: torch.stack([pillow(array) for array in arrays]),
        "transforms.v2, an image each": lambda: torch.stack([tensors(image) for image in batch]),
    }


def pil_pipeline(height: int, width: int) -> Callable[[np.ndarray], Tensor]:
    """(H, W, 3) uint8 -> (3, height, width) float32: augmentation of one image as public code has it."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Pad(PAD),
            transforms.RandomCrop((height, width)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def check_augmented(name: str, batch: Tensor, out: Tensor) -> None:
    """Raise RuntimeError unless every image is a crop of its own padded one, some mirrored, at places that vary."""
    if out.shape != batch.shape or out.dtype != torch.float32:
        raise RuntimeError(f"{name}: {out.dtype} {tuple(out.shape)} are not the augmented images")
    padded = normalise(torch.nn.functional.pad(batch, (PAD,) * 4))
    places = []
    for image, found in zip(padded, out, strict=True):
        windows = image.unfold(1, HEIGHT, 1).unfold(2, WIDTH, 1)  # (3, 2 PAD + 1, 2 PAD + 1, H, W)
        for mirrored in (False, True):
            crop = found.flip(-1) if mirrored else found
            middle = slice(HEIGHT // 2, None, HEIGHT), slice(WIDTH // 2, None, WIDTH)  # one pixel, to look closer there
            near = (windows[..., *middle] - crop[:, None, None, *middle]).abs().amax((0, 3, 4)) < 1e-4
            whole = [(i, j) for i, j in near.nonzero().tolist() if (windows[:, i, j] - crop).abs().max() < 1e-4]
            places += [(*place, mirrored) for place in whole]
    if len(places) != len(batch):
        raise RuntimeError(f"{name}: {len(places)} of {len(batch)} images are crops of the padded ones")
    if any(len(set(values)) < 2 for values in zip(*places, strict=True)):
        raise RuntimeError(f"{name}: all crops lie at one place, or all are mirrored or none")


def epoch_start(repeats: int) -> Iterator[Row]:
    """Index lists and batches at SYSU-MM01's size; ours draws a batch when it is asked for, public code an epoch."""
    modality = np.repeat([0, 1], [VISIBLE, THERMAL])
    pids = np.concatenate([np.arange(n) * IDENTITIES // n for n in (VISIBLE, THERMAL)])
    make = lambda: PKSampler(pids, modality, P, K, STEPS, seed=0)  # noqa: E731
    sampler, lists = make(), index_lists(pids, modality)
    for i, of_identity in enumerate(sampler.rows):
        if not all(np.array_equal(of_identity[m], lists[m][i]) for m in (0, 1)):
            raise RuntimeError("PKSampler: the forms disagree on the images of an identity")
    for name, batches in (("ours", sampler.epoch(0)), ("reference", draw_epoch(lists))):
        check_batches(name, list(batches), pids, modality)
    size = f"{len(pids):,} images, {IDENTITIES} identities, P {P} K {K}, {STEPS} steps"
    for part, ours, reference in (
        (
            "PKSampler, made, first batch",
            lambda: next(make().epoch(0)),
            lambda: draw_epoch(index_lists(pids, modality)),
        ),
        ("PKSampler, first batch of an epoch", lambda: next(sampler.epoch(1)), lambda: draw_epoch(lists)),
        ("PKSampler, whole epoch", lambda: list(sampler.epoch(1)), lambda: draw_epoch(lists)),
    ):
        yield from compare(
            part, size, ours, {"index lists, whole epoch drawn": reference}, repeats=repeats, clock=time.process_time
        )


def index_lists(pids: np.ndarray, modality: np.ndarray) -> list[list[list[int]]]:
    """Rows of each identity, visible and thermal, as public code finds them: every label is compared with each."""
    identities, lists = np.unique(pids), []
    for m in (0, 1):
        rows, labels = np.flatnonzero(modality == m), pids[modality == m]
        lists.append([[rows[k] for k, label in enumerate(labels) if label == pid] for pid in identities])
    return lists


def draw_epoch(lists: list[list[list[int]]]) -> np.ndarray:
    """(STEPS, 2 P K): all batches of an epoch before the first is used, as public code draws them."""
    random, steps = np.random.RandomState(0), []
    for _ in range(STEPS):
        chosen = random.choice(len(lists[0]), P, replace=False)
        steps.append(np.concatenate([random.choice(lists[m][i], K) for m in (0, 1) for i in chosen]))
    return np.array(steps)


def check_batches(name: str, batches: list[np.ndarray], pids: np.ndarray, modality: np.ndarray) -> None:
    """Raise RuntimeError unless each batch has P identities, K visible images of each, then K thermal of the same."""
    ids, kinds = (values[np.stack(batches)].reshape(-1, 2, P, K) for values in (pids, modality))
    whole = (ids == ids[:, :1, :, :1]).all() and (kinds == np.array([0, 1])[:, None, None]).all()
    if len(batches) != STEPS or not whole or any(len(set(row)) < P for row in ids[:, 0, :, 0].tolist()):
        raise RuntimeError(f"PKSampler: the batches of {name} are not P x K")


def stored(repeats: int, path: Path) -> Iterator[Row]:
    """Random batches from a memory map that the system holds in memory, and what memory ten epochs take."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (STORED, 3, HEIGHT, WIDTH))
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=(BATCH, 3, HEIGHT, WIDTH), dtype=np.uint8)
    for start in range(0, STORED, BATCH):
        array[start : start + BATCH] = noise[: STORED - start]
    array.flush()
    pixels = np.load(path, mmap_mode="r")
    if not np.array_equal(pixels[np.arange(BATCH)[::-1]], noise[::-1]):
        raise RuntimeError("memory map: other images than were written")
    (copy,) = interleaved([noise.copy], repeats)
    yield from compare(
        "memory map, random batch",
        f"{BATCH} of {STORED:,} x 3 x {HEIGHT} x {WIDTH}",
        lambda: pixels[rng.choice(STORED, BATCH, replace=False)],
        repeats=repeats,
        limit=lambda ms: f"{1000 * BATCH / ms:,.0f} images/s; {share(copy, ms)} of a copy's speed",
    )
    if HAS_MEMORY:
        steps = STORED // (2 * P * K)
        seconds, sizes = fresh(epochs, path, P, K, steps, EPOCHS)
        own, mapped = (", ".join(f"{size[i]:.0f}" for size in sizes) for i in (0, 1))
        yield Row(
            "batches read and augmented",
            f"{steps} x {2 * P * K} an epoch, {EPOCHS[-1]} epochs",
            "",
            None,
            1000 * seconds,
            None,
            f"MB after epochs {', '.join(map(str, EPOCHS))}: own {own}; files and libraries {mapped}",
        )


def epochs(path: Path, p: int, k: int, steps: int, after: tuple[int, ...]) -> tuple[float, list[tuple[float, float]]]:
    """Mean seconds a batch, and MB resident after some epochs: of the process, of the file."""
    pixels, generator = np.load(path, mmap_mode="r"), torch.Generator().manual_seed(0)
    rows = np.arange(len(pixels))
    sampler = PKSampler(rows // (2 * k), rows // k % 2, p, k, steps, seed=0)
    sizes, start = [], time.perf_counter()
    for epoch in range(1, after[-1] + 1):
        for index in sampler.epoch(epoch):
            augment(torch.from_numpy(pixels[index]), draw(len(index), generator))
        if epoch in after:
            sizes.append((memory("RssAnon"), memory("RssFile")))
    return (time.perf_counter() - start) / (steps * after[-1]), sizes
