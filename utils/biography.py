"""Tagged text: `<name>Ada Lovelace</name> was born on <date>...</date>`, its plain text and its fields."""

import csv
import itertools
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.errors import InputError

# A document can be longer than the 128 KiB that the csv module allows a field by default.
csv.field_size_limit(2**31 - 1)

# The biographies' own tags; any other that stands alone may well be part of the text.
TAG = re.compile(r"</?(name|date|city|university|major|company)>")

TAG_NAME = "[a-z_]+"

ANY_TAG = re.compile(rf"<(/?)({TAG_NAME})>")


def read_texts(path: str | Path) -> Iterator[str]:
    """Yield the column `text` of a CSV file, row by row, tags and all.

    Raises InputError that names the file (no such file, not UTF-8, no column `text`, no row at all) or
    the row as well (another width, a quotation mark too few, an empty text, half a pair of tags).
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a file")
    row = 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened, strict=True)
            if "text" not in (reader.fieldnames or []):
                found = ", ".join(reader.fieldnames or ["none"])
                raise InputError(f"{path}: no column 'text' (columns, separated by commas: {found})")
            if reader.fieldnames.count("text") > 1:
                raise InputError(f"{path}: two columns 'text'; keep the one that is meant")
            for row, cells in enumerate(reader, start=1):
                check_width(path, row, cells)
                plain = strip_tags(cells["text"])
                # A variant of which every token was dropped is blank, but not empty.
                if not plain:
                    raise InputError(f"{path}: row {row} has an empty text")
                if unpaired := TAG.search(plain):
                    raise InputError(f"{path}: row {row} has {unpaired[0]} without its other half")
                yield cells["text"]
            if row == 0:
                raise InputError(f"{path}: no rows")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, row, error) from error


def unreadable(path: str | Path, row: int, error: Exception) -> InputError:
    """row: the last that could be read of the CSV file, 0 for the header."""
    if isinstance(error, OSError):
        return InputError(f"{path}: can't be read: {error.strerror}")
    if isinstance(error, UnicodeDecodeError):
        return InputError(f"{path}: not a CSV file in UTF-8; save it as one ({error})")
    if '"' in str(error) or "unexpected end" in str(error):
        problem = "a quotation mark that is never closed, or not doubled within its text"
        return InputError(f"{path}: row {row + 1} has {problem}")
    return InputError(f"{path}: row {row + 1} can't be read as CSV: {error}")


def check_width(path: str | Path, row: int, cells: dict) -> None:
    """Raise InputError where a row, as csv.DictReader gives it, is wider or narrower than the header."""
    if None in cells or None in cells.values():
        raise InputError(f"{path}: row {row} has more or fewer fields than the header; quote texts with commas")


def pairs_of_tags(tagged: str) -> list[tuple[re.Match, re.Match]]:
    """Each `<tag>` with its `</tag>`, from the first on; a tag ends the first of its name that is still open."""
    pairs = []
    still_open: dict[str, deque[re.Match]] = defaultdict(deque)
    for tag in ANY_TAG.finditer(tagged):
        is_end, name = tag.groups()
        if not is_end:
            still_open[name].append(tag)
        elif still_open[name]:
            pairs.append((still_open[name].popleft(), tag))
    return sorted(pairs, key=lambda pair: pair[0].start())


def strip_tags(tagged: str) -> str:
    """The text without its `<tag>` ... `</tag>` pairs; what lies between them stays, as do tags without a partner."""
    kept, end = [], 0
    for tag in sorted(itertools.chain(*pairs_of_tags(tagged)), key=re.Match.start):
        kept.append(tagged[end : tag.start()])
        end = tag.end()
    return "".join([*kept, tagged[end:]])


def field_spans(tagged: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """The text without tags, and where in it each tag's content lies: {tag: (start, end)}, end exclusive.

    Of a tag that comes twice it is the first; of nested ones the outer.
    """
    pairs = pairs_of_tags(tagged)

    def place(index: int) -> int:
        return index - sum(tag.end() - tag.start() for tag in itertools.chain(*pairs) if tag.end() <= index)

    spans, outer_end = {}, 0
    for opening, closing in pairs:
        if opening.start() >= outer_end:
            outer_end = closing.end()
            if opening[2] not in spans:
                spans[opening[2]] = place(opening.end()), place(closing.start())
    return strip_tags(tagged), spans


def read_people(path: str | Path, asked: Iterable[str]) -> list[dict[str, str]]:
    """Each row's fields by tag, on one line each.

    Raises InputError that names a row that lacks `name` or a field that is asked about.
    """
    people = []
    for row, tagged in enumerate(read_texts(path), start=1):
        plain, spans = field_spans(tagged)
        # A prompt's examples stand on a line each, and an answer ends with its line.
        person = {tag: re.sub(r"\s*[\r\n]\s*", " ", plain[start:end].strip()) for tag, (start, end) in spans.items()}
        lacking = [tag for tag in ("name", *asked) if not person.get(tag)]
        if lacking:
            raise InputError(f"{path}: row {row} has no <{lacking[0]}>, which the prompts ask for")
        people.append(person)
    return people
