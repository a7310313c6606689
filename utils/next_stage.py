"""A stage's last line: how long it took, and the command of the next stage."""

import re
import shlex
import time
from collections.abc import Mapping

from utils.artifacts import is_first_process

# How a dataset is read where nobody says otherwise.
READING = {"text_column": "text", "tags": "auto"}

# What Hydra reads as no text, though it looks like one.
NO_TEXT = ("null", "true", "false", "nan", "inf")


def announce(started: float, script: str | None = None, **keys: str | float) -> None:
    """Print it, in the first process alone. started: time.monotonic() at the stage's beginning; script and keys: of the
    next stage, with words in capitals for what this one can't know."""
    if is_first_process():
        overrides = " ".join(override(key, value) for key, value in keys.items())
        following = f" Next: python {script}.py {overrides}" if script else ""
        print(f"Took {duration(time.monotonic() - started)}.{following}")


def dataset_keys(config: Mapping) -> dict[str, str | bool]:
    """The keys that say how `dataset` is read, for the next stage, but for those that have the YAML's value."""
    return {key: config[key] for key, default in READING.items() if config[key] != default}


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def override(key: str, value: str | float) -> str:
    """`key=value` for a shell, with the quotes that it and Hydra need."""
    is_plain = isinstance(value, str) and (
        re.fullmatch(r"[A-Za-z_./][\w./-]*", value, re.ASCII) and value.lower() not in NO_TEXT
    )
    return shlex.quote(f"{key}={value if is_plain else literal(value)}")


def literal(value: object) -> object:
    """A value as Hydra reads it back, a text in its quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return quoted(value) if isinstance(value, str) else value


def quoted(value: str) -> str:
    """The text in Hydra's quotes, in which every sign stands for itself, but for quotes, ${, and backslashes before
    them or at the end."""
    escaped = re.sub(r"(\\*)('|\$\{|$)", lambda found: 2 * found[1] + (found[2] and "\\" + found[2]), value)
    return f"'{escaped}'"
