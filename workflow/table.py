"""A table's YAML (conf/tables/): checked, and what follows from it."""

from utils.config import unknown_key
from utils.errors import InputError

NEEDED = (
    "table",
    "large",
    "small",
    "trained",
    "target",
    "dataset",
    "arms",
    "seeds",
    "tokens",
    "checkpoints",
    "evaluations",
    "measures",
    "against",
)

# Overrides of the scripts' keys, and the rules' resources.
OPTIONAL = ("save_attention", "data_augmentation", "train", "evaluate", "resources")

# What is reported: its name and unit, and the decimals that are shown.
MEASURES = {
    "exact_match": ("exact match, %", 1),
    "f1": ("F1, %", 1),
    "choice_accuracy": ("right choice, %", 1),
    "log_likelihood": ("log-likelihood", 2),
}

# What can guide an arm: the name of a dump, and whether each seed has one of its own.
DUMPS = {
    "attention_large": False,
    "attention_small": False,
    "difference": False,
    "difference_reversed": False,
    "log_ratio": False,
    "shuffled": True,
    "facts": True,
    "name_first": True,
}


def check(config: dict) -> None:
    """Raise InputError, in one line, where the table lacks something or says what nothing reads."""
    if "table" not in config:
        raise InputError("which table? snakemake --configfile conf/tables/NAME.yaml ...")
    for key in config:
        if key not in NEEDED + OPTIONAL:
            raise unknown_key(key, NEEDED + OPTIONAL)
    missing = [key for key in NEEDED if config.get(key) is None]
    if missing:
        raise InputError(f"{config['table']}: still needed: {', '.join(missing)}")
    if config["target"] not in ("small", "large"):
        raise InputError(f"target={config['target']}: must be one of: small, large")
    if len(config["seeds"]) < 2:
        raise InputError(f"seeds={config['seeds']}: two at least, or nothing tells chance from effect")
    for measure in config["measures"]:
        if measure not in MEASURES:
            raise InputError(f"measures={measure}: must be of: {', '.join(MEASURES)}")
    for arm in config["against"]:
        if arm not in config["arms"]:
            raise InputError(f"against={arm}: no such arm")
    for arm, options in config["arms"].items():
        guide = (options or {}).get("attn_weights")
        if guide is not None and guide not in DUMPS:
            raise InputError(f"arms.{arm}.attn_weights={guide}: must be one of: {', '.join(DUMPS)}")


def dump_of(config: dict, arm: str, seed: int | str) -> str | None:
    """The name of the dump that guides an arm, None for an arm without one."""
    guide = (config["arms"][arm] or {}).get("attn_weights")
    return f"{guide}-{seed}" if DUMPS.get(guide) else guide


def dumps_of(config: dict) -> list[str]:
    """The dumps of all arms, of the first seed."""
    found = (dump_of(config, arm, config["seeds"][0]) for arm in config["arms"])
    return sorted({dump for dump in found if dump})


def settings_of(config: dict, arm: str) -> dict:
    """All that an arm's training depends on, but for the seed and the files' content."""
    apart = ("arms", "seeds", "resources", "evaluate", "evaluations", "measures", "against")
    return {key: value for key, value in config.items() if key not in apart} | {"arm": config["arms"][arm]}


def asked_by(config: dict, evaluation: str) -> dict:
    """The keys of evaluate.py for one of the table's evaluations."""
    return {"dataset": config["dataset"]} | (config.get("evaluate") or {}) | (config["evaluations"][evaluation] or {})


def runs(config: dict) -> list[str]:
    """The files of a table, in results/<table>/, that its runs write."""
    parts = range(1, config["checkpoints"] + 1)
    evaluations = config["evaluations"]
    files = ["keep_probabilities.json", *(f"untrained/{evaluation}/metrics.json" for evaluation in evaluations)]
    for arm in config["arms"]:
        for seed in config["seeds"]:
            run = f"{arm}/seed-{seed}"
            files.append(f"{run}/run.json")
            files += [f"{run}/{evaluation}/{part}/metrics.json" for evaluation in evaluations for part in parts]
    return files
