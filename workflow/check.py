"""A table's YAML and the results that are there, checked before anything runs."""

import functools
import importlib
import itertools
import json
import re
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from data_augmentation import check_guidance
from evaluate import RULES, fill_defaults, questions_of
from utils import biography, rules
from utils.arguments import check_arguments
from utils.errors import InputError, unknown_key
from utils.runtime import without_fetched_kernels
from utils.script import CONFIG_FOLDER, check, check_value
from workflow.results import read_made, read_record, read_study
from workflow.table import (
    DUMPS,
    MEASURES,
    NAME,
    RESOURCES,
    asked_about,
    asked_by,
    augmentation_of,
    epochs_of,
    is_plain,
    runs,
    settings_of,
    shown_by,
    training_of,
)

NEEDED = (
    "table",
    "large",
    "small",
    "trained",
    "target",
    "dataset",
    "arms",
    "seeds",
    "checkpoints",
    "evaluations",
    "measures",
    "against",
)

# The two kinds of budget: a table has all keys of one of them.
BUDGETS = (("tokens",), ("epochs", "learning_rates", "reported"))

# Overrides of the scripts' keys, the rules' resources, and the command that makes files that are not committed.
OPTIONAL = ("save_attention", "data_augmentation", "train", "evaluate", "resources", "made_by")

# Keys of the scripts that the rules set themselves.
SET_BY_RULES = {
    "save_attention": ("model", "dataset", "text_column", "tags", "save_name", "heatmap", "resume"),
    "data_augmentation": ("model", "dataset", "text_column", "tags", "save_name", "seed", "heatmap", "resume"),
    "train": (
        "model",
        "dataset",
        "text_column",
        "tags",
        "model_dir",
        "seed",
        "resume",
        "trainer.max_steps",
        "trainer.num_train_epochs",
        "trainer.save_strategy",
        "trainer.save_steps",
    ),
    "evaluate": ("model", "model_dir", "output_dir", "resume"),
}

# The statements' name when the committed results were made; nothing else ever had it.
RENAMED = {"data/prompts.csv": "data/prompts_statements.csv"}

# The rules that a table's `resources` may name.
RULES_WITH_RESOURCES = ("attention", "attention_small", "train", "evaluate")

# Where the arguments are known that a section of train.yaml hands on to a library.
ARGUMENTS = {
    "trainer": ("transformers", "TrainingArguments"),
    "lora": ("peft", "LoraConfig"),
}


def check_unique_keys(path: Path) -> None:
    """Raise InputError if a YAML file gives a key twice: Snakemake takes the last, and says nothing."""
    try:
        nodes = [yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)]
    except (OSError, ValueError, yaml.YAMLError):  # Snakemake has read it: a pipe, or JSON
        return
    for node in nodes:
        if isinstance(node, yaml.MappingNode):
            keys = [(key.tag, key.value) for key, _ in node.value]
            for place, (key, _) in enumerate(node.value):
                if keys[place] in keys[:place]:
                    raise InputError(f"{path}: line {key.start_mark.line + 1}: duplicate key {key.value}")
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def check_table(config: dict) -> None:
    """Raise InputError, in one line, where the table lacks a key or has one that nothing reads."""
    if "table" not in config:
        raise InputError("which table? snakemake --configfile conf/tables/NAME.yaml ...")
    known = (*NEEDED, *itertools.chain(*BUDGETS), *OPTIONAL)
    for key in config:
        if key not in known:
            raise unknown_key(key, known)
    missing = [key for key in NEEDED if config.get(key) is None]
    if missing:
        raise InputError(f"{config['table']}: still needed: {', '.join(missing)}")
    if not re.fullmatch(r"\w[\w.-]*", str(config["table"]), re.ASCII):
        raise InputError(f"table={config['table']}: must be a folder's name of letters, digits and _ - .")
    for key in ("table", "large", "small", "trained", "dataset"):
        check_value(key, config[key], rules.text())
        if re.search("[{}]", str(config[key])):
            raise InputError(f"{key}={config[key]}: Snakemake reads braces as a wildcard; rename it")
    for key, kind in {"arms": dict, "evaluations": dict, "seeds": list, "measures": list, "against": list}.items():
        if not isinstance(config[key], kind):
            raise InputError(f"{key}={config[key]}: must hold {'keys and values' if kind is dict else 'a list'}")
        if not config[key] and key != "against":
            raise InputError(f"{key}={config[key]}: must hold at least one")
    for key in ("save_attention", "data_augmentation", "train", "evaluate", "resources"):
        check_section(key, config.get(key))
    for key in ("arms", "evaluations"):
        for name, section in config[key].items():
            if not isinstance(name, str) or not re.fullmatch(NAME, name):
                raise InputError(f"{name}: name an arm or an evaluation with lower-case letters, digits and _")
            check_section(f"{key}.{name}", section)
    if config.get("made_by") is not None:
        check_value("made_by", config["made_by"], rules.text())
    missing = not_made(config)
    if missing:
        raise InputError(f"{missing[0]}: no such file; make it by: {config['made_by']}")
    check_value("checkpoints", config["checkpoints"], rules.integer(1))
    if config["target"] not in ("small", "large"):
        raise InputError(f"target={config['target']}: must be one of: small, large")
    if len(config["seeds"]) < 2:
        raise InputError(f"seeds={config['seeds']}: give at least two seeds")
    for one in config["seeds"]:
        check_value("seeds", one, rules.seed())
        if config["seeds"].count(one) > 1:
            raise InputError(f"seeds={config['seeds']}: duplicate seed {one}")
    for measure in config["measures"]:
        if measure not in MEASURES:
            raise InputError(f"measures={measure}: must be of: {', '.join(MEASURES)}")
    for arm in config["against"]:
        if arm not in config["arms"]:
            raise InputError(f"against={arm}: no such arm")
    for script in ("save_attention", "data_augmentation", "train", "evaluate"):
        check_keys(script, script, config.get(script) or {})
    check_dataset(config)
    check_arms(config)
    for rule, needed in (config.get("resources") or {}).items():
        if rule not in RULES_WITH_RESOURCES:
            raise InputError(f"resources: {unknown_key(rule, RULES_WITH_RESOURCES)}")
        check_section(f"resources.{rule}", needed)
        for key in needed or {}:
            if key not in RESOURCES:
                raise InputError(f"resources.{rule}: {unknown_key(key, RESOURCES)}")
    for evaluation, options in config["evaluations"].items():
        check_keys(f"evaluations.{evaluation}", "evaluate", options or {})
        check_evaluation(config, evaluation)
    check_budget(config)


def check_section(key: str, section: object) -> None:
    if section is not None and not isinstance(section, dict):
        raise InputError(f"{key}={section}: must hold keys and values, or be null")


def not_made(config: dict) -> list[str]:
    """Those files that the table's `made_by` makes which are not there; none of a table that has no such command."""
    asked = [options or {} for options in config["evaluations"].values()]
    files = [config["dataset"], *(options.get(key) for options in asked for key in ("questions", "examples"))]
    return [file for file in files if file and config.get("made_by") and not Path(file).exists()]


def check_evaluation(config: dict, evaluation: str) -> None:
    """Raise InputError if the evaluation's keys do not go together, or its free questions can't be asked."""
    try:
        keys = settled(config, evaluation)
        if keys.people == 1:
            raise InputError("people=1: give at least two")
        if keys.questions and count_asked(keys) == 1:
            raise InputError(f"{keys.questions}: must ask about at least two paragraphs")
    except InputError as error:
        raise InputError(f"evaluations.{evaluation}: {error}") from None


def count_asked(keys: DictConfig) -> int:
    """The people, or the paragraphs, that an evaluation with these keys asks about."""
    if keys.questions:
        return len({question.name for question in questions_of(keys)[0]})
    return sum(1 for _ in itertools.islice(biography.read_texts(keys.dataset), keys.people))


def check_arms(config: dict) -> None:
    for arm, options in config["arms"].items():
        options = dict(options or {})
        own_training, _ = options.pop("train", {}), options.pop("epochs", None)
        if not isinstance(own_training, dict):
            raise InputError(f"arms.{arm}.train={own_training}: must hold keys and values")
        check_keys(f"arms.{arm}.train", "train", own_training)
        check_keys(f"arms.{arm}", "data_augmentation", options)
        merged = augmentation_of(config, arm)
        guide = merged.get("attn_weights")
        if guide is not None and guide not in DUMPS:
            raise InputError(f"arms.{arm}.attn_weights={guide}: must be one of: {', '.join(DUMPS)}")
        if not is_plain(config, arm):
            missing = [key for key in ("augment_type", "alpha", "multiply") if merged.get(key) is None]
            if missing:
                raise InputError(f"arms.{arm}: still needed: {', '.join(missing)}")
            try:
                check_guidance(merged)
            except InputError as error:
                raise InputError(f"arms.{arm}: {error}") from None


def check_dataset(config: dict) -> None:
    """Raise InputError if the dataset's first text can't be read; of a file that is missing Snakemake says so."""
    if Path(config["dataset"]).exists():
        next(biography.read(config["dataset"]), None)


def check_budget(config: dict) -> None:
    """Tokens, or epochs with the learning rates to choose among and the people to report."""
    tokens, epochs = ([key for key in kind if config.get(key) is not None] for kind in BUDGETS)
    if not tokens and "epochs" not in epochs:
        raise InputError(f"{config['table']}: still needed: tokens, or {', '.join(BUDGETS[1])}")
    if tokens and epochs:
        raise InputError(f"{epochs[0]}: leave it out, or tokens; a table's budget is in tokens or in epochs")
    if tokens:
        check_value("tokens", config["tokens"], rules.integer(1))
        for arm, options in config["arms"].items():
            if "epochs" in (options or {}):
                raise InputError(f"arms.{arm}.epochs: leave it out; the table's budget is in tokens")
        return
    missing = [key for key in BUDGETS[1] if key not in epochs]
    if missing:
        raise InputError(f"{config['table']}: still needed: {', '.join(missing)}")
    arms_epochs = {f"arms.{arm}.epochs": epochs_of(config, arm) for arm in config["arms"]}
    for key, epochs in ({"epochs": config["epochs"]} | arms_epochs).items():
        check_value(key, epochs, rules.integer(1))
        if epochs % config["checkpoints"]:
            raise InputError(
                f"checkpoints={config['checkpoints']}: must divide {key}={epochs}, so that each ends an epoch"
            )
    rates = config["learning_rates"]
    if not isinstance(rates, list) or not rates:
        raise InputError(f"learning_rates={rates}: must hold a list")
    for rate in rates:
        check_number("learning_rates", rate)
        if not 0 < rate < 1:
            raise InputError(f"learning_rates={rate}: must be above 0 and below 1")
        if rates.count(rate) > 1:
            raise InputError(f"learning_rates={rates}: duplicate {rate}")
    for arm in config["arms"]:
        if "trainer.learning_rate" in training_of(config, arm):
            raise InputError("trainer.learning_rate: leave it out; the table's learning_rates decide it")
    check_value("reported", config["reported"], rules.integer(1))
    if config["reported"] == 1:
        raise InputError("reported=1: give at least two")
    for evaluation in config["evaluations"]:
        count = count_asked(settled(config, evaluation))
        if config["reported"] >= count:
            about_people = asked_about(config, evaluation) == "people"
            asks = f"asks {count} people, of whom" if about_people else f"asks about {count} paragraphs, of which"
            which = f"evaluations.{evaluation} {asks} some must be left to choose on"
            raise InputError(f"reported={config['reported']}: {which}")


@functools.cache
def defaults_of(script: str) -> dict:
    """A script's keys and their values in its YAML; read once, since PyYAML is slow."""
    defaults = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / f"{script}.yaml"))
    del defaults["defaults"]  # Hydra's own
    return defaults


def check_keys(section: str, script: str, keys: dict) -> None:
    """Raise InputError at the first key that the script would refuse, now and not when its turn comes."""
    declared, listed = importlib.import_module(script).RULES, defaults_of(script)
    for key, value in keys.items():
        name, *argument = key.split(".")
        if name not in declared:
            raise InputError(f"{section}: {unknown_key(name, declared)}")
        if key in SET_BY_RULES[script]:
            raise InputError(f"{section}.{key}: leave it out; the table's other keys decide it")
        if isinstance(value, dict):
            inner = next(iter(value), "...")
            raise InputError(f"{section}.{key}: as on a command line, each with its dot: {key}.{inner}: ...")
        if not argument:
            check_value(f"{section}.{key}", value, declared[name])
        elif name in ARGUMENTS and argument[0] in listed[name]:
            if is_number(listed[name][argument[0]]):
                check_number(f"{section}.{key}", value)
        elif name in ARGUMENTS:
            # Slow to import, and most tables need nothing that the YAML does not list.
            module, kind = ARGUMENTS[name]
            without_fetched_kernels()
            kind = getattr(importlib.import_module(module), kind)
            inside = {argument[1]: value} if argument[1:] else value
            check_arguments(kind, f"{section}: {name}", {argument[0]: inside})


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_number(key: str, value: object) -> None:
    if not is_number(value):
        raise InputError(f"{key}={value}: must be a number (to YAML 1e-3 is text: 0.001, or 1.0e-3)")


def check_results(config: dict, results: Path, made: Path | None = None) -> None:
    """Raise InputError if results are there, or in `made` not added yet, that were made with settings different from
    the table's."""
    other: dict[str, set[str]] = {}
    found_records = read_study(results).records | (read_made(made) if made else {})
    shown = results / "keep_probabilities.json"
    if shown.is_file():
        found_records |= {shown.name: read_record(shown)}
    asked = {evaluation: resolved(config, evaluation) for evaluation in config["evaluations"]}
    for name in [shown.name, *runs(config)]:
        if name not in found_records:
            continue
        record, parts = found_records[name], name.split("/")
        if parts[-1] == "metrics.json":
            is_untrained = parts[0] == "untrained"
            needed = asked[parts[1]] | {"model": config["trained"]} if is_untrained else asked[parts[2]]
            # A key that is younger than the results was at its default.
            found = {key: record["config"].get(key, value) for key, value in needed.items()}
            found["prompts"] = RENAMED.get(found["prompts"], found["prompts"])
        else:
            needed = shown_by(config) if name == shown.name else settings_of(config, parts[0])
            needed = json.loads(json.dumps(needed))
            found = record.get("settings", {})
        keys = {key for key in found.keys() | needed.keys() if found.get(key) != needed.get(key)}
        if keys:
            run = "/".join(parts[: 1 if parts[0] == "untrained" else 2])
            other[run] = other.get(run, set()) | keys
    if other:
        keys = ", ".join(sorted(set().union(*other.values())))
        commands = [f"rm {shown}"] if other.pop(shown.name, None) else []
        if other:
            commands.append(f"python -m workflow.results forget {results.name} {' '.join(other)}")
        raise InputError(
            f"made with different {keys} from those the table has now; give your own table another `table:`, "
            f"or, to run these again: {' && '.join(commands)}"
        )


def resolved(config: dict, evaluation: str) -> dict:
    """All keys of evaluate.py for one of the table's evaluations, but for what differs from run to run."""
    keys = OmegaConf.to_container(settled(config, evaluation))
    return {key: value for key, value in keys.items() if key not in SET_BY_RULES["evaluate"]}


def settled(config: dict, evaluation: str) -> DictConfig:
    """All keys of evaluate.py for one of the table's evaluations, as the script makes them of its command line. A file
    of free questions need not be there: results can be read without it."""
    keys = OmegaConf.create(defaults_of("evaluate"))
    for key, value in asked_by(config, evaluation).items():
        OmegaConf.update(keys, key, value, force_add=True)
    check(keys, RULES | {"questions": RULES["examples"]})
    fill_defaults(keys)
    return keys
