"""What a rule's script prints, in the rule's log."""

import contextlib
import io
import sys
import traceback
from collections.abc import Iterator
from typing import TextIO

from utils.errors import InputError


class Copied(io.TextIOBase):
    """A stream whose text goes into another as well."""

    def __init__(self, stream: TextIO, copy: TextIO) -> None:
        self.streams = (stream, copy)

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
            stream.flush()
        return len(text)


@contextlib.contextmanager
def logged(path: str) -> Iterator[None]:
    """What the block prints goes into the file as well, and so does its error, which ends the process: of bad input one
    line and exit code 2, of any other a traceback and 1."""
    with (
        open(path, "w", encoding="utf-8") as log,
        contextlib.redirect_stdout(Copied(sys.stdout, log)),
        contextlib.redirect_stderr(Copied(sys.stderr, log)),
    ):
        try:
            yield
        except InputError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
