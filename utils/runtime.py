"""The process that a script runs in: what makes it fast, what it is launched with, and how it stops."""

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator

from utils.errors import InputError, printable, unwritten


def use_huge_pages() -> None:
    """Let torch ask Linux for pages of 2 MB for large tensors, unless the user has set its variable.

    torch looks when it first makes a large tensor. The pages of a fresh tensor are cleared as they are touched, one by
    one: of 4 KB each, that took longer than the softmax over the vocabulary (benchmarks/README.md).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def wait_briefly() -> None:
    """Let torch's threads, while they wait for each other, spin for 10,000 turns and then sleep, unless the user has
    set how they wait. GNU OpenMP's own number is 300,000.

    A thread that spins takes the core from the one that it waits for, where another job runs as well: a training step
    beside another took four times as long (benchmarks/README.md). OpenMP looks when torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def collect_garbage_rarely() -> None:
    """Let Python look for reference cycles after 10,000 new objects, not 700, and no more at the process's end.

    Importing torch and transformers makes 370,000 objects that stay. Going through them again and again, and at last to
    free what the process's end frees anyhow, was a third of a short run (benchmarks/README.md).
    """
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)


def without_fetched_kernels() -> None:
    """Stop bitsandbytes, whichever library imports it, from fetching kernels or warning that it has none.

    Where the package `kernels` is installed, it would fetch them from a hub: code, which would then run.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    sys.modules.setdefault("kernels", None)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[list[int]]:
    """Let a signal that ends the process do what Ctrl-C does, so that it tidies up: SIGTERM, by which jobs are
    cancelled, and SIGHUP, where the terminal is closed. Yields those that have come."""
    came = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def on_signal(number, frame):
        came.append(number)
        while frame is not None:
            if frame.f_code.co_name == "__del__":
                # What is raised in there Python prints and passes over: once more, a little later (SIGALRM).
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    try:
        for number, handler in handlers.items():
            if handler != signal.SIG_IGN:  # such as SIGHUP under nohup
                signal.signal(number, on_signal)
        yield came
    finally:
        # What a signal could stop is over.
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def check_environment(several_processes: bool) -> None:
    """Raise InputError if the script would wait without end for processes that nobody launched, or if those that
    torchrun launched would all do the same."""
    if sys.stdout is None:
        raise InputError("standard output is closed; to hide it, use > /dev/null")
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal() or int(size) < 1:
        raise InputError(f"WORLD_SIZE={size} in the environment: not a number of processes; unset WORLD_SIZE")
    launched = "WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"
    missing = [variable for variable in launched if not os.environ.get(variable)]
    left = "WORLD_SIZE" if int(size) > 1 else "LOCAL_RANK"
    if missing and (int(size) > 1 or "LOCAL_RANK" in os.environ):
        raise InputError(
            f"{left}={os.environ[left]} in the environment without {missing[0]}: unset {left}, or launch with torchrun"
        )
    if int(size) == 1 and os.environ.get("RANK", "0") != "0":
        raise InputError(f"RANK={os.environ['RANK']} in the environment, and one process: unset RANK")
    for variable in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):  # by which accelerate goes as well
        if "WORLD_SIZE" not in os.environ and os.environ.get(variable, "1") != "1":
            launch = ", or launch with torchrun" if several_processes else ""
            raise InputError(f"{variable}={os.environ[variable]} in the environment: unset it{launch}")
    if int(size) > 1 and not several_processes:
        raise InputError(f"runs in one process, and torchrun launched {size}; start it with python")


def check_output() -> None:
    """Raise InputError if standard output takes no more: its reader has left, or the disk is full."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Python itself would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InputError(unwritten(error) or f"standard output can't be written: {error.strerror}") from error


def is_speaker() -> bool:
    """Whether this process speaks for all of those that torchrun launched on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


has_stopped = False
"""Whether this process ends early: by `stop`, or by a signal."""


def stop(name: str, message: str) -> None:
    global has_stopped
    has_stopped = True
    try:
        check_output()
    except InputError as error:
        message = str(error)
    if not is_speaker():
        # Mostly all processes have the same to say; torchrun stops this one once the first has said it.
        time.sleep(5)
    # Names of files and columns may hold anything.
    print(f"{name}.py: {printable(message)}", file=sys.stderr, flush=True)
    sys.exit(2)
