"""Texts, one after the other, from any file that holds some; and the CSV file that stage 3 makes of them.

    .csv      the column `text`, or the one that is named; every row has as many fields as the header
    .jsonl    one object a line, with such a key
    .parquet  with such a column, of strings
    .json     SQuAD's: a list of objects with `context`, or `data`, a list of objects with `paragraphs`, which are lists
              of objects with `context`. A paragraph that comes again is left out: exports repeat it for each question
    .txt      one text, white space at its two ends left out
    a folder  its .txt files, in the order of their names; those of folders within it are not read

All are UTF-8, with or without a byte order mark. No file is held as a whole: of a CSV or .jsonl file one row is, of
Parquet a group of rows' column, of SQuAD's JSON one article and a hash, some 100 bytes, of each paragraph.

The datasets library would read most of these. Measured on 100,000 rows of 200 characters, streaming, it took 2.2 s for
Parquet and 0.85 s for .jsonl, where pyarrow took 0.2 s and Python's json 0.2 s. It reads the nested JSON as a whole,
imports pandas (0.8 s in all), reads the text "NA" or "null" of a CSV file as missing, and does not name a row that it
can't read.
"""

import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from utils.errors import InputError, one_line, printable

# A document can be longer than the 128 KiB that the csv module allows a field by default.
csv.field_size_limit(2**31 - 1)

READ_CHARACTERS = 2**16
PARQUET_ROWS = 1000

# What may stand behind a JSON value.
FOLLOWERS = tuple(",:]} \t\r\n")

# What Python's json raises: the first also of a number of thousands of digits.
NOT_JSON = (ValueError, RecursionError)

NOT_SQUAD = (
    "not SQuAD's JSON, which is a list of objects with 'context', or has 'data', a list of objects with 'paragraphs'; "
    "other texts go into a .jsonl file, one object a line"
)


def read(path: str | Path, column: str = "text") -> Iterator[tuple[str, str]]:
    """Yield where each text stands ("texts.csv: row 3", "folder/three.txt"), and the text.

    column: of a CSV, .jsonl or Parquet file. Raises InputError that names the file and, where there is one, the row: no
    such file, none of the kinds above, not UTF-8, no such column, a cell without text, an empty text, no text at all.
    """
    path = Path(path)
    place = ""
    try:
        for place, text in _reader(path, column):
            if not isinstance(text, str):
                raise InputError(f"{place}: {column!r} is {json.dumps(text, default=str)[:50]}, not text")
            if not text:
                raise InputError(f"{place} has an empty text")
            # JSON can spell half of a character that UTF-16 has in two, which no file in UTF-8 can hold.
            if not text.isascii() and re.search("[\ud800-\udfff]", text):
                raise InputError(f"{place} contains a lone surrogate (half of a UTF-16 pair)")
            yield place, text
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path}: no such file") from error
    except OSError as error:
        raise InputError(f"{error.filename or path}: can't be read: {error.strerror or one_line(error)}") from error
    if not place:
        raise InputError(f"{path}: no rows")


def _reader(path: Path, column: str) -> Iterator[tuple[str, object]]:
    if path.is_dir():
        kind = "a folder"
    elif path.exists() and not path.is_file():
        raise InputError(f"{path}: not a file")
    else:
        kind = path.suffix.lower()
    if kind not in READERS:
        known = ", ".join(READERS)
        raise InputError(f"{path}: unknown kind of file; texts are read from {known}")
    if column != "text" and kind not in WITH_COLUMNS:
        raise InputError(f"text_column={column}: {path} has no columns; leave it out")
    return READERS[kind](path, column)


def _csv(path: Path, column: str) -> Iterator[tuple[str, str]]:
    try:
        for row, cells in csv_records(
            path, lambda names: check_column(path, column, names, "columns, separated by commas")
        ):
            yield f"{path}: row {row}", cells[column]
    except UnicodeDecodeError as error:
        raise not_utf_8(path, error) from error


def csv_records(path: str | Path, check_header: Callable[[list[str]], None]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row, its cells by column), from row 1 on, of a CSV file whose columns' names `check_header` has accepted.

    Raises InputError, naming the row, if it can't be read as CSV, or is wider or narrower than the header. A
    UnicodeDecodeError is left to the caller.
    """
    place = "the header"
    try:
        with open(path, newline="", encoding="utf-8-sig") as opened:
            # Blank lines above the header, as below it, say nothing.
            reader = csv.DictReader(itertools.dropwhile(lambda line: not line.strip(), opened), strict=True)
            check_header(reader.fieldnames or [])
            place = "row 1"
            for row, cells in enumerate(reader, start=1):
                if None in cells or None in cells.values():
                    raise InputError(
                        f"{path}: {place} has more or fewer fields than the header; put quotes around texts with commas"
                    )
                yield row, cells
                place = f"row {row + 1}"
    except csv.Error as error:
        if '"' in str(error) or "unexpected end" in str(error):
            problem = "an unclosed quote, or a quote inside a field that is not doubled"
            raise InputError(f"{path}: {place} has {problem}") from error
        raise InputError(f"{path}: {place} can't be read as CSV: {one_line(error)}") from error


def not_utf_8(path: str | Path, error: UnicodeDecodeError) -> InputError:
    return InputError(f"{path}: not a UTF-8 CSV file; save it as UTF-8 ({one_line(error)})")


ANOTHER_COLUMN = "; in stages 1 to 4 text_column=... names another"


def check_column(path: str | Path, column: str, names: list[str], called: str = "columns") -> None:
    """Raise InputError unless one column, and no more than one, has this name."""
    if not names:
        raise InputError(f"{path}: the file is empty")
    check_commas(path, column, names)
    if column not in names:
        raise InputError(f"{path}: no column {column!r} ({called}: {shown(names)}){ANOTHER_COLUMN}")
    if names.count(column) > 1:
        raise InputError(f"{path}: two columns {column!r}; keep one of them")


def check_commas(path: str | Path, column: str, names: list[str]) -> None:
    """Raise InputError if `column` is in the header, but a sign other than a comma separates the columns."""
    for sign, called in ((";", "semicolons"), ("\t", "tabs")):
        if column not in names and len(names) == 1 and column in names[0].split(sign):
            raise InputError(f"{path}: its columns are separated by {called}; save it with commas")


def on_one_line(text: str) -> str:
    """With a space for line breaks and the white space around them: an example's answer stands on a line, and a model's
    answer ends with its line."""
    return re.sub(r"\s*[\r\n]\s*", " ", text)


def shown(names: Iterable[str]) -> str:
    """Names of columns or keys for a message: a file without a header has a text in their place."""
    return printable(", ".join(map(str, names)), 200) or "none"


def _jsonl(path: Path, column: str) -> Iterator[tuple[str, object]]:
    """Rows are lines; empty ones are passed over."""
    with open(path, "rb") as opened:
        for number, line in enumerate(opened, start=1):
            place = f"{path}: line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not text:
                    continue
                cells = json.loads(text)
            except UnicodeDecodeError as error:
                raise InputError(f"{place} is not UTF-8; save the file as UTF-8 ({one_line(error)})") from error
            except NOT_JSON as error:
                raise InputError(
                    f"{place} is not JSON: {one_line(error)}; a .jsonl file has one object per line"
                ) from error
            if not isinstance(cells, dict):
                raise InputError(f"{place} is not a JSON object; a .jsonl file has one per line")
            if column not in cells:
                raise InputError(f"{place} has no {column!r} (keys: {shown(cells)}){ANOTHER_COLUMN}")
            yield place, cells[column]


def _parquet(path: Path, column: str) -> Iterator[tuple[str, object]]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    with open(path, "rb") as opened:
        try:
            found = pyarrow.parquet.ParquetFile(opened)
            check_column(path, column, found.schema_arrow.names)
            for batch in found.iter_batches(PARQUET_ROWS, columns=[column]):
                for text in batch.column(0):
                    row += 1
                    yield f"{path}: row {row}", text.as_py()
        except UnicodeDecodeError as error:  # Parquet does not check what it takes for text
            raise InputError(f"{path}: row {row} is not UTF-8; save the file as UTF-8 ({one_line(error)})") from error
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path}: can't be read as Parquet: {one_line(error)}") from error


def _txt(path: Path, column: str) -> Iterator[tuple[str, str]]:
    yield str(path), _whole(path)


def _folder(path: Path, column: str) -> Iterator[tuple[str, str]]:
    named = (file for file in path.iterdir() if file.suffix.lower() == ".txt" and not file.name.startswith("."))
    files = sorted(file for file in named if not file.is_dir())
    if not files:
        raise InputError(f"{path}: the folder holds no .txt file; name the file of texts in it, if there is one")
    for file in files:
        # A link that leads nowhere is an error, not a text less.
        if file.exists() and not file.is_file():
            raise InputError(f"{file}: not a file")
        yield str(file), _whole(file)


def _whole(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save it as UTF-8 ({one_line(error)})") from error


def _squad(path: Path, column: str) -> Iterator[tuple[str, str]]:
    met = set()
    for number, entry in enumerate(_entries(path), start=1):
        paragraphs = entry.get("paragraphs", [entry]) if isinstance(entry, dict) else None
        for paragraph in paragraphs if isinstance(paragraphs, list) else [None]:
            text = paragraph.get("context") if isinstance(paragraph, dict) else None
            if not isinstance(text, str):
                raise InputError(f"{path}: entry {number} has no text 'context': {NOT_SQUAD}")
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if digest not in met:
                met.add(digest)
                yield f"{path}: row {len(met)}", text


def _entries(path: Path) -> Iterator[object]:
    """The objects of SQuAD's list, one by one: json.load would take several times the file's size."""
    try:
        with open(path, encoding="utf-8-sig") as opened:
            found = _Json(opened)
            is_object = found.takes("{")
            if is_object:
                while found.value() != "data":
                    found.must_take(":")
                    found.value()
                    found.must_take(",")
                found.must_take(":")
            found.must_take("[")
            while not found.takes("]"):
                yield found.value()
                if not found.takes(","):
                    found.must_take("]")
                    break
            # What stands behind may be the rest of the texts, as where two files were put together.
            if is_object:
                while found.takes(","):
                    found.value()
                    found.must_take(":")
                    found.value()
                found.must_take("}")
            found.must_end()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; save it as UTF-8 ({one_line(error)})") from error
    except NOT_JSON as error:
        raise InputError(f"{path}: not JSON, or {NOT_SQUAD} ({one_line(error)})") from error


class _Json:
    """A JSON file, value by value, of which no more is held than twice the value that is read."""

    def __init__(self, opened: io.TextIOBase):
        self.opened, self.held, self.at = opened, "", 0
        self.decode = json.JSONDecoder().raw_decode

    def more(self) -> bool:
        """Whether more could be read. It is as much as is held, so that a long value is not begun too often."""
        read = self.opened.read(max(READ_CHARACTERS, len(self.held) - self.at))
        self.held, self.at = self.held[self.at :] + read, 0
        return bool(read)

    def takes(self, sign: str) -> bool:
        """Pass over white space and, if it is next, the sign; whether it was."""
        while (self.at == len(self.held) and self.more()) or self.held[self.at : self.at + 1].isspace():
            self.at += self.held[self.at : self.at + 1].isspace()
        found = self.held.startswith(sign, self.at)
        self.at += len(sign) * found
        return found

    def must_take(self, sign: str) -> None:
        if not self.takes(sign):
            raise json.JSONDecodeError(f"{sign!r} expected", self.held, self.at)

    def must_end(self) -> None:
        self.takes("")
        if self.at < len(self.held):
            raise json.JSONDecodeError("extra data", self.held, self.at)

    def value(self) -> object:
        self.takes("")
        while True:
            try:
                value, end = self.decode(self.held, self.at)
            except json.JSONDecodeError:
                if not self.more():
                    raise
                continue
            # Of a number the rest may not be held yet: of 1.5 the "1" or "1." alone.
            if self.held[end : end + 1] in FOLLOWERS or not self.more():
                self.at = end
                return value


READERS: dict[str, Callable[[Path, str], Iterator[tuple[str, object]]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".json": _squad,
    ".txt": _txt,
    "a folder": _folder,
}
WITH_COLUMNS = (".csv", ".jsonl", ".parquet")


def csv_rows(texts: Iterable[str], header: bool) -> bytes:
    """Rows of a CSV file with the one column `text`, every field quoted; behind the header, if it is to stand there."""
    rows = io.StringIO(newline="")
    writer = csv.writer(rows, quoting=csv.QUOTE_ALL, lineterminator="\n")
    if header:
        writer.writerow(["text"])
    writer.writerows([text] for text in texts)
    return rows.getvalue().encode("utf-8")


def chunks(texts: Iterable, characters: int, length: Callable[[object], int] = len) -> Iterator[tuple[int, list]]:
    """Yield each chunk's first text's number, from 0, and its texts; a text of more characters is a chunk by itself."""
    first, chunk, held = 0, [], 0
    for text in texts:
        if chunk and held + length(text) > characters:
            yield first, chunk
            first, chunk, held = first + len(chunk), [], 0
        chunk.append(text)
        held += length(text)
    if chunk:
        yield first, chunk
