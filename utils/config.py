"""A script's YAML, checked before anything slow is imported: unknown, missing and impossible values.

The only module that knows Hydra. A script declares one rule for each key of its YAML:

    @script("contrast_attention", {"attn_diff": text(), "operation": one_of("difference", "log_ratio")})
    def main(config): ...
"""

import atexit
import difflib
import functools
import gc
import math
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.errors import InputError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "conf"

Rule = Callable[[object], str | None]
"""Takes a value; returns what is wrong with it ("must be ..."), or None."""


def text() -> Rule:
    def rule(value):
        if isinstance(value, (int, float)):
            return f"must be a name; one of digits goes in quotes: \"key='{value}'\""
        return None if isinstance(value, str) and value and not value.endswith("/") else "must be a name"

    return rule


def one_of(*choices: object) -> Rule:
    shown = ", ".join(map(str, choices))
    # By type as well: 1 is not true.
    known = [(type(choice), choice) for choice in choices]
    return lambda value: None if (type(value), value) in known else f"must be one of: {shown}"


def boolean() -> Rule:
    return lambda value: None if isinstance(value, bool) else "must be true or false"


def integer(low: int) -> Rule:
    def rule(value):
        valid = isinstance(value, int) and not isinstance(value, bool) and value >= low
        return None if valid else f"must be a whole number from {low}"

    return rule


def number(low: float, high: float = float("inf")) -> Rule:
    def rule(value):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        upper = f" to {high:g}" if high < float("inf") else ""
        in_range = is_number and low <= value <= high and math.isfinite(value)
        return None if in_range else f"must be a number from {low:g}{upper}"

    return rule


def file() -> Rule:
    def rule(value):
        if not isinstance(value, str) or not value:
            return "no such file"
        if Path(value).is_dir():
            return "a folder, not a file"
        if not Path(value).is_file():
            return "no such file"
        return None if os.access(value, os.R_OK) else "may not be read by this user"

    return rule


def model() -> Rule:
    """A hub name (`org/name`), a folder that holds a model or an adapter, or a `.gguf` file."""
    hint = "give a hub name, a model's folder or a .gguf file"

    def rule(value):
        if not isinstance(value, str) or not value:
            return f"must be a model: {hint}"
        path = Path(value).expanduser()
        if path.is_dir():
            known = ("config.json", "adapter_config.json")
            if not any((path / name).is_file() for name in known):
                checkpoints = ", ".join(sorted(inside.name for inside in path.glob("checkpoint-*")))
                inside = f"; it holds {checkpoints}: name one of these" if checkpoints else f": {hint}"
                return f"the folder holds no model (neither {' nor '.join(known)}){inside}"
        elif path.is_file():
            with open(path, "rb") as opened:
                if opened.read(4) != b"GGUF":
                    return f"the file is not a GGUF model: {hint}"
        elif value.endswith(".gguf") or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", value):
            return f"no such folder or file: {hint}"
        return None

    return rule


def checkpoint() -> Rule:
    """A folder that holds a model or an adapter."""

    def rule(value):
        return model()(value) if isinstance(value, str) and Path(value).is_dir() else "no such folder"

    return rule


def dtype() -> Rule:
    return one_of("auto", "bfloat16", "float16", "float32")


def mapping() -> Rule:
    """Keyword arguments that a library takes; the library checks them."""
    return lambda value: None if isinstance(value, DictConfig) else "must hold keys and values"


def optional(rule: Rule) -> Rule:
    return lambda value: None if value is None else rule(value)


def check(config: DictConfig, rules: dict[str, Rule]) -> None:
    """Raise InputError at the first key that is unknown, missing or has an impossible value."""
    for key in config:
        if key not in rules:
            raise unknown_key(str(key), rules)
    missing = [key for key in rules if OmegaConf.is_missing(config, key) or key not in config]
    if missing:
        needed = ", ".join(f"{key}=..." for key in missing)
        raise InputError(f"still needed: {needed}")
    for key, rule in rules.items():
        try:
            value = config[key]
        except OmegaConfBaseException as error:
            raise InputError(f"{key}: {one_line(error)}") from error
        problem = rule(value)
        if problem:
            shown = "" if isinstance(value, DictConfig) else f"={value}"
            raise InputError(f"{key}{shown}: {problem}")


def unknown_key(key: str, known) -> InputError:
    if key.split(".")[0] in known and "." in key:
        return InputError(f"unknown key {key}: correct it, or add what the YAML does not list with a plus: +{key}=...")
    close = difflib.get_close_matches(key, known, n=1)
    keys = ", ".join(known) if len(known) <= 20 else "the library's own arguments"
    hint = f"did you mean {close[0]}?" if close else f"the keys are: {keys}"
    return InputError(f"unknown key {key}: {hint}")


def one_line(error: BaseException) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def script(name: str, rules: dict[str, Rule]):
    """Make `main(config)` a Hydra script with `conf/<name>.yaml`; bad input is one line and exit code 2.

    `main.__wrapped__` is the plain function, for use without a command line. A fault of ours (any
    other exception) keeps its traceback.
    """

    def decorate(function):
        def checked(config: DictConfig) -> None:
            try:
                check(config, rules)
                function(config)
            except InputError as error:
                stop(name, str(error))

        @functools.wraps(function)
        def command_line() -> None:
            # Makes Hydra raise its errors instead of printing them over several lines.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            # A job that is cancelled (SIGTERM) ends as by Ctrl-C, so that it tidies up.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            use_huge_pages()
            collect_garbage_rarely()
            decorated = hydra.main(version_base=None, config_path=str(CONFIG_FOLDER), config_name=name)
            try:
                decorated(checked)()
            except KeyboardInterrupt:
                print(f"{name}.py: stopped", file=sys.stderr)
                sys.exit(130)
            except (HydraException, OmegaConfBaseException) as error:
                misspelt = re.match(r"Could not override '([^']+)'", str(error))
                if misspelt:
                    stop(name, str(unknown_key(misspelt[1], rules)))
                unread = getattr(error, "override", None)
                if unread:
                    stop(
                        name,
                        f"{unread}: {one_line(error)}; a value with spaces or signs goes in quotes: \"key='value'\"",
                    )
                stop(name, one_line(error))

        return command_line

    return decorate


def use_huge_pages() -> None:
    """Let torch ask Linux for pages of 2 MB for large tensors, unless the user has set its variable.

    torch looks when it first makes a large tensor. The pages of a fresh tensor are cleared as they are touched, one by
    one: of 4 KB each, that took longer than the softmax over the vocabulary (benchmarks/README.md).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def collect_garbage_rarely() -> None:
    """Let Python look for reference cycles after 10,000 new objects, not 700, and no more at the process's end.

    Importing torch and transformers makes 370,000 objects that stay. Going through them again and again, and at last to
    free what the process's end frees anyhow, was a third of a short run (benchmarks/README.md).
    """
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)


def stop(name: str, message: str) -> None:
    print(f"{name}.py: {message}", file=sys.stderr)
    sys.exit(2)
