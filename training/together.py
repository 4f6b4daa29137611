"""Two processes of one thread each that learn as one: the same weights, their own rows, and averaged gradients.

One process of two threads stops at every operation until the slower thread is there; on a machine that others use
too, these wait for each other once in a step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing

PORT = 29_517


def run_together(processes: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call ``work(rank, *arguments)`` in so many processes, and return when all are done."""
    torch.multiprocessing.spawn(_join, (processes, work, arguments), processes)


def _join(rank: int, processes: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    stand_alone()
    address = f"tcp://127.0.0.1:{PORT}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    work(rank, *arguments)
    torch.distributed.destroy_process_group()


def stand_alone() -> None:
    """One thread, and a session of its own: Linux shares processor time between sessions."""
    os.setsid()
    torch.set_num_threads(1)


def average(tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors by their means over all processes; of a process alone, leave them."""
    if not torch.distributed.is_initialized():
        return
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(joined)
    joined /= torch.distributed.get_world_size()
    for tensor, mean in zip(tensors, joined.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def average_gradients(weights: Sequence[torch.Tensor]) -> None:
    average([weight.grad for weight in weights if weight.grad is not None])


def share_first(tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors by those of the first process."""
    if torch.distributed.is_initialized():
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)
