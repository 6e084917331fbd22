"""One experiment in several processes: torchrun or srun starts them, distributed data parallel (DDP) joins them.

Each process sends some identities of every P x K batch through the network. The features of all processes are then
gathered in each of them, so that each loss sees the whole batch, and the gradient of a feature goes back to the process
that it came from. With batch normalisation (BN) over the whole batch (GlobalBatchNorm, or torch's own on GPUs) only
rounding depends on the number of processes. With one process every function here returns what it got.
"""

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .device import local_rank, rank, world
from .losses.contract import at_least_single
from .model import Output

T = TypeVar("T")
PATIENCE = timedelta(hours=1)  # for which processes wait while the first one makes data, validates and writes


def started_by_srun() -> dict[str, str]:
    """The environment variables that torchrun would have set, for a step of srun with several tasks; else {}."""
    if "RANK" in os.environ or "SLURM_STEP_ID" not in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) < 2:
        return {}
    names = subprocess.run(
        ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]], capture_output=True, text=True, check=True
    )
    port = 15_000 + int(os.environ["SLURM_JOB_ID"] + os.environ["SLURM_STEP_ID"].rjust(3, "0")) % 20_000
    address = {"MASTER_ADDR": names.stdout.split()[0], "MASTER_PORT": str(port)}
    return address | {"RANK": os.environ["SLURM_PROCID"], "WORLD_SIZE": os.environ["SLURM_NTASKS"]}


@contextmanager
def joined(device: str = "auto") -> Iterator[None]:
    """Join the processes that torchrun or srun started, for the time of a `with`; do nothing for a single process.

    Args: device: as Experiment.device; GPUs communicate by NCCL, CPUs by gloo.
    Raises: ValueError if this machine has fewer GPUs than processes; RuntimeError, one sentence, if another process
        has ended.
    """
    os.environ |= started_by_srun()
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield
        return
    on_gpu = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    if on_gpu:
        if local_rank() >= (gpus := torch.cuda.device_count()):
            raise ValueError(f"process {local_rank()} of this machine has no GPU, there are {gpus}: start fewer")
        torch.cuda.set_device(local_rank())
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    number, count = rank(), world()
    # torchrun sends SIGTERM to the other processes when one has failed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"vtlib: {gone(number, count)}"))
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RuntimeError(gone(number, count)) from error
        raise
    finally:
        dist.destroy_process_group()


def gone(number: int, count: int) -> str:
    """The sentence with which process `number` of `count` stops because another one has ended."""
    return (
        f"process {number} of {count} stops: another one has ended. What is finished is kept, and the same command "
        "goes on from the last whole epoch; the output of the other process says what happened to it"
    )


def from_first(call: Callable[[], T]) -> T:
    """Call in the first process only, and return its result in all of them."""
    if world() == 1:
        return call()
    box = [call() if rank() == 0 else None]
    dist.broadcast_object_list(box)
    return box[0]


def first_then_others(call: Callable[[], T]) -> T:
    """Call in the first process, then in the others, which find on disk what the first has written."""
    if world() == 1:
        return call()
    result = call() if rank() == 0 else None
    dist.barrier()
    return result if rank() == 0 else call()


def rows_of_process(images: int, identities: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a P x K batch this process takes, and the order of the rows after gather_output().

    Identities are dealt in turn: the first to process 0, the second to process 1, and so on.
    Args: images: rows of the batch, visible ones first; identities: P.
    Returns: rows of this process (images / processes,); rows of process 0, 1, ... one after another (images,).
    Raises: ValueError if the identities do not divide evenly.
    """
    if identities % world():
        raise ValueError(f"identities_per_batch={identities} cannot be dealt to {world()} processes: choose a multiple")
    rows = np.arange(images).reshape(2, identities, -1)  # modality, identity, image
    shares = [rows[:, i :: world()].ravel() for i in range(world())]
    return shares[rank()], np.concatenate(shares)


class _Gather(torch.autograd.Function):
    """The rows of all processes, one after another; backward: the gradient of one's own rows, summed over processes."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        out = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(out, x.contiguous())
        return torch.cat(out)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_output(out: Output) -> Output:
    """The network's output for the whole batch, from the outputs of all processes, in the order of rows_of_process().

    Every process computes the same losses from it. Backward sums their gradients over the processes and DDP averages
    those of the weights, so that the result is the gradient of one process with the whole batch.
    """
    if world() == 1:
        return out
    gathered = [tuple(None if x is None else _Gather.apply(x) for x in part) for part in (out.pooled, out.local)]
    return Output(*gathered, _Gather.apply(out.features), _Gather.apply(out.logits))


def average_gradients(module: nn.Module) -> None:
    """Give each parameter of a module, which DDP does not know, the mean of its gradients over the processes."""
    for p in module.parameters() if world() > 1 else ():
        dist.all_reduce(p.grad)
        p.grad /= world()


class _Sum(torch.autograd.Function):
    """The sum over all processes, in forward and in backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm1d or 2d with mean and variance over all processes, on any device; SyncBatchNorm of torch needs GPUs."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any (B, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same; B may differ between processes."""
        if not self.training:
            return super().forward(x)
        wide, shape = at_least_single(x), (1, -1, *[1] * (x.ndim - 2))
        over = [d for d in range(x.ndim) if d != 1]
        total = _Sum.apply(torch.cat([wide.sum(over), wide.new_full((1,), x.numel() / x.shape[1])]))  # (C + 1,)
        mean, n = total[:-1] / total[-1], total[-1].detach()
        centred = wide - mean.view(shape)
        var = _Sum.apply(centred.square().sum(over)) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


def synchronised(net: nn.Module) -> nn.Module:
    """The network with torch's SyncBatchNorm, which wants the counters of steps that ours has not."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.num_batches_tracked = torch.zeros((), dtype=torch.long)
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)


def wrap(net: nn.Module, device: str, sync_bn: bool) -> nn.Module:
    """The module that a training step calls instead of `net`: `net` itself, or with several processes DDP around it.

    Args: net: on its device; device: its name; sync_bn: turn the BN layers inside `net` into layers over all
        processes. Their parameters, names and evaluation stay the same.
    """
    if world() == 1:
        return net
    if sync_bn and device.startswith("cuda"):
        net = synchronised(net)
    elif sync_bn:
        for module in net.modules():
            if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
                module.__class__ = GlobalBatchNorm
    ddp = nn.parallel.DistributedDataParallel  # without device_ids it moves no input: `modality` stays on the CPU
    names = inspect.signature(ddp).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # the older torch's name
    return ddp(net, **{name: not sync_bn})
