"""What follows from a table's YAML (conf/tables/)."""

import itertools
from pathlib import Path

from utils.next_stage import literal
from utils.rules import plain_path
from workflow.results import asked_at, read_study

# What a rule may use, where the table's `resources` say nothing: megabytes, minutes, GPUs, threads, and processes that
# share its work by torchrun.
RESOURCES = {"mem_mb": 4000, "runtime": 60, "gpu": 0, "threads": 2, "processes": 1}

# What is reported: its name and unit, and the decimals that are shown.
MEASURES = {
    "exact_match": ("exact match, %", 1),
    "f1": ("F1, %", 1),
    "choice_accuracy": ("right choice, %", 1),
    "log_likelihood": ("log-likelihood", 2),
}

# The paper's Tables 1 to 3, from 0 to 1.
PUBLISHED = Path(__file__).resolve().parent / "published.csv"

# Of an arm or an evaluation: part of files' names, which the rules take apart again.
NAME = "[a-z0-9_]+"

# The keys of an arm that are not data_augmentation.py's: of train.py, and its own number of epochs.
TRAINING_KEYS = ("train", "epochs")

# What can guide an arm: the name of a dump, and whether each seed has one of its own.
DUMPS = {
    "attention_large": False,
    "attention_small": False,
    "difference": False,
    "difference_reversed": False,
    "difference_before_fields": False,
    "log_ratio": False,
    "shuffled": True,
    "facts": True,
    "name_first": True,
}


def on_command_line(key: str, value: object) -> str:
    """A key of a script and its value as Hydra reads them; ++ sets a key whether its YAML lists it or not."""
    return f"++{key}={literal(value)}"


def plain_paths(config: dict) -> dict:
    """The table with one spelling of each of its files and folders (see utils.rules.plain_path)."""
    keys = ("large", "small", "trained", "dataset")
    return config | {key: plain_path(config[key]) for key in keys if isinstance(config.get(key), str)}


def dump_of(config: dict, arm: str, seed: int | str) -> str | None:
    """The name of the dump that guides an arm, None for an arm without one."""
    guide = augmentation_of(config, arm).get("attn_weights")
    return f"{guide}-{seed}" if DUMPS.get(guide) else guide


def dumps_of(config: dict) -> list[str]:
    """The dumps of all arms, of the first seed."""
    found = (dump_of(config, arm, config["seeds"][0]) for arm in config["arms"])
    return sorted({dump for dump in found if dump})


def settings_of(config: dict, arm: str) -> dict:
    """All that an arm's training depends on, but for the seed, the learning rate where the table searches over several,
    and the files' content."""
    apart = ("arms", "seeds", "learning_rates", "reported", "resources")
    apart += ("evaluate", "evaluations", "measures", "against", "made_by")
    settings = {key: value for key, value in config.items() if key not in apart} | {"arm": config["arms"][arm]}
    if config.get("epochs"):
        settings["epochs"] = epochs_of(config, arm)
    processes = needs(config, "train")["processes"]
    # Each has a batch of its own.
    return settings if processes == 1 else settings | {"processes": processes}


def shown_by(config: dict) -> dict:
    """All that the picture of keep-probabilities depends on, but for the files' content."""
    keys = ("large", "small", "trained", "target", "dataset", "arms", "save_attention", "data_augmentation")
    return {key: config.get(key) for key in keys} | {"seed": config["seeds"][0]}


def needs(config: dict, rule: str) -> dict:
    """What a rule may use: the table's `resources`, and RESOURCES for what they leave out. attention_small is the rule
    attention for the small model: what it leaves out is as for both."""
    resources = config.get("resources") or {}
    return RESOURCES | (resources.get(rule.partition("_")[0]) or {}) | (resources.get(rule) or {})


def is_plain(config: dict, arm: str) -> bool:
    """Whether an arm's texts stay untouched."""
    keys = config["arms"][arm]
    # An arm without keys of its own, {}, has those of the table's `data_augmentation`.
    return keys is None or (bool(keys) and set(keys) <= set(TRAINING_KEYS))


def augmentation_of(config: dict, arm: str) -> dict:
    """The keys of data_augmentation.py for an arm; none where its texts stay untouched."""
    if is_plain(config, arm):
        return {}
    own = {key: value for key, value in config["arms"][arm].items() if key not in TRAINING_KEYS}
    return (config.get("data_augmentation") or {}) | own


def training_of(config: dict, arm: str) -> dict:
    """The keys of train.py for an arm: the table's, and its own."""
    return (config.get("train") or {}) | ((config["arms"][arm] or {}).get("train") or {})


def epochs_of(config: dict, arm: str) -> int:
    """The epochs of an arm, in a table whose budget is in epochs: the table's, or its own."""
    return (config["arms"][arm] or {}).get("epochs", config["epochs"])


def asked_by(config: dict, evaluation: str) -> dict:
    """The keys of evaluate.py for one of the table's evaluations: about the dataset's people, or free questions."""
    asked = (config.get("evaluate") or {}) | (config["evaluations"][evaluation] or {})
    return asked if asked.get("questions") else {"dataset": config["dataset"]} | asked


def asked_about(config: dict, evaluation: str) -> str:
    """What an evaluation's questions share by name: people, or the paragraphs of free questions."""
    return "paragraphs" if asked_by(config, evaluation).get("questions") else "people"


def measured(config: dict, results: Path) -> list[tuple[str, str]]:
    """Each evaluation with each of the table's measures that it has: without choices, no choice_accuracy."""

    def means(evaluation: str) -> dict:
        return read_study(results).records[f"untrained/{evaluation}/metrics.json"]["average"]

    return [
        (evaluation, measure)
        for evaluation in config["evaluations"]
        for measure in config["measures"]
        if means(evaluation)[measure] is not None
    ]


def rates_of(config: dict) -> list[float | None]:
    """The learning rates that each arm and seed is trained with; None is the one of the table's `train`."""
    return config.get("learning_rates") or [None]


def run_of(arm: str, seed: int, rate: float | None) -> str:
    """The name of a run."""
    return f"{arm}/seed-{seed}" + ("" if rate is None else f"-rate-{rate}")


def runs(config: dict) -> list[str]:
    """The records of a table's runs, by name (see workflow/results.py)."""
    parts = range(1, config["checkpoints"] + 1)
    evaluations = config["evaluations"]
    files = [f"untrained/{evaluation}/metrics.json" for evaluation in evaluations]
    for arm, seed, rate in itertools.product(config["arms"], config["seeds"], rates_of(config)):
        run = run_of(arm, seed, rate)
        files.append(f"{run}/run.json")
        files += [f"{asked_at(run, evaluation, part)}/metrics.json" for evaluation in evaluations for part in parts]
    return files
