"""A script's YAML, checked before anything slow is imported: unknown, missing and impossible values.

The only module that knows Hydra. A script declares one rule for each key of its YAML:

    @script("contrast_attention", {"attn_diff": path(), "target": one_of("small", "large")}, writes=["attn_diff"])
    def main(config): ...
"""

import argparse
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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from utils.errors import InputError, one_line, unwritten

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


def file_name() -> Rule:
    """A file to write, whose ending is added."""

    def rule(value):
        if Path(text()(value)).name in ("", ".."):
            raise ValueError("must be a file's name")
        return plain_path(value)

    return rule


def picture() -> Rule:
    """A page or a picture to write."""

    def rule(value):
        if Path(text()(value)).suffix not in (".html", ".png"):
            raise ValueError("must end in .html or .png")
        return plain_path(value)

    return rule


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


def file(or_folder: bool = False) -> Rule:
    def rule(value):
        value = text()(value)
        if is_there(value, stat.S_ISDIR):
            if not or_folder:
                raise ValueError("a folder, not a file")
        elif not is_there(value, stat.S_ISREG):
            raise ValueError("no such file")
        if not os.access(plain_path(value), os.R_OK):
            raise ValueError("may not be read by this user")
        return plain_path(value)

    return rule


def model(known: Sequence[str] = ("config.json", "adapter_config.json")) -> Rule:
    """A hub name (`org/name`), a folder that holds one of the known files, or a `.gguf` file."""
    hint = "give a hub name, a model's folder or a .gguf file"

    def rule(value):
        path = Path(plain_path(text()(value)))
        if is_there(value, stat.S_ISDIR):
            if not any((path / name).is_file() for name in known):
                models = ", ".join(sorted({found.parent.name for name in known for found in path.glob(f"*/{name}")}))
                inside = f"; it holds {models}: name one of these" if models else f": {hint}"
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
        if not is_there(text()(value), stat.S_ISDIR):
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
    is_checkpoint = any((path / name).exists() for name in ("config.json", "adapter_config.json"))
    return [] if is_checkpoint else numbered_checkpoints(path)


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The folders checkpoint-<step> in it, in the order of their steps."""
    found = {
        inside: inside.name.removeprefix("checkpoint-") for inside in folder.glob("checkpoint-*") if inside.is_dir()
    }
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


def check(config: DictConfig, rules: dict[str, Rule], fixed: Mapping[str, str] = MappingProxyType({})) -> None:
    """Resolve the configuration's interpolations, and give each key the value that its rule makes of it.

    Raises InputError at the first key that is unknown, missing, fixed (see `script`) or has an impossible value.
    """
    for key in config:
        if key not in rules:
            raise unknown_key(str(key), rules, inner_keys(config))
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
    given = inner_keys(config)
    for key in fixed:
        if key in given:
            raise left_out(key, fixed)


def check_value(key: str, value: object, rule: Rule) -> None:
    """Raise InputError, naming the key, where the rule does."""
    try:
        rule(value)
    except ValueError as error:
        raise InputError(f"{key}={value}: {error}") from error


def left_out(key: str, fixed: Mapping[str, str]) -> InputError:
    return InputError(f"{key}: leave it out; {fixed[key]}")


def inner_keys(config: DictConfig) -> list[str]:
    """The keys of a configuration's sub-trees: "trainer.learning_rate"."""
    trees = ((key, config._get_node(key)) for key in config)
    return [f"{key}.{inner}" for key, tree in trees if isinstance(tree, DictConfig) and tree for inner in tree]


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
            f"{place}: the jobs of this sweep would overwrite each other; put the swept key into the name: "
            f"{place}='...-${{{shared[0]}}}'"
        )


def unknown_key(key: str, known: Iterable[str], inner: Iterable[str] = ()) -> InputError:
    """inner: the keys of sub-trees, which are easily given without the tree's name."""
    if key.split(".")[0] in known and "." in key:
        return InputError(
            f"unknown key {key}: check the spelling; to add a key that the YAML does not list: +{key}=..."
        )
    in_full = {full.rpartition(".")[2]: full for full in inner}
    close = difflib.get_close_matches(key, known, n=1)
    close_inner = difflib.get_close_matches(key, in_full, n=1)
    if key in in_full:
        hint = f"did you mean {in_full[key]}?"
    elif close:
        hint = f"did you mean {close[0]}?"
    elif close_inner:
        full = in_full[close_inner[0]]
        hint = f"did you mean {full}? To add a key that the YAML does not list: +{full.split('.')[0]}.{key}=..."
    else:
        keys = ", ".join(known) if len(known) <= 20 else "the library's own arguments"
        hint = f"the keys are: {keys}"
    return InputError(f"unknown key {key}: {hint}")


def refused_by_hydra(error: BaseException, name: str, rules: dict[str, Rule], fixed: Mapping[str, str]) -> str:
    """What the user reads where Hydra could not make a configuration of the command line and the YAML files."""
    if isinstance(error, MissingConfigException):
        return f"{error.missing_cfg_file}: no such YAML file in {CONFIG_FOLDER}"
    damaged = damage(name) or damage("shared")
    if damaged:
        return damaged
    # Hydra's own words are those of its grammar.
    unread = getattr(error, "override", None) or next((given for given in sys.argv[1:] if given.startswith("=")), None)
    if unread:
        return f"{unread}: expected key=value; quote a value with spaces or special characters: \"key='value'\""
    several = re.match("Ambiguous value for argument '(.*)'\n", str(error))
    if several:
        key, _, values = several[1].partition("=")
        return f"{several[1]}: several values; give one, or a list in brackets: {key}=[{values}]"
    while not str(error) and error.__context__:
        error = error.__context__
    misspelt = re.match(r"Could not override '([^']+)'", str(error))
    if not misspelt:
        return f"conf/{name}.yaml: {one_line(error)}" if "defaults" in str(error) else one_line(error)
    key = misspelt[1]
    declared = OmegaConf.load(CONFIG_FOLDER / f"{name}.yaml")
    if key in rules and key not in declared:
        return f"conf/{name}.yaml: the key {key} is missing; put it back"
    if key in rules:
        return f"{key}: set its keys one by one: {key}.<key>=..., with a plus if the YAML does not list the key"
    if key in fixed:
        return str(left_out(key, fixed))
    return str(unknown_key(key, rules, inner_keys(declared)))


def damage(name: str) -> str | None:
    """What is wrong with a YAML file of conf/ by itself; None where it can be read."""
    try:
        if not OmegaConf.is_dict(OmegaConf.load(CONFIG_FOLDER / f"{name}.yaml")):
            return f"conf/{name}.yaml: must hold keys and values, not a list"
    except MarkedYAMLError as error:
        return f"conf/{name}.yaml: line {(error.problem_mark or error.context_mark).line + 1}: {error.problem}"
    except Exception as error:  # such as of bytes that are no text, or of a number alone
        return f"conf/{name}.yaml: can't be read: {one_line(error)}"
    return None


def help_text(name: str, about: str) -> str:
    """What the script's docstring says, and each key with its comment and its value as they stand in its YAML."""
    written = (CONFIG_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    keys = written.partition("\n\n")[2]  # below the title and Hydra's own defaults
    how = f"Set a key as key=value; ??? must be set. The keys and their values, from conf/{name}.yaml:"
    return f"{about.strip()}\n\n{how}\n\n{keys.strip()}"


def script(name: str, rules: dict[str, Rule], writes: Sequence[str], fixed: Mapping[str, str] = MappingProxyType({})):
    """Make `main(config)` a Hydra script with `conf/<name>.yaml`; bad input is one line and exit code 2.

    writes: see `check_sweep`; fixed: keys of sub-trees that the script sets itself, and what to know of each.

    `main.__wrapped__` is the plain function, for use without a command line. A fault of ours (any
    other exception) keeps its traceback.
    """

    def decorate(function):
        began = False

        def checked(config: DictConfig) -> None:
            nonlocal began
            began = True
            try:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    check_sweep(config, writes)
                    if config.get("heatmap"):
                        check_sweep(config, ["heatmap"])
                check(config, rules, fixed)
                function(config)
            except InputError as error:
                stop(name, str(error))
            except OSError as error:
                if not unwritten(error):
                    raise
                stop(name, unwritten(error))

        @functools.wraps(function)
        def command_line() -> None:
            nonlocal began
            began, signalled = False, []
            numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
            handlers = {number: signal.getsignal(number) for number in numbers}

            def on_signal(number, frame):
                signalled.append(number)
                while frame is not None:
                    if frame.f_code.co_name == "__del__":
                        # What is raised in there Python prints and passes over: once more, a little later (SIGALRM).
                        signal.setitimer(signal.ITIMER_REAL, 0.01)
                        return
                    frame = frame.f_back
                raise KeyboardInterrupt

            # Makes Hydra raise its errors instead of printing them over several lines.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            # As a shell does in an assignment; in Hydra's grammar a value has no `~`.
            sys.argv[1:] = [re.sub("(?<==)~(?=/|$)", lambda _: plain_path("~"), argument) for argument in sys.argv[1:]]
            # Where it is installed, it complains on every processor that lacks kernels which nothing here asks for.
            logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
            # Where this is installed, bitsandbytes has it fetch such kernels from a hub: code, which would then run.
            sys.modules.setdefault("kernels", None)
            use_huge_pages()
            collect_garbage_rarely()
            argparse.ArgumentParser.error = lambda _, message: stop(
                name, f"{message}; keys go without dashes: key=value"
            )
            decorated = hydra.main(version_base=None, config_path=str(CONFIG_FOLDER), config_name=name)
            try:
                # Cancelled (SIGTERM), or its terminal closed (SIGHUP), a job ends as by Ctrl-C, so that it tidies up.
                for number, handler in handlers.items():
                    if handler != signal.SIG_IGN:  # such as SIGHUP under nohup
                        signal.signal(number, on_signal)
                check_environment()
                try:
                    if {"--help", "-h"} & set(sys.argv[1:]):
                        print(help_text(name, function.__globals__["__doc__"]))
                    else:
                        decorated(checked)()
                finally:
                    check_output()
            except (Exception, KeyboardInterrupt) as error:
                # A library may make an error of its own of the interrupt, as numpy does while it is imported.
                if signalled or isinstance(error, KeyboardInterrupt):
                    if is_speaker():
                        hint = "; resume=true continues from what was kept" if "resume" in rules else ""
                        print(f"{name}.py: stopped{hint}", file=sys.stderr)
                    sys.exit(130)
                if began and not isinstance(error, InputError):
                    raise  # a fault of ours
                told = str(error) if isinstance(error, InputError) else unwritten(error)
                stop(name, told or refused_by_hydra(error, name, rules, fixed))
            finally:
                # What a signal could stop is over.
                signal.setitimer(signal.ITIMER_REAL, 0)
                for number, handler in handlers.items():
                    signal.signal(number, handler)

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


def check_environment() -> None:
    """Raise InputError where the script would wait without end for processes that nobody launched."""
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


def check_output() -> None:
    """Raise InputError where standard output takes no more: its reader has left, or the disk is full."""
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


def stop(name: str, message: str) -> None:
    try:
        check_output()
    except InputError as error:
        message = str(error)
    if not is_speaker():
        # Mostly all processes have the same to say; torchrun stops this one once the first has said it.
        time.sleep(5)
    print(f"{name}.py: {message}", file=sys.stderr, flush=True)
    sys.exit(2)
