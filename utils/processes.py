"""One process or several (`torchrun`): who does what, and who prints."""

import atexit
import functools
import os
import sys
from collections.abc import Iterable
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from utils import runtime
from utils.progress import bar


@functools.cache
def processes() -> PartialState:
    """This process among those that were launched. Without a GPU they find each other (gloo) only if told so."""
    # Shares of a long work may end hours apart; ten minutes is what NCCL would wait for the last.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    atexit.register(leave, state)
    return state


def leave(state: PartialState) -> None:
    """What this process does about the others as it ends."""
    # Under NCCL it would wait for them; if it failed, they wait for it, and torchrun ends them once it has ended.
    if state.backend == "nccl" and (runtime.has_stopped or hasattr(sys, "last_value")):
        return
    # Left to the interpreter's end, gloo's threads now and then abort a process that is done.
    state.destroy_process_group()


def device_name(device: torch.device) -> str:
    """For a record: cpu, or cuda and the card's name."""
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def local_processes() -> int:
    """How many of the processes are on this machine; torchrun says so."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes().num_processes))


def is_main_process() -> bool:
    return processes().is_main_process


def my_share(items: list) -> list:
    """Every n-th item, so that the processes get alike shares of a list that is sorted by size."""
    state = processes()
    return items[state.process_index :: state.num_processes]


def broadcast(value: object) -> object:
    """The first process's value, in every process; none is ahead of it."""
    processes()
    return broadcast_object_list([value])[0]


def gathered(mine: dict) -> dict:
    """All processes' dicts in one, in every process."""
    processes()
    whole = {}
    for part in gather_object([mine]):
        whole.update(part)
    return whole


def progress(what: str, items: Iterable | None = None, total: int | None = None, initial: int = 0):
    """The progress of the main process alone: over `items`, or from `initial` up to `total` by its `update`."""
    return bar(items, desc=what, total=total, initial=initial, silent=not is_main_process())
