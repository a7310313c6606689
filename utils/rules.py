"""Rules for the values of a script's YAML: what each makes of a key's value, or what is wrong with it."""

import math
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

Rule = Callable[[object], object]
"""Takes a key's value and returns what the script gets; raises ValueError that says what is wrong ("must be ...")."""


def text() -> Rule:
    def rule(value):
        if isinstance(value, (int, float)):
            raise ValueError(f"must be text; quote it: \"key='{value}'\"")
        if not isinstance(value, str) or not value:
            raise ValueError("must be a name")
        try:
            value.encode()
        except UnicodeEncodeError:  # a file's name may be any bytes, and no record of a run could hold it
            raise ValueError("must be UTF-8; rename a file whose name is not") from None
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
    shown = ", ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices)
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
    """Whether there is such a place; `kind` is stat.S_ISREG for a file, stat.S_ISDIR for a folder. Raises
    PermissionError where this user may not know."""
    try:
        return kind(Path(plain_path(value)).stat().st_mode)
    except PermissionError:
        raise
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
            raise ValueError("permission denied")
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
        checkpoints = checkpoints_in(value)
        for inside in checkpoints:
            try:
                model()(str(inside))
            except ValueError as error:
                raise ValueError(f"{inside.name}: {error}") from error
        if not checkpoints and {path.name for path in Path(plain_path(value)).glob("*.json")} == {"run.json"}:
            raise ValueError("it holds no checkpoint: train.py has saved none yet, or had trainer.save_strategy=no")
        return plain_path(value) if checkpoints else model()(value)

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


def device_map(value: object) -> object:
    """As transformers takes it: a device's name or number, the name of a way to share, or a part's device by name."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if "meta" in (value.values() if isinstance(value, DictConfig) else [value]):
        raise ValueError("torch's meta device holds no weights")
    return value if is_number or isinstance(value, DictConfig) else text()(value)


def optional(rule: Rule) -> Rule:
    return lambda value: None if value is None else rule(value)
