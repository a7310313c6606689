"""A script's YAML, checked before anything slow is imported: unknown, missing and impossible values.

The only module that knows Hydra. A script declares one rule for each key of its YAML:

    @script("contrast_attention", {"attn_diff": path(), "target": one_of("small", "large")}, writes=["attn_diff"])
    def main(config): ...
"""

import atexit
import difflib
import functools
import gc
import logging
import math
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.errors import InputError, one_line

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "conf"

Rule = Callable[[object], object]
"""Takes a key's value and returns what the script gets; raises ValueError that says what is wrong ("must be ...")."""


def text() -> Rule:
    def rule(value):
        if isinstance(value, (int, float)):
            raise ValueError(f"must be a name; one of digits goes in quotes: \"key='{value}'\"")
        if not isinstance(value, str) or not value:
            raise ValueError("must be a name")
        return value

    return rule


def plain_path(value: str) -> str:
    """One spelling for one place: `~` as the user's home, no `./` before it, no `/` behind it."""
    return str(Path(os.path.expanduser(value)))  # noqa: PTH111 - of a user who is not there pathlib makes an error


def path() -> Rule:
    """A file or folder that need not be there."""
    return lambda value: plain_path(text()(value))


def one_of(*choices: object) -> Rule:
    shown = ", ".join(map(str, choices))
    # By type as well: 1 is not true.
    known = [(type(choice), choice) for choice in choices]

    def rule(value):
        if (type(value), value) not in known:
            raise ValueError(f"must be one of: {shown}")
        return value

    return rule


def boolean() -> Rule:
    def rule(value):
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value

    return rule


def integer(low: int, high: float = float("inf")) -> Rule:
    def rule(value):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low}{up_to(high)}")
        return value

    return rule


def number(low: float, high: float = float("inf")) -> Rule:
    def rule(value):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g}{up_to(high)}")
        return value

    return rule


def up_to(high: float) -> str:
    return f" to {high}" if math.isfinite(high) else ""


def seed() -> Rule:
    """What numpy's, Python's and torch's generators all take."""
    return integer(0, 2**32 - 1)


def is_there(value: str, kind: Callable[[int], bool]) -> bool:
    """Whether there is such a place; `kind` is stat.S_ISREG for a file, stat.S_ISDIR for a folder."""
    try:
        return kind(Path(plain_path(value)).stat().st_mode)
    except (OSError, ValueError):  # such as a name that is too long
        return False


def file() -> Rule:
    def rule(value):
        if not isinstance(value, str) or not value:
            raise ValueError("no such file")
        if is_there(value, stat.S_ISDIR):
            raise ValueError("a folder, not a file")
        if not is_there(value, stat.S_ISREG):
            raise ValueError("no such file")
        if not os.access(plain_path(value), os.R_OK):
            raise ValueError("may not be read by this user")
        return plain_path(value)

    return rule


def model(known: Sequence[str] = ("config.json", "adapter_config.json")) -> Rule:
    """A hub name (`org/name`), a folder that holds one of the known files, or a `.gguf` file."""
    hint = "give a hub name, a model's folder or a .gguf file"

    def rule(value):
        if not isinstance(value, str) or not value:
            raise ValueError(f"must be a model: {hint}")
        path = Path(plain_path(value))
        if is_there(value, stat.S_ISDIR):
            if not any((path / name).is_file() for name in known):
                checkpoints = ", ".join(sorted(inside.name for inside in path.glob("checkpoint-*")))
                inside = f"; it holds {checkpoints}: name one of these" if checkpoints else f": {hint}"
                raise ValueError(f"the folder holds no model (none of {', '.join(known)}){inside}")
        elif is_there(value, stat.S_ISREG):
            with open(path, "rb") as opened:
                if opened.read(4) != b"GGUF":
                    raise ValueError(f"the file is not a GGUF model: {hint}")
        elif value.endswith(".gguf") or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", value):
            raise ValueError(f"no such folder or file: {hint}")
        return str(path)

    return rule


def tokenizer() -> Rule:
    """A model of which the tokenizer alone is read: its folder may hold nothing else."""
    return model(("config.json", "adapter_config.json", "tokenizer_config.json", "tokenizer.json"))


def checkpoint() -> Rule:
    """A folder that holds a model or an adapter, or a run's folder with checkpoints that do."""

    def rule(value):
        if not isinstance(value, str) or not is_there(value, stat.S_ISDIR):
            raise ValueError("no such folder")
        for inside in checkpoints_in(value):
            try:
                model()(str(inside))
            except ValueError as error:
                raise ValueError(f"{inside.name}: {error}") from error
        return plain_path(value) if checkpoints_in(value) else model()(value)

    return rule


def checkpoints_in(folder: str) -> list[Path]:
    """A run's checkpoints, in the order of their steps; none in a folder that is a checkpoint itself."""
    path = Path(plain_path(folder))
    if any((path / name).exists() for name in ("config.json", "adapter_config.json")):
        return []
    found = {inside: inside.name.removeprefix("checkpoint-") for inside in path.glob("checkpoint-*") if inside.is_dir()}
    steps = {inside: int(name) for inside, name in found.items() if re.fullmatch("[0-9]+", name)}
    return sorted(steps, key=steps.get)


def dtype() -> Rule:
    return one_of("auto", "bfloat16", "float16", "float32")


def mapping() -> Rule:
    """Keyword arguments that a library takes; the library checks them."""

    def rule(value):
        if not isinstance(value, DictConfig):
            raise ValueError("must hold keys and values")
        return value

    return rule


def text_or_mapping(value: object) -> object:
    return value if isinstance(value, DictConfig) else text()(value)


def optional(rule: Rule) -> Rule:
    return lambda value: None if value is None else rule(value)


def check(config: DictConfig, rules: dict[str, Rule]) -> None:
    """Resolve the configuration's interpolations, and give each key the value that its rule makes of it.

    Raises InputError at the first key that is unknown, missing or has an impossible value.
    """
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
            if OmegaConf.is_config(value):
                OmegaConf.resolve(value)
        except OmegaConfBaseException as error:
            raise InputError(f"{key}: {one_line(error)}") from error
        try:
            config[key] = rule(value)
        except ValueError as error:
            shown = "" if isinstance(value, DictConfig) else f"={value}"
            raise InputError(f"{key}{shown}: {error}") from error


def check_sweep(config: DictConfig, writes: Sequence[str]) -> None:
    """Raise InputError where the jobs of a sweep (Hydra's -m) would write over each other.

    writes: the keys that say where a job writes, of which the first that has a value counts. Hydra takes every
    combination of what is swept, so that place must hold each of the swept keys, or be swept itself.
    """
    arguments = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    overrides = OverridesParser.create().parse_overrides(arguments)
    swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
    given = OmegaConf.to_container(config)
    place = next((key for key in writes if given.get(key) is not None), writes[0])
    shared = [key for key in swept if key != place and f"${{{key}}}" not in str(given.get(place))]
    if shared:
        raise InputError(
            f"{place}: the jobs of this sweep would write over each other; let it hold what is swept: "
            f"{place}='...-${{{shared[0]}}}'"
        )


def unknown_key(key: str, known) -> InputError:
    if key.split(".")[0] in known and "." in key:
        return InputError(f"unknown key {key}: correct it, or add what the YAML does not list with a plus: +{key}=...")
    close = difflib.get_close_matches(key, known, n=1)
    keys = ", ".join(known) if len(known) <= 20 else "the library's own arguments"
    hint = f"did you mean {close[0]}?" if close else f"the keys are: {keys}"
    return InputError(f"unknown key {key}: {hint}")


def script(name: str, rules: dict[str, Rule], writes: Sequence[str]):
    """Make `main(config)` a Hydra script with `conf/<name>.yaml`; bad input is one line and exit code 2.

    writes: see `check_sweep`.

    `main.__wrapped__` is the plain function, for use without a command line. A fault of ours (any
    other exception) keeps its traceback.
    """

    def decorate(function):
        def checked(config: DictConfig) -> None:
            try:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    check_sweep(config, writes)
                check(config, rules)
                function(config)
            except InputError as error:
                stop(name, str(error))

        @functools.wraps(function)
        def command_line() -> None:
            # Makes Hydra raise its errors instead of printing them over several lines.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            # As a shell does in an assignment; in Hydra's grammar a value has no `~`.
            sys.argv[1:] = [re.sub("(?<==)~(?=/|$)", lambda _: plain_path("~"), argument) for argument in sys.argv[1:]]
            # Where it is installed, it complains on every processor that lacks kernels which nothing here asks for.
            logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
            use_huge_pages()
            collect_garbage_rarely()
            decorated = hydra.main(version_base=None, config_path=str(CONFIG_FOLDER), config_name=name)
            try:
                # Cancelled (SIGTERM), or its terminal closed (SIGHUP), a job ends as by Ctrl-C, so that it tidies up.
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not under nohup
                    signal.signal(signal.SIGHUP, signal.default_int_handler)
                decorated(checked)()
            except KeyboardInterrupt:
                hint = "; resume=true goes on from what was kept" if "resume" in rules else ""
                print(f"{name}.py: stopped{hint}", file=sys.stderr)
                sys.exit(130)
            except (HydraException, OmegaConfBaseException) as error:
                misspelt = re.match(r"Could not override '([^']+)'", str(error))
                if misspelt and misspelt[1] in rules:
                    hint = f"{misspelt[1]}.<key>=..., with a plus before a key that the YAML does not list"
                    stop(name, f"{misspelt[1]}: set its keys one by one: {hint}")
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
