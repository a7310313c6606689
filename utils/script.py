"""A script: its YAML, checked before anything slow is imported, and Hydra.

The only module that knows Hydra. A script declares one rule for each key of its YAML:

    @script("train", {"model_dir": rules.path(), "seed": rules.seed()}, writes=["model_dir"])
    def main(config): ...
"""

import argparse
import functools
import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence
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

from utils import runtime
from utils.errors import InputError, is_out_of_memory, one_line, unknown_key, unwritten
from utils.rules import Rule, plain_path
from utils.runtime import (
    check_environment,
    check_output,
    collect_garbage_rarely,
    is_speaker,
    signals_interrupt,
    stop,
    use_huge_pages,
    wait_briefly,
    without_fetched_kernels,
)

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "conf"


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
        config[key] = check_value(key, value, rule)
    given = inner_keys(config)
    for key in fixed:
        if key in given:
            raise left_out(key, fixed)


def check_value(key: str, value: object, rule: Rule) -> object:
    """What the rule makes of a key's value. Raises InputError, naming the key, if it is wrong or can't be read."""
    shown = "" if isinstance(value, DictConfig) else f"={value}"
    try:
        return rule(value)
    except ValueError as error:
        raise InputError(f"{key}{shown}: {error}") from error
    except OSError as error:
        raise InputError(f"{key}{shown}: can't be read: {error.strerror}") from error


def left_out(key: str, fixed: Mapping[str, str]) -> InputError:
    return InputError(f"{key}: leave it out; {fixed[key]}")


def inner_keys(config: DictConfig) -> list[str]:
    """The keys of a configuration's sub-trees: "trainer.learning_rate"."""
    trees = ((key, config._get_node(key)) for key in config)
    return [f"{key}.{inner}" for key, tree in trees if isinstance(tree, DictConfig) and tree for inner in tree]


def check_sweep(config: DictConfig, writes: Sequence[str]) -> None:
    """Raise InputError if the jobs of a sweep (Hydra's -m) would write over each other.

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


def script(
    name: str,
    rules: dict[str, Rule],
    writes: Sequence[str],
    fixed: Mapping[str, str] = MappingProxyType({}),
    several_processes: bool = True,
):
    """Make `main(config)` a Hydra script with `conf/<name>.yaml`; bad input is one line and exit code 2.

    writes: see `check_sweep`; fixed: keys of sub-trees that the script sets itself, and what to know of each;
    several_processes: whether torchrun may share its work out.

    `main.__wrapped__` is the plain function, for use without a command line. A bug (any other
    exception) keeps its traceback.
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
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                stop(name, f"out of memory: {lower_memory(rules)}")

        @functools.wraps(function)
        def command_line() -> None:
            nonlocal began
            began = False
            # Makes Hydra raise its errors instead of printing them over several lines.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            # As a shell does in an assignment; in Hydra's grammar a value has no `~`.
            sys.argv[1:] = [re.sub("(?<==)~(?=/|$)", lambda _: plain_path("~"), argument) for argument in sys.argv[1:]]
            if sys.stdout is not None and sys.stdout.encoding.lower() != "utf-8":  # it may lack a letter of a name
                sys.stdout.reconfigure(errors="backslashreplace")
            # accelerate would take it before trainer.bf16 and trainer.fp16.
            os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
            without_fetched_kernels()
            use_huge_pages()
            wait_briefly()
            collect_garbage_rarely()
            argparse.ArgumentParser.error = lambda _, message: stop(
                name, f"{message}; keys go without dashes: key=value"
            )
            decorated = hydra.main(version_base=None, config_path=str(CONFIG_FOLDER), config_name=name)
            with signals_interrupt() as signalled:
                try:
                    check_environment(several_processes)
                    check_config_name(name)
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
                        runtime.has_stopped = True
                        if is_speaker():
                            hint = "; resume=true continues from what was kept" if "resume" in rules else ""
                            print(f"{name}.py: stopped{hint}", file=sys.stderr)
                        sys.exit(130)
                    if began and not isinstance(error, InputError):
                        raise  # a bug
                    told = str(error) if isinstance(error, InputError) else unwritten(error)
                    stop(name, told or refused_by_hydra(error, name, rules, fixed))

        return command_line

    return decorate


def check_config_name(name: str) -> None:
    """Raise InputError if the command line names another script's YAML."""
    for argument, following in itertools.zip_longest(sys.argv[1:], sys.argv[2:], fillvalue=""):
        option, _, value = argument.partition("=")
        given = (value or following).removesuffix(".yaml")
        if option in ("--config-name", "-cn") and given != name and (CONFIG_FOLDER.parent / f"{given}.py").is_file():
            raise InputError(f"{option}: {given}.yaml has the keys of {given}.py; give {name}, or leave it out")


def lower_memory(rules: dict[str, Rule]) -> str:
    """What to do where memory ran out, by the keys that the script has."""
    if "trainer" in rules:
        advice = "lower trainer.per_device_train_batch_size or window"
    elif "batch_tokens" in rules:
        advice = "lower batch_tokens"
    else:
        advice = "free some, or split the texts"
    return advice + ("; resume=true continues from what was kept" if "resume" in rules else "")
