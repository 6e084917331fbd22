"""Several processes, one experiment: torchrun or srun starts them, torch's distributed data parallel joins them.

Each process takes some identities of every P x K batch through the network; the features of all then stand together in
every process, so that each loss sees the whole batch, and its gradient goes back to where a feature came from. With BN
over the whole batch (GlobalBatchNorm, torch's own on GPUs) nothing depends on the number of processes but rounding.
Alone, every function here is the identity.
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
PATIENCE = timedelta(hours=1)  # the others wait while the first makes data, validates and writes


def started_by_srun() -> dict[str, str]:
    """What torchrun would have put into the environment, of a step of srun with several tasks; else {}."""
    if "RANK" in os.environ or "SLURM_STEP_ID" not in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) < 2:
        return {}
    names = subprocess.run(
        ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]], capture_output=True, text=True, check=True
    )
    port = 15_000 + int(os.environ["SLURM_JOB_ID"] + os.environ["SLURM_STEP_ID"].rjust(3, "0")) % 20_000
    where = {"MASTER_ADDR": names.stdout.split()[0], "MASTER_PORT": str(port)}
    return where | {"RANK": os.environ["SLURM_PROCID"], "WORLD_SIZE": os.environ["SLURM_NTASKS"]}


@contextmanager
def joined(device: str = "auto") -> Iterator[None]:
    """Join the processes that torchrun or srun started for the time of a `with`; alone, do nothing.

    Args: device: as Experiment.device: GPUs talk by NCCL, CPUs by gloo.
    Raises: ValueError if there are fewer GPUs than processes; RuntimeError with one sentence if another has ended.
    """
    os.environ |= started_by_srun()
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield
        return
    on_gpu = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    if on_gpu:
        if local_rank() >= (there := torch.cuda.device_count()):
            raise ValueError(f"process {local_rank()} of this machine has no GPU, there are {there}: start fewer")
        torch.cuda.set_device(local_rank())
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    who, of = rank(), world()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"vtlib: {gone(who, of)}"))  # torchrun's way to stop who is left
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RuntimeError(gone(who, of)) from error
        raise
    finally:
        dist.destroy_process_group()


def gone(who: int, of: int) -> str:
    return (
        f"process {who} of {of} stops: another one has ended. What is finished is kept, and the same command goes on "
        "from the last whole epoch; the output of the other process says what happened to it"
    )


def from_first(call: Callable[[], T]) -> T:
    """What `call` gives in the first process, in all of them."""
    if world() == 1:
        return call()
    box = [call() if rank() == 0 else None]
    dist.broadcast_object_list(box)
    return box[0]


def first_then_others(call: Callable[[], T]) -> T:
    """Call in the first process, then in the others: what the first one makes on disk, they find."""
    if world() == 1:
        return call()
    made = call() if rank() == 0 else None
    dist.barrier()
    return made if rank() == 0 else call()


def rows_of_process(images: int, identities: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a P x K batch are this process's, and the order in which the gathered batch stands.

    Identities go round: the first to process 0, the second to process 1. Raises: ValueError if they do not divide.
    """
    if identities % world():
        raise ValueError(f"identities_per_batch={identities} cannot be dealt to {world()} processes: choose a multiple")
    rows = np.arange(images).reshape(2, identities, -1)  # modality, identity, image
    each = [rows[:, i :: world()].ravel() for i in range(world())]
    return each[rank()], np.concatenate(each)


class _Gather(torch.autograd.Function):
    """Rows of all processes, one after another; backward: the sum over processes of the gradient of these rows."""

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
    """The network's output for the whole batch, in the order of rows_of_process().

    Every process computes the same losses: summed over them in backward and averaged over them by distributed data
    parallel, the gradient is that of one process with the whole batch.
    """
    if world() == 1:
        return out
    every = [tuple(None if x is None else _Gather.apply(x) for x in part) for part in (out.pooled, out.local)]
    return Output(*every, _Gather.apply(out.features), _Gather.apply(out.logits))


class _Sum(torch.autograd.Function):
    """Sum over the processes, forward and backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm1d or BatchNorm2d with the statistics of all processes, on any device; torch's own needs GPUs."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Any (B, C, ...)."""

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
            self.num_batches_tracked += 1
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


def wrap(net: nn.Module, device: str, sync_bn: bool) -> nn.Module:
    """The network as every step of this process calls it: itself, or torch's distributed data parallel around it.

    Layers of BN are changed inside `net`; their parameters, names and evaluation stay what they were.
    """
    if world() == 1:
        return net
    if sync_bn and device.startswith("cuda"):
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    elif sync_bn:
        for module in net.modules():
            if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
                module.__class__ = GlobalBatchNorm
    ddp = nn.parallel.DistributedDataParallel  # moves no input: see model.forward
    names = inspect.signature(ddp).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # of an older torch
    return ddp(net, **{name: not sync_bn})
