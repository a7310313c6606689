"""The error for bad input, which the user can correct."""

import difflib
import errno
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a key, file or row that the message names, with what to do about it.

    The scripts print it as one line and exit with code 2 (`utils.script.script`).
    """


def unknown_key(key: str, known: Iterable[str], inner: Iterable[str] = ()) -> InputError:
    """inner: the keys of sub-trees, which are easily given without the tree's name."""
    if key.split(".")[0] in known and "." in key:
        close = difflib.get_close_matches(key, inner, n=1, cutoff=0.9)
        hint = f"did you mean {close[0]}?" if close else "check the spelling."
        return InputError(f"unknown key {key}: {hint} To add a key that the YAML does not list: +{key}=...")
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
        hint = f"the keys are: {', '.join(known)}" if len(known) <= 20 else "the library has no such argument"
    return InputError(f"unknown key {key}: {hint}")


def one_line(error: BaseException) -> str:
    """A library's message on one line, of 300 characters at most; without a message, the kind of error."""
    lines = (line.strip() for line in str(error).splitlines())
    return "; ".join(line for line in lines if line)[:300] or type(error).__name__


def unwritten(error: BaseException) -> str | None:
    """The message if standard output has lost its reader, or it or a file can't grow; None for other errors."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return f"standard output can't be written: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'standard output or a file'} can't be written: {error.strerror}"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch's allocator for a GPU or the one for a processor, or CUDA found no memory; known without
    torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(said in str(error) for said in ("can't allocate memory", "out of memory", "ALLOC_FAILED"))


def printable(text: str, most: int = 0) -> str:
    """The text on one line, escaping what a terminal would obey; where that is longer than `most`, its two ends."""
    half = most // 2
    if most and len(text) > most:  # a text of millions is not escaped as a whole
        text = f"{text[:half]}…{text[-half:]}"
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return f"{text[: half - 1]}…{text[-half:]}" if most and len(text) > most else text
