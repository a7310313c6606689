"""The attention dump: written, read safely, matched to texts.

A dump `X` is the file `X.pkl`: a pickled dict (`pickle.load` reads it) of plain containers, strings, numbers and bytes,

    version      2
    model        the model's name (of a difference: both names)
    tokenizer    the tokenizer's fingerprint (see utils.tokenizer.fingerprint)
    settings     what changes the values: include_self, prepend_bos, queries, layers, dtype, ...; where a text was cut,
                 window and stride (see utils.windows)
    text_sha256  for each text, in the dataset's order: of the text without tags, UTF-8, hexadecimal
    tokens       for each text: how many of its tokens have characters in it
    values       bytes, all texts' tokens, concatenated: float32, little-endian
    offsets      bytes: int32, little-endian, of each token its characters in its text: start, end (exclusive)
    checksum     sha256, hexadecimal, of all of the above (see `checksum`)

It is written piece by piece. Its file is mapped into memory, not read: what is looked at is let go again piece by piece
(`Dump.let_go`), so that some 250 bytes for each text stay, and of a difference 4 for each token (benchmarks/README.md).

It is read without unpickling, and no name is admitted in it (see utils.plain_pickle): nothing in it can run. Two other
files are read in the same way, with the names of numpy's arrays: dumps of version 1, whose `rows` are dicts of
`text_sha256`, `values` (array [n]) and `offsets` (array [n, 2]), without a checksum; and a bare list of arrays, one a
text, as upstream tools write it (see `read`).
"""

import functools
import hashlib
import json
import mmap
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from utils import plain_pickle
from utils.artifacts import recorded_file, whole_file, writing
from utils.errors import InputError, printable
from utils.plain_pickle import Array, NameRefused, Refused, Room

VERSION = 2
KEYS = ("version", "model", "tokenizer", "settings", "text_sha256", "tokens", "values", "offsets", "checksum")
KEYS_1 = ("version", "model", "tokenizer", "settings", "rows")

FLOAT_MAX = float(np.finfo(np.float32).max)
DEEPEST = 10  # how deep lists and dicts may lie in the settings


class Row(NamedTuple):
    text_sha256: str
    values: np.ndarray
    offsets: np.ndarray


@dataclass
class Dump:
    """In memory all texts' tokens are concatenated, so that numpy treats any number of texts at once.

    text_sha256: one for each text; bounds: int64 [texts + 1], text i's tokens are those from bounds[i] to
    bounds[i + 1]; values: float32 [all tokens]; offsets: int32 [all tokens, 2]. Of a file, values and offsets are views
    of its mapping: let_go() takes what was looked at out of memory again, and nothing else.
    """

    model: str
    tokenizer: str
    settings: dict
    text_sha256: list[str]
    bounds: np.ndarray
    values: np.ndarray
    offsets: np.ndarray
    let_go: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, model: str, tokenizer: str, settings: dict, rows: Sequence[Row]) -> "Dump":
        bounds = np.cumsum([0, *(len(row.values) for row in rows)])
        # The empty arrays are there for a dump without rows.
        values = np.concatenate([np.zeros(0, np.float32), *(row.values for row in rows)])
        offsets = np.concatenate([np.zeros((0, 2), np.int32), *(row.offsets for row in rows)])
        return cls(model, tokenizer, settings, [row.text_sha256 for row in rows], bounds, values, offsets)

    @property
    def rows(self) -> list[Row]:
        """The texts one by one: views of the arrays, not copies."""
        spans = pairwise(self.bounds.tolist())
        return [
            Row(text_sha256, self.values[start:end], self.offsets[start:end])
            for text_sha256, (start, end) in zip(self.text_sha256, spans, strict=True)
        ]

    def pieces(self) -> Iterator[slice]:
        """All tokens, a part at a time; each is let go before the next."""
        for first in range(0, len(self.values), PIECE):
            yield slice(first, first + PIECE)
            self.let_go()


PIECE = 2**17  # tokens


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def dump_path(name: str | Path) -> Path:
    """A dump named `X` is the file `X.pkl` (a name that ends in `.pkl` is taken as it is)."""
    return Path(name) if str(name).endswith(".pkl") else Path(f"{name}.pkl")


def write(dump: Dump, name: str, record: dict | None = None) -> Path:
    """Write the dump of that name, and its record beside it where there is one."""
    arrays = np.ascontiguousarray(dump.values, "<f4"), np.ascontiguousarray(dump.offsets, "<i4")
    texts = dump.text_sha256, np.diff(dump.bounds).tolist()
    return _write(name, (dump.model, dump.tokenizer, dump.settings), texts, arrays, record)


def _write(name: str, described: tuple, texts: tuple, parts: tuple, record: dict | None) -> Path:
    """described: model, tokenizer and settings; texts: hashes and numbers of tokens; parts: values and offsets, as
    arrays or files of these bytes."""
    path = dump_path(name)
    model, tokenizer, settings = described
    content = {
        "version": VERSION,
        "model": printable(model),
        "tokenizer": printable(tokenizer),
        "settings": plain(settings),
        "text_sha256": texts[0],
        "tokens": texts[1],
        "values": parts[0],
        "offsets": parts[1],
    }
    content["checksum"] = checksum(content)
    file = whole_file(path) if record is None else recorded_file(path, record)
    with file as aside, open(aside, "wb") as opened:
        filled = _Filled(opened)
        content |= {key: filled.stand_in(content[key]) for key in ("values", "offsets")}
        pickle.dump(content, filled, protocol=4)
        if filled.parts:  # a pickle module that copies what it writes
            raise RuntimeError("pickle did not write values and offsets as they are")
    return path


class _Filled:
    """A file for pickle.dump in which long bytes are written block by block, so that they never lie in memory as one.

    pickle hands bytes of 64 KiB and more to the file as they are. So bytes of as many zeros stand in for them, which
    take no memory as long as nobody looks at them, and what they stand for is written in their place.
    """

    FROM = 2**16

    def __init__(self, opened: BinaryIO):
        self.opened, self.parts = opened, {}

    def stand_in(self, part: np.ndarray | Path) -> bytes:
        size = part.nbytes if isinstance(part, np.ndarray) else part.stat().st_size
        if size < self.FROM:
            return b"".join(blocks(part))
        zeros = bytes(size)
        self.parts[id(zeros)] = zeros, part
        return zeros

    def write(self, data: bytes) -> None:
        _, part = self.parts.pop(id(data), (data, data))
        for block in blocks(part):
            self.opened.write(block)


BLOCK = 2**20


def blocks(part: bytes | memoryview | np.ndarray | Path) -> Iterator[bytes | memoryview]:
    """The bytes, or those of the array or the file, piece by piece."""
    if isinstance(part, Path):
        with open(part, "rb") as opened:
            while block := opened.read(BLOCK):
                yield block
    elif isinstance(part, np.ndarray):
        flat = part.reshape(-1)
        for begin in range(0, len(flat), BLOCK // part.itemsize):
            yield flat[begin : begin + BLOCK // part.itemsize].tobytes()
    else:
        view = memoryview(part)
        for begin in range(0, len(view), BLOCK):
            yield view[begin : begin + BLOCK]


class Unfinished:
    """A dump that grows text by text: values and offsets go to files in `folder`, and some 200 bytes of each text stay
    in memory. The dump is the same, byte for byte, as `write` would write it."""

    def __init__(self, folder: Path):
        self.text_sha256, self.tokens = [], []
        self.values, self.offsets = folder / "values", folder / "offsets"
        for path in (self.values, self.offsets):
            path.unlink(missing_ok=True)

    def add(self, text_sha256: list[str], offsets: list[np.ndarray], values: list[np.ndarray]) -> None:
        """The next texts: their hashes; of each int [n, 2]; of all together, float, concatenated."""
        self.text_sha256 += text_sha256
        self.tokens += map(len, offsets)
        for path, arrays, kind in ((self.values, values, "<f4"), (self.offsets, offsets, "<i4")):
            with writing(path), open(path, "ab") as opened:
                for array in arrays:
                    opened.write(np.asarray(array, kind).tobytes())

    def write(self, name: str, model: str, tokenizer: str, settings: dict, record: dict) -> Path:
        texts = self.text_sha256, self.tokens
        return _write(name, (model, tokenizer, settings), texts, (self.values, self.offsets), record)


def checksum(content: dict, let_go: Callable[[], None] = lambda: None) -> str:
    """Of the dump's values and offsets as they are, behind everything else as JSON."""
    others = {key: content[key] for key in KEYS if key not in ("values", "offsets", "checksum")}
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode("ascii"))
    for key in ("values", "offsets"):
        for block in blocks(content[key]):
            digest.update(block)
            let_go()
    return digest.hexdigest()


def plain(settings: object, room: Room | None = None, depth: int = 0) -> object:
    """The same of Python's own dicts, lists, strings and numbers; Refused where it holds anything else."""
    if room:
        # The most that it takes as JSON: twelve characters for one, hundreds for a number.
        room.spend(1000 + 12 * len(settings) if type(settings) is str else 1000)
    if type(settings) in (dict, list) and depth == DEEPEST:
        raise Refused("its settings are nested too deeply")
    if type(settings) is dict and all(type(key) is str for key in settings):
        return {plain(key, room): plain(value, room, depth + 1) for key, value in settings.items()}
    if type(settings) is list:
        return [plain(value, room, depth + 1) for value in settings]
    if type(settings) is Array and settings.shape == ():
        return settings.made().item()
    if type(settings) in (int, float, bool, type(None)) or (type(settings) is str and settings.isprintable()):
        return settings
    raise Refused("its model, tokenizer and settings may hold only numbers and one-line text")


def read(name: str) -> Dump | list[np.ndarray]:
    """The dump of that name; a bare list of arrays [n] (float32) where an upstream tool wrote the file.

    Raises InputError: no such file, or not a dump.
    """
    path = dump_path(name)
    shown = printable(str(path), 100)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{shown}: not a file")
        with open(path, "rb") as opened:
            # No empty file can be mapped.
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except FileNotFoundError as error:
        raise InputError(f"{shown}: no such dump; save_attention.py and contrast_attention.py write them") from error
    except OSError as error:
        raise InputError(f"{shown}: can't be read: {error.strerror}") from error
    try:
        return loads(data)
    except Refused as error:
        raise InputError(f"{shown}: refused: {printable(str(error), 180)}") from error


def loads(data: bytes | mmap.mmap) -> Dump | list[np.ndarray]:
    """What `read` makes of a file's bytes; raises Refused."""
    named = False
    try:
        content = plain_pickle.loads(data, {})
    except NameRefused:
        named = True
    if named:
        content = plain_pickle.loads(data, plain_pickle.NUMPY)
    room = Room(len(data), 8)  # beside what was read
    if type(content) in (list, tuple):
        return _bare_list(content, room)
    version = content.get("version") if type(content) is dict else None
    if type(version) is not int or version not in (1, VERSION):
        raise Refused(f"not a dump of version {VERSION} or 1, and no list of arrays")
    if version == VERSION and named:
        raise Refused("a dump of version 2 names nothing, and this one does")
    let_go = functools.partial(data.madvise, mmap.MADV_DONTNEED) if isinstance(data, mmap.mmap) else lambda: None
    dump = _dump_1(content, room) if version == 1 else _dump_2(content, room, let_go)
    for piece in dump.pieces():
        start, end = dump.offsets[piece].T
        for wrong, what in (
            (~np.isfinite(dump.values[piece]), "values must be finite"),
            ((start < 0) | (start > end), "offsets must be spans of characters"),
        ):
            if wrong.any():
                token = piece.start + wrong.argmax()
                raise Refused(f"row {np.searchsorted(dump.bounds, token, side='right')}: {what}")
    return dump


def read_dump(name: str) -> Dump:
    """The dump of that name; a bare list is refused, since nothing in it says which texts it belongs to."""
    dump = read(name)
    if isinstance(dump, list):
        path = printable(str(dump_path(name)), 100)
        raise InputError(
            f"{path}: a bare list of arrays, without texts or tokens; make it again with save_attention.py"
        )
    return dump


def _bare_list(content: Sequence, room: Room) -> list[np.ndarray]:
    made = {}  # by identity: a row that the file holds once takes its memory once, in however many places
    for row in content:
        if id(row) not in made:
            made[id(row)] = _bare_row(row, room)
    if not content:
        raise Refused("an empty list")
    return [made[id(row)] for row in content]


def _bare_row(row: object, room: Room) -> np.ndarray:
    length = len(row) if type(row) in (list, tuple) else row.shape[0] if _is_array(row, 1) else None
    if length is None:
        raise Refused("a list must hold one row of finite numbers a text")
    room.spend(200 + 4 * length)
    with np.errstate(over="ignore"):  # what is beyond float32 gets infinite
        if type(row) is Array:
            array = row.made().astype(np.float32)
        else:
            array = np.fromiter(map(_number, row), np.float32, length)
    if not np.isfinite(array).all():
        raise Refused("a list must hold one row of finite numbers a text")
    return array


def _is_array(found: object, dimensions: int, code: str | None = None) -> bool:
    return type(found) is Array and len(found.shape) == dimensions and code in (None, found.code)


def _number(found: object) -> float:
    if type(found) in (int, float, bool) and abs(found) <= FLOAT_MAX:
        return float(found)
    if _is_array(found, 0):
        return found.made().item()
    raise Refused("a list must hold one row of finite numbers a text")


def _dump_1(content: dict, room: Room) -> Dump:
    _check_keys(content, KEYS_1)
    model, tokenizer, settings = _described(content, room)
    if type(content["rows"]) is not list:
        raise Refused("its rows must be a list")
    rows = []
    for number, row in enumerate(content["rows"], start=1):
        if type(row) is not dict:
            raise Refused(f"row {number} is not a dict")
        _check_keys(row, Row._fields, f"row {number}: ")
        _check_hash(row["text_sha256"], number)
        values, offsets = row["values"], row["offsets"]
        if not (_is_array(values, 1, "f4") and _is_array(offsets, 2, "i4") and offsets.shape == (*values.shape, 2)):
            raise Refused(f"row {number}: values must be float32 [n] and offsets int32 [n, 2]")
        room.spend(400 + len(values.data) + len(offsets.data))
        rows.append(Row(row["text_sha256"], values.made(), offsets.made()))
    return Dump.of(model, tokenizer, settings, rows)


def _dump_2(content: dict, room: Room, let_go: Callable[[], None]) -> Dump:
    _check_keys(content, KEYS)
    model, tokenizer, settings = _described(content, room)
    hashes, tokens, values, offsets = (content[key] for key in ("text_sha256", "tokens", "values", "offsets"))
    both = {type(values), type(offsets)}
    if (type(hashes), type(tokens)) != (list, list) or not both <= {bytes, memoryview}:
        raise Refused("text_sha256 and tokens must be lists, values and offsets bytes")
    count = len(values) // 4
    if len(hashes) != len(tokens) or (4 * count, 8 * count) != (len(values), len(offsets)):
        raise Refused("its text_sha256 and tokens, or its values and offsets, are not of the same length")
    room.spend(400 * len(tokens))
    for number, text_sha256 in enumerate(hashes, start=1):
        _check_hash(text_sha256, number)
    if any(type(length) is not int or not 0 <= length <= count for length in tokens) or sum(tokens) != count:
        raise Refused("its tokens must be numbers of tokens that add up to those that have values")
    if content["checksum"] != checksum(content, let_go):
        raise Refused("damaged: its checksum is not that of what it holds")
    return Dump(
        model,
        tokenizer,
        settings,
        hashes,
        bounds=np.cumsum([0, *tokens]),
        # Views of the file's bytes, where the machine has their order of bytes.
        values=np.frombuffer(values, "<f4").astype(np.float32, copy=False),
        offsets=np.frombuffer(offsets, "<i4").astype(np.int32, copy=False).reshape(-1, 2),
        let_go=let_go,
    )


def _check_keys(found: dict, expected: Sequence[str], where: str = "") -> None:
    missing = [key for key in expected if key not in found]
    if missing or len(found) != len(expected):
        more = f"lacks {missing[0]}" if missing else "holds more"
        raise Refused(f"{where}it must hold {', '.join(expected)}, and {more}")


def _check_hash(found: object, number: int) -> None:
    if type(found) is not str or len(found) > 64 or not found.isascii():
        raise Refused(f"row {number}: text_sha256 must be a hash in hexadecimal digits")


def _described(content: dict, room: Room) -> tuple[str, str, dict]:
    described = tuple(plain(content[key], room) for key in ("model", "tokenizer", "settings"))
    if tuple(map(type, described)) != (str, str, dict):
        raise Refused("its model and tokenizer must be text, its settings a dict")
    return described


def check_texts(dump: Dump | list[np.ndarray], texts: Iterable[str], name: str, dataset: str) -> int:
    """How many texts there are; InputError, naming the row, unless the dump's rows are these texts (without tags)."""
    path, dataset = printable(str(dump_path(name)), 100), printable(str(dataset), 100)
    bare = isinstance(dump, list)
    rows = len(dump if bare else dump.text_sha256)
    number = 0
    for number, text in enumerate(texts, start=1):
        if number > rows or bare:
            continue
        if dump.text_sha256[number - 1] != text_hash(text):
            raise InputError(f"{path} was made from different texts: row {number} of {dataset} is not its row {number}")
        ends = dump.offsets[dump.bounds[number - 1] : dump.bounds[number], 1]
        if len(ends) and ends.max() > len(text):
            raise InputError(f"{path}: row {number} has tokens beyond the text's end")
        if number % 1000 == 0:
            dump.let_go()
    if number != rows:
        raise InputError(f"{path} has {rows} rows and {dataset} {number}: make the dump from this dataset")
    if bare:
        print(f"{path}: a bare list of arrays, read in row order; it does not say whether it was made from {dataset}")
    return number
