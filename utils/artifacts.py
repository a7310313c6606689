"""Whole files or none; and the record of configuration, versions and commit beside each artifact."""

import contextlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from utils.errors import InputError

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pandas", "hydra-core")
REPOSITORY = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` only if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def check_writable(key: str, path: Path) -> None:
    """Raise InputError now, and not after hours of work, where `path` can't be written."""
    if path.is_dir():
        raise InputError(f"{key}: {path} is a folder; name a file")
    # Folders that are missing are not made here: other processes may be checking the same path.
    nearest = next(folder for folder in path.parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"{key}: {path} can't be written: {error.strerror}") from error


def write_json(path: Path, content: dict) -> None:
    with whole_file(path) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def record(config: dict) -> dict:
    """What made an artifact: its resolved configuration, the libraries' versions, this repository's commit."""
    return {"config": config, "versions": versions(), "commit": commit()}


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit() -> str | None:
    """The commit in full, with `-dirty` behind it where tracked files were changed; None outside a checkout."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
