"""What a GPU could do and does: the roofline of a training step, the step eager and as one CUDA graph, its kernels.

The roofline is the time of each layer if nothing but arithmetic or memory held it back, with the two rates that this
GPU reaches in the same run, and with plain kernels: nothing is fused. `python -m tests.speed gpu --device cuda`.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch
from torch import Tensor, nn

from vtlib import capture, train
from vtlib.config import Experiment

from . import step as steps
from .timing import Row, devices, interleaved, settle, share

BYTES = 2  # of a number of a map in bf16 or fp16
# How often the forward and the backward pass read or write a map of this layer, by kind. Batch normalisation: x for its
# moments, x and y; then x and dy for the sums, x, dy and dx. ReLU: x, y; dy, y, dx. An addition: two read, one written.
PASSES = {nn.BatchNorm2d: 8, nn.ReLU: 5, "addition": 3}
COPY = {"cpu": 2**20, "cuda": 2**30}  # bytes that are copied to measure the rate of memory
BATCHES = (8, 16, 32)  # P at K = 4: 64, 128 and 256 images
STEPS = 20  # of the eager and the captured training that are compared
# a kernel is of the first kind whose words are in its name
KINDS = {
    "batch norm": ("batch_norm", "bn_", "bnorm"),
    "convolution": ("conv", "cudnn", "xmma", "gemm", "cutlass", "implicit", "wgrad", "dgrad", "cublas", "nvjet"),
    "optimizer": ("multi_tensor", "fused_sgd", "FusedSgd"),
    "copy or cast": ("copy", "Memcpy", "memset", "Memset", "cast"),
    "elementwise": ("elementwise", "vectorized", "reduce", "softmax", "cat", "index", "pool"),
}


def measure(repeats: int) -> Iterator[Row]:
    """On each GPU: rates, then for each case of step.py the roofline, the step eager and captured, and its kernels."""
    for device in devices():
        if device == "cpu" and not TINY:
            continue
        matrix, memory = steps.matrix_rate(device, repeats), copy_rate(device, repeats)
        yield Row(
            "rates", device, "", None, 0.0, None, f"{matrix / 1e12:.3g} TFLOP/s bf16, copies {memory / 1e9:.4g} GB/s"
        )
        for name, made in steps.CASES.items():
            yield from case(name, made, device, repeats, matrix, memory)
        name, made = next(iter(steps.CASES.items()))
        for p in BATCHES:
            wider = made.but(identities_per_batch=p, images_per_identity=4)
            yield timed(f"{name}, captured", wider, device, repeats, roofline(wider, matrix, memory), graph=True)
        for precision in ("fp16", "bf16 weights"):
            yield timed(f"{name}, {precision}", made, device, repeats, roofline(made, matrix, memory), precision)
        yield two_at_once(name, made, device)


TINY = False  # tests set it, to measure on a CPU


def copy_rate(device: str, repeats: int) -> float:
    """Bytes a second that a copy reads and writes, the best of many."""
    a, b = (torch.empty(COPY[device], dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * COPY[device] / (min(interleaved([lambda: b.copy_(a)], 1, device)[0] for _ in range(repeats + 2)) / 1000)


def roofline(made: Experiment, matrix: float, memory: float) -> float:
    """Milliseconds of a step of an experiment if each layer took what its arithmetic or its traffic takes at least.

    Args: matrix: operations a second; memory: bytes a second.
    """
    seconds, p, k = 0.0, made.identities_per_batch, made.images_per_identity
    with torch.device("meta"):
        net = train.make_net(made.but(weights="none"), steps.IDENTITIES)
    streams = len(net.specific)

    def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal seconds
        x, y = inputs[0].numel() * BYTES, output.numel() * BYTES
        if isinstance(module, nn.Conv2d):
            work = 2 * output.numel() * module.weight[0].numel()
            first = module.in_channels == 3  # images need no gradient
            seconds += sum(max(work / matrix, (x + y) / memory) for _ in range(2 if first else 3))
        elif type(module) in PASSES:
            seconds += PASSES[type(module)] * y / memory
        elif hasattr(module, "downsample"):  # a block of a ResNet
            seconds += PASSES["addition"] * y / memory
        elif isinstance(module, nn.MaxPool2d):
            seconds += 2 * (x + y) / memory

    for module in net.modules():
        module.register_forward_hook(add)
    modality = torch.arange(2).repeat_interleave(p * k)
    images = torch.zeros(2 * p * k, 3, made.height, made.width, device="meta")
    net.train()
    maps = net.shared(net.streams(images, modality)) if streams else net.shared(images)
    assert maps.is_meta
    # ReLU is one module that a block uses several times, so that its hook counts each use
    parameters = sum(x.numel() for x in net.parameters())
    return 1000 * (seconds + 4 * 5 * parameters / memory)  # the update reads p, g, m and writes p, m in float32


def batch(made: Experiment, device: str) -> tuple[Tensor, Tensor, Tensor]:
    labels, modality = steps.labels_of(made)
    return torch.randn(len(labels), 3, made.height, made.width, device=device), labels, modality


def forms(made: Experiment, device: str) -> dict[str, Callable]:
    """The step eager and, on a GPU, captured, each of its own network with the same start."""
    result = {}
    for form in ("eager", "captured") if device != "cpu" else ("eager",):
        torch.manual_seed(0)
        step = steps.make_step(made, device)
        result[form] = capture.CapturedStep(step) if form == "captured" else step
    return result


def case(name: str, made: Experiment, device: str, repeats: int, matrix: float, memory: float) -> Iterator[Row]:
    """Eager and captured, whose first losses must agree; the kernels of both.

    Raises: RuntimeError where the losses of STEPS steps differ by more than bf16 allows.
    """
    limit, (x, labels, modality) = roofline(made, matrix, memory), batch(made, device)
    calls = {form: partial(step, x, modality, labels, modality) for form, step in forms(made, device).items()}
    losses = {form: torch.stack([call()[:-1].float().cpu() for _ in range(STEPS)]) for form, call in calls.items()}
    for form in calls:
        if not torch.allclose(losses[form], losses["eager"], rtol=0.1, atol=0.05):
            worst = (losses[form] - losses["eager"]).abs().max()
            raise RuntimeError(f"{name}: losses of the {form} steps differ from those of eager ones by {worst:.3g}")
    milliseconds = dict(zip(calls, interleaved(list(calls.values()), repeats, device), strict=True))
    for form, ms in milliseconds.items():
        size = f"{steps.size_of(made)}, {made.precision}, {device}"
        reference = "eager" if form != "eager" else ""
        theirs = milliseconds["eager"] if reference else None
        text = f"{share(limit, ms)} of the roofline of {limit:.3g} ms, {1000 * len(labels) / ms:.0f} images/s"
        text += f"; {kernels(calls[form], device, ms)}" if device != "cpu" else ""
        yield Row(f"step {name}, {form}", size, reference, theirs, ms, theirs and theirs / ms, text)


def kernels(call: Callable, device: str, ms: float) -> str:
    """How many kernels a step launches, the share of its time in which one runs, and the split by kind."""
    from torch.profiler import ProfilerActivity, profile

    settle(device)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as record:
        call()
        settle(device)
    found = [e for e in record.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return split([(e.name, e.time_range.elapsed_us() / 1000) for e in found], ms)


def split(found: list[tuple[str, float]], ms: float) -> str:
    """The text of kernels() from (name, milliseconds) of each."""
    busy, by_kind = sum(t for _, t in found), Counter()
    for name, t in found:
        kind = next((k for k, words in KINDS.items() if any(w.lower() in name.lower() for w in words)), "other")
        by_kind[kind] += t
    parts = ", ".join(f"{kind} {share(t, busy)}" for kind, t in by_kind.most_common())
    return f"{len(found)} kernels, busy {share(busy, ms)}: {parts}"


def timed(
    name: str, made: Experiment, device: str, repeats: int, limit: float, precision: str = "", graph: bool = False
) -> Row:
    """One form of the step alone; precision: "fp16", or "bf16 weights": trunk and its update in bf16,
    the time that no cast of weights takes at all."""
    x, labels, modality = batch(made, device)
    step = steps.make_step(made.but(precision="bf16") if precision else made, device)
    if precision == "fp16":  # the time of a step; a training needs a gradient scaler besides
        step.autocast = torch.autocast(device, torch.float16, enabled=True, cache_enabled=False)
    if precision == "bf16 weights":
        step.net.shared.bfloat16()
        step.optimizer = train.make_optimizer(made, step.net, step.losses)
    call = capture.CapturedStep(step) if graph and device != "cpu" else step
    call = partial(call, x, modality, labels, modality)
    for _ in range(capture.WARM_UP + 2):
        call()
    (ms,) = interleaved([call], repeats, device)
    text = f"{share(limit, ms)} of the roofline of {limit:.3g} ms, {1000 * len(labels) / ms:.0f} images/s"
    return Row(f"step {name}", f"{steps.size_of(made)}, {device}", "", None, ms, None, text)


def some_steps(made: Experiment, device: str, seconds: float) -> float:
    """Images a second of eager steps in a process of its own."""
    x, labels, modality = batch(made, device)
    step = steps.make_step(made, device)
    for _ in range(3):
        step(x, modality, labels, modality)
    settle(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step(x, modality, labels, modality)
        settle(device)
        count += 1
    return count * len(labels) / (time.perf_counter() - start)


def two_at_once(name: str, made: Experiment, device: str, seconds: float = 5.0) -> Row:
    """Throughput of two processes on one device beside that of one."""
    rates = []
    for number in (1, 2):
        with ProcessPoolExecutor(number, get_context("spawn")) as pool:
            rates.append(sum(pool.map(some_steps, [made] * number, [device] * number, [seconds] * number)))
    text = f"{rates[1]:.0f} images/s of two, {rates[0]:.0f} of one"
    images = 2 * made.identities_per_batch * made.images_per_identity
    one, two = (1000 * images / rate for rate in rates)
    return Row(
        f"step {name}, two processes", f"{steps.size_of(made)}, {device}", "one process", one, two, one / two, text
    )
