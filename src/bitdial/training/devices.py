"""Which devices a run uses: Lightning Fabric, with the errors a user can act on."""

from __future__ import annotations

import atexit
import gc
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from bitdial.errors import BitdialError, suggest
from bitdial.lazy import defer
from bitdial.machine import version

if TYPE_CHECKING:
    from lightning.fabric import Fabric

STARTS_FUNCTIONS = ("ddp_spawn", "ddp_fork", "ddp_notebook", "fsdp_spawn")
"""The strategies that start a function in each process; the others start the command line again."""
STRATEGIES = ("auto", "ddp", "fsdp", *STARTS_FUNCTIONS, "ddp_find_unused_parameters_true")
_SHARDED = {"fsdp": "ddp", "fsdp_spawn": "ddp_spawn"}  # the same processes; Lightning's own FSDP wants GPUs
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
_CHATTY = ("lightning", "lightning.fabric", "lightning.pytorch", "lightning_utilities")


def make_fabric(
    devices: int | str | Sequence[int] = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    accelerator: str = "auto",
    *,
    verbose: bool = False,
) -> Fabric:
    """Build the Fabric that a run trains on. Nothing is started yet: the caller calls `launch()`.

    Args:
        devices: how many devices of this machine, their indices, or "auto" for all. Two or more on a CPU train in as
            many processes, over gloo.
        num_nodes: machines.
        strategy: "auto" takes one process for one device and DDP otherwise. "ddp" starts the same command line once per
            device; "ddp_spawn" and "ddp_fork" run a function that is given to `launch`. "fsdp" and "fsdp_spawn" do
            the same, and `fit` then keeps weights, gradients and the optimizer's state in shards, a part on each
            device. With one device there is nothing to cut.
        accelerator: "cpu", "gpu", or "auto": a GPU where there is one.
        verbose: let Fabric talk.

    Raises:
        BitdialError: an unknown name, or more devices than there are.
    """
    for what, value, known in (("accelerator", accelerator, ACCELERATORS), ("strategy", strategy, STRATEGIES)):
        if value not in known:
            raise BitdialError(f"{what} must be one of {', '.join(known)}, got {value!r}{suggest(str(value), known)}")
    if isinstance(num_nodes, bool) or not isinstance(num_nodes, int) or num_nodes < 1:
        raise BitdialError(f"num_nodes must be a whole number of at least 1, got {num_nodes!r}")
    kind = _resolve(accelerator)
    devices = _check_devices(devices, kind)
    alone = num_nodes == 1 and (devices == 1 or (isinstance(devices, list) and len(devices) == 1))
    processes = "auto" if strategy in _SHARDED and alone else _SHARDED.get(strategy, strategy)
    defer("lightning", but_for_modules=True)  # else its trainer comes with Fabric,
    defer("torchmetrics", __version__=version("torchmetrics"))  # and seconds of metrics with a look at their version
    from lightning.fabric import Fabric

    if not verbose:
        for name in _CHATTY:  # after the import, which sets the levels
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        fabric = Fabric(accelerator=kind, devices=devices, num_nodes=num_nodes, strategy=processes)
    except (ValueError, RuntimeError) as error:
        raise BitdialError(f"cannot train on devices={devices} with strategy={strategy}: {error}") from error
    if strategy in _SHARDED:
        fabric.strategy.shards_weights = True  # type: ignore[attr-defined]
    return fabric


def is_distributed() -> bool:
    """Whether this process is one of a group, be it of one."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def in_first_process(fabric: Fabric, action: Callable[[], str], told: Callable[[Exception], str] = str) -> str:
    """Do something in the first process and return its answer in all. Every process must call this.

    A failure reaches all: the first process raises it, the others a `BitdialError` that says what `told` makes of it.
    """
    answer, failure = "", None
    if fabric.is_global_zero:
        try:
            answer = action()
        except Exception as error:  # raised again below, once the others know
            failure = error
    if fabric.world_size > 1:
        answer, problem = fabric.broadcast((answer, failure and told(failure)))
        if problem and failure is None:
            raise BitdialError(problem)
    if failure is not None:
        raise failure
    return answer


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that another process of the run no longer answers."""
    text = str(error)
    return isinstance(error, getattr(torch.distributed, "DistError", ())) or any(
        sign in text for sign in ("gloo/transport", "Connection closed by peer", "Connection reset by peer")
    )


@atexit.register  # on import, not where a fabric is made: a spawned process receives one that another process made
def _leave_process_group() -> None:
    """Close the connections to the other processes: left open, gloo's threads abort the interpreter at its end."""
    if is_distributed():
        torch.distributed.destroy_process_group()
        gc.collect()  # what was sharded holds on to the connections in circles


def _resolve(accelerator: str) -> str:
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if accelerator == "auto":
        return "cuda" if has_cuda else "mps" if has_mps else "cpu"
    if accelerator == "gpu":
        accelerator = "cuda" if has_cuda or not has_mps else "mps"
    if (accelerator == "cuda" and not has_cuda) or (accelerator == "mps" and not has_mps):
        raise BitdialError(f"accelerator {accelerator} was asked for, but torch finds none here; use accelerator cpu")
    return accelerator


def _check_devices(devices: int | str | Sequence[int], kind: str) -> int | list[int] | str:
    present = torch.cuda.device_count() if kind == "cuda" else 1 if kind == "mps" else (os.cpu_count() or 1)
    if devices == "auto":
        return 1 if kind != "cuda" else "auto"
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if isinstance(devices, int) and not isinstance(devices, bool):
        if devices < 1:
            raise BitdialError(f"devices must be at least 1, got {devices}")
        if devices > present:
            what = "CPU cores" if kind == "cpu" else f"{kind} devices"
            raise BitdialError(f"{devices} devices were asked for, but this machine has {present} {what}")
        return devices
    if isinstance(devices, bool | str) or not devices:
        raise BitdialError(f"devices must be a number, a list of indices or 'auto', got {devices!r}")
    if kind == "cpu":
        raise BitdialError(
            f"devices by index must be GPUs, got {list(devices)}, and torch finds no GPU here; "
            "leave --gpu or --devices out to compute on the CPU, whose devices have a number and no indices"
        )
    if any(not 0 <= index < present for index in devices) or len(set(devices)) < len(devices):
        raise BitdialError(f"devices must be different indices in 0..{present - 1}, got {list(devices)}")
    return list(devices)
