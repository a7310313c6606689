"""Whole files or none, one run at a time; and the record of configuration, versions and commit beside each artifact."""

import contextlib
import csv
import fcntl
import functools
import hashlib
import json
import os
import platform
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from utils.errors import InputError, one_line

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pandas", "hydra-core")
REPOSITORY = Path(__file__).resolve().parent.parent


class NotWritten(InputError):
    """A file that can't be written: a full disk, a folder that is read-only or gone."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body, which writes to `path`, into NotWritten."""
    try:
        yield
    except OSError as error:
        raise NotWritten(f"{str(path)[:200]}: can't be written: {error.strerror or one_line(error)}") from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` only if all went well.

    Raises NotWritten. What a killed run leaves there, the next one of that name writes over.
    """
    aside = hidden(path, "part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            aside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def recorded_file(path: Path, record: dict, record_path: Path | None = None) -> Iterator[Path]:
    """As `whole_file`, with a record beside (None: the same name, .json) that bears the file's sha256.

    The body may still add to the record. A kill at any moment leaves the earlier two, the new two, or a file without
    a record: never a file with the record of another.
    """
    record_path = record_path or path.with_suffix(".json")
    with whole_file(record_path) as record_aside, whole_file(path) as aside:
        yield aside
        record_aside.write_text(as_json(record | {"sha256": file_hash(aside)}), encoding="utf-8")
        record_path.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def hidden(path: Path, suffix: str) -> Path:
    """A name beside `path` that listings leave out, for what is not finished."""
    name = path.name
    # A name has up to 255 bytes, and a character up to 4.
    if len(os.fsencode(name)) > 200:
        name = f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return path.with_name(f".{name}.{suffix}")


@contextlib.contextmanager
def claimed(key: str, path: Path, *others: Path, **inputs: str | None) -> Iterator[Path]:
    """Yield a hidden folder beside `path`, which is this run's alone until it ends; for what it has to keep.

    The folder goes when the run has ended well, or has kept nothing. Of several processes the first claims it for all.
    Raises InputError now, not after hours of work, if another run is writing `path`, or if `path` or one of `others`
    can't be written, is also an input (see `check_apart`), or is named like a record and is something else.
    """
    check_apart(key, [path, *others], **inputs)
    check_writable(key, path, *others)
    check_records(key, *others)
    folder = hidden(path, "kept")
    if not is_first_process():
        yield folder
        return
    missing = [parent for parent in folder.parents if not parent.exists()]
    lock = _locked(key, path, folder / LOCK)
    kept_before = leftovers(folder)
    try:
        yield folder
        _remove(leftovers(folder))
    except NotWritten as error:
        if leftovers(folder):
            raise NotWritten(f"{error}; what was computed is kept; resume=true continues from there") from error
        raise
    except InputError:
        # Of bad input nothing is worth keeping.
        if not kept_before:
            _remove(leftovers(folder))
        raise
    finally:
        with contextlib.suppress(OSError):
            if not leftovers(folder):
                # Removed before it is unlocked, so that no other run waits for a file that is gone.
                (folder / LOCK).unlink()
                folder.rmdir()
                for parent in missing:
                    parent.rmdir()
        os.close(lock)


LOCK = "lock"


def is_first_process() -> bool:
    """Of those that torchrun started; known without torch."""
    return os.environ.get("RANK", "0") == "0"


def leftovers(folder: Path) -> list[Path]:
    """What a run keeps in the folder that it has claimed."""
    return [path for path in folder.glob("*") if path.name != LOCK]


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _locked(key: str, path: Path, place: Path) -> int:
    """The file at `place`, open and locked until it is closed or the process dies, however it dies."""
    for attempt in range(100):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(place, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            continue  # The run that had it has just ended, and has taken the folder away.
        except OSError as error:
            raise InputError(f"{key}: {str(path)[:200]} can't be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            if attempt < 30:  # A run that was killed may have a child that dies a moment later.
                time.sleep(0.01)
                continue
            break
        except OSError as error:  # such as a network's file system without locks
            print(
                f"{path.parent}: file locks don't work there ({error.strerror}); don't start two runs of the same name"
            )
            return lock
        # What was locked may be what the other run has just taken away.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), place.stat()):
                return lock
        os.close(lock)
    raise InputError(f"{key}: another run is writing {path}; wait for it to finish, or use another name")


def real_path(path: str | Path) -> str:
    """Without links; of a loop of links Path.resolve makes an error of its own."""
    return os.path.realpath(path)


def check_apart(key: str, outputs: Iterable[Path], **inputs: str | None) -> None:
    """Raise InputError if one of the outputs, which `key` names, is a file that the run reads.

    inputs: the keys that name what it reads, and what they name. The record beside an artifact is an output as well: of
    save_name=texts it is texts.json.
    """
    # If two keys name the same file, the first is reported.
    read = {real_path(name): input_key for input_key, name in reversed(inputs.items()) if name is not None}
    for output in outputs:
        if input_key := read.get(real_path(output)):
            raise InputError(f"{key}: it would overwrite {output}, which {input_key}=... reads; give another name")


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
                raise InputError(f"{key}: {path} and its folder belong to another user; name another file")
            for name in path.relative_to(nearest).parts:
                (nearest / name).exists()  # raises where the name is too long
        except OSError as error:
            raise InputError(f"{key}: {str(path)[:200]} can't be written: {error.strerror}") from error


def check_records(key: str, *paths: Path) -> None:
    """Raise InputError if one of the paths ends in .json and is there, but is no record: of model=folder
    save_name=folder/config it would be the model's own configuration."""
    for path in paths:
        if path.suffix != ".json" or not path.exists():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = None
        if not isinstance(content, dict) or not {"config", "versions"} <= content.keys():
            raise InputError(
                f"{key}: it would overwrite {path}, which is not a record of an earlier run; give another name"
            )


def write_json(path: Path, content: dict) -> None:
    with whole_file(path) as aside:
        aside.write_text(as_json(content), encoding="utf-8")


def as_json(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write_csv(path: Path, rows: list[dict]) -> None:
    """The rows, whose keys are the columns; None is an empty cell."""
    with whole_file(path) as aside:
        fill_csv(aside, rows)


def fill_csv(path: Path, rows: list[dict]) -> None:
    """As `write_csv`, into a path that `whole_file` or `recorded_file` gave."""
    # Before 3.11.9 Python leaves a lone carriage return unquoted, and readers end the row there.
    broken = any("\r" in str(cell) for row in rows for cell in row.values())
    with open(path, "w", newline="", encoding="utf-8") as opened:
        quoting = csv.QUOTE_ALL if broken else csv.QUOTE_MINIMAL
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator="\n", quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)


def record(config: dict) -> dict:
    """What made an artifact: its resolved configuration, the libraries' versions, this repository's commit."""
    return {"config": config, "versions": versions(), "commit": commit()}


@functools.cache
def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@functools.cache
def code_hash() -> str:
    """Of the five scripts and what they share, as they are now."""
    digest = hashlib.sha256()
    for path in sorted([*REPOSITORY.glob("*.py"), *REPOSITORY.glob("utils/*.py")]):
        digest.update(f"{path.name} ".encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache  # of when the run began, however long it takes
def commit() -> str | None:
    """The commit in full, with `-dirty` behind it where tracked files were changed; None outside a checkout."""
    if not (REPOSITORY / ".git").exists():
        return None  # unpacked within another's checkout
    # Without optional locks: a run that is killed just then would leave the repository locked.
    command = ["git", "--no-optional-locks", "-C", str(REPOSITORY)]
    command += ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    # In a hook, say, these name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    head = next(line.split()[-1] for line in lines if line.startswith("# branch.oid "))
    return head + ("-dirty" if any(not line.startswith("#") for line in lines) else "")
