"""One process or several (`torchrun`): who does what, and who speaks."""

from collections.abc import Iterable

from accelerate import PartialState
from accelerate.utils import gather_object, tqdm


def is_main_process() -> bool:
    return PartialState().is_main_process


def my_share(items: list) -> list:
    """Every n-th item, so that the processes get alike shares of a list that is sorted by size."""
    state = PartialState()
    return items[state.process_index :: state.num_processes]


def gathered(mine: dict) -> dict:
    """All processes' dicts in one, in every process."""
    whole = {}
    for part in gather_object([mine]):
        whole.update(part)
    return whole


def progress(what: str, items: Iterable | None = None, total: int | None = None):
    """tqdm's progress bar, of the main process alone: over `items`, or up to `total` by its `update`."""
    return tqdm(items, desc=what, total=total, dynamic_ncols=True)
