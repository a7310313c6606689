"""The error for bad input, which the user can correct."""

import errno


class InputError(ValueError):
    """Bad input: a key, file or row that the message names, with what to do about it.

    The scripts print it as one line and exit with code 2 (`utils.script.script`).
    """


def one_line(error: BaseException) -> str:
    """A library's message on one line, of 300 characters at most; without a message, the kind of error."""
    lines = (line.strip() for line in str(error).splitlines())
    return "; ".join(line for line in lines if line)[:300] or type(error).__name__


def unwritten(error: BaseException) -> str | None:
    """What to say where standard output has lost its reader, or it or a file takes no more; None for other errors."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return f"standard output can't be written: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'standard output or a file'} can't be written: {error.strerror}"
    return None


def printable(text: str, most: int = 0) -> str:
    """The text on one line, escaping what a terminal would obey; where that is longer than `most`, its two ends."""
    half = most // 2
    if most and len(text) > most:  # a text of millions is not escaped as a whole
        text = f"{text[:half]}…{text[-half:]}"
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return f"{text[: half - 1]}…{text[-half:]}" if most and len(text) > most else text
