"""Whole files or none; and the record of configuration, versions and commit beside each artifact."""

import contextlib
import csv
import json
import os
import platform
import stat
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
    # Cut, since `path` may have the longest name that the file system takes: 255 bytes, and a character has up to 4.
    aside = path.with_name(f".{path.name[:50]}.{os.getpid()}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def check_writable(key: str, *paths: Path) -> None:
    """Raise InputError now, and not after hours of work, where one of the paths can't be written."""
    for path in paths:
        try:
            if path.is_dir():
                raise InputError(f"{key}: {path} is a folder; name a file")
            # Folders that are missing are not made here: other processes may be checking the same path.
            nearest = next(folder for folder in path.parents if folder.exists())
            with tempfile.TemporaryFile(dir=nearest):
                pass
            owners = 0, nearest.stat().st_uid, path.stat().st_uid if path.exists() else os.geteuid()
            if nearest.stat().st_mode & stat.S_ISVTX and os.geteuid() not in owners:
                raise InputError(f"{key}: {path} is another user's, and so is its folder; name another file")
            for name in path.relative_to(nearest).parts:
                (nearest / name).exists()  # raises where the name is too long
        except OSError as error:
            raise InputError(f"{key}: {str(path)[:200]} can't be written: {error.strerror}") from error


def write_json(path: Path, content: dict) -> None:
    with whole_file(path) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: list[dict]) -> None:
    """The rows, whose keys are the columns; None is an empty cell."""
    # Before 3.11.9 Python leaves a lone carriage return unquoted, and readers end the row there.
    broken = any("\r" in str(cell) for row in rows for cell in row.values())
    with whole_file(path) as aside, open(aside, "w", newline="", encoding="utf-8") as opened:
        quoting = csv.QUOTE_ALL if broken else csv.QUOTE_MINIMAL
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator="\n", quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)


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
