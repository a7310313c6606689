"""The attention dump: written, read safely, matched to texts.

A dump `X` is the file `X.pkl`: a pickled dict of plain containers, strings, numbers and numpy arrays,

    version    1
    model      the model's name (of a difference: both names)
    tokenizer  the tokenizer's fingerprint (see utils.tokens.fingerprint)
    settings   what changes the values: include_self, prepend_bos, queries, layers, dtype, ...
    rows       for each text, in the dataset's order:
               text_sha256  of the text without tags, UTF-8, hexadecimal
               values       float32 [n], one for each token that has characters in the text
               offsets      int32 [n, 2], the token's characters in that text, end exclusive

Upstream tools write a bare list of arrays, one a text; that is read as well (see `read`).
"""

import hashlib
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.artifacts import whole_file
from utils.errors import InputError

VERSION = 1

PLAIN_KINDS = "biuf"  # booleans, integers, floats: dtypes whose bytes are no pointers

# numpy's own functions that a pickled array or number calls: numpy 2 writes `numpy._core`, numpy 1 `numpy.core`.
ADMITTED = {
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


class Row(NamedTuple):
    text_sha256: str
    values: np.ndarray
    offsets: np.ndarray


@dataclass
class Dump:
    """In memory all texts' tokens lie end to end, so that numpy treats any number of texts at once.

    text_sha256: one for each text; bounds: int64 [texts + 1], text i's tokens are those from bounds[i] to
    bounds[i + 1]; values: float32 [all tokens]; offsets: int32 [all tokens, 2].
    """

    model: str
    tokenizer: str
    settings: dict
    text_sha256: list[str]
    bounds: np.ndarray
    values: np.ndarray
    offsets: np.ndarray

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


class Refused(pickle.UnpicklingError):
    """A pickle asked for what a dump has no use for."""


class SafeUnpickler(pickle.Unpickler):
    """Admits plain containers, strings, numbers and numpy arrays of numbers.

    Any other name in a pickle can run code. So can numpy's own names with an object dtype, for which numpy takes
    bytes from the file as pointers; hence the stand-ins below for the names that make dtypes and arrays.
    """

    def find_class(self, module: str, name: str):
        if (module, name) == ("numpy", "dtype"):
            return _plain_dtype
        if (module, name) == ("numpy", "ndarray"):
            return None  # only ever an argument of _reconstruct; called itself, it would build an array of anything
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: np.empty(0, np.uint8)  # the pickle then sets its shape, dtype and bytes
        if (module, name) in ADMITTED:
            return super().find_class(module, name)
        raise Refused(f"it asks for {module}.{name}, which a dump has no use for")


def _plain_dtype(code: str, *_) -> np.dtype:
    dtype = np.dtype(code) if isinstance(code, str) else None
    if dtype is None or dtype.kind not in PLAIN_KINDS:
        raise Refused(f"it holds an array of {code!r}, and a dump's arrays are of numbers")
    return dtype


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def dump_path(name: str | Path) -> Path:
    """A dump named `X` is the file `X.pkl` (a name that ends in `.pkl` is taken as it is)."""
    return Path(name) if str(name).endswith(".pkl") else Path(f"{name}.pkl")


def write(dump: Dump, name: str) -> Path:
    path = dump_path(name)
    content = {
        "version": VERSION,
        "model": dump.model,
        "tokenizer": dump.tokenizer,
        "settings": dump.settings,
        "rows": [row._asdict() for row in dump.rows],
    }
    with whole_file(path) as aside, open(aside, "wb") as opened:
        # Protocol 4 keeps to names that both numpy 1 and 2 can be read from; 5 adds nothing on disk.
        pickle.dump(content, opened, protocol=4)
    return path


def read(name: str) -> Dump | list[np.ndarray]:
    """The dump of that name; a bare list of arrays [n] (float32) where an upstream tool wrote the file.

    Raises InputError: no such file, a pickle that could run code, or not a dump.
    """
    path = dump_path(name)
    try:
        with open(path, "rb") as opened:
            content = SafeUnpickler(opened).load()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such dump; save_attention.py and contrast_attention.py write them") from error
    except Refused as error:
        raise InputError(f"{path}: refused: {error}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(f"{path}: not a dump, or a damaged one ({type(error).__name__}: {error})") from error
    try:
        return _bare_list(content) if isinstance(content, (list, tuple)) else _dump(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a dump of version {VERSION} ({type(error).__name__}: {error})") from error


def read_dump(name: str) -> Dump:
    """The dump of that name; a bare list is refused, since nothing in it says which texts it belongs to."""
    dump = read(name)
    if isinstance(dump, list):
        path = dump_path(name)
        raise InputError(f"{path}: a bare list of arrays, without texts or tokens; make it anew with save_attention.py")
    return dump


def _bare_list(content: Sequence) -> list[np.ndarray]:
    arrays = [np.asarray(values, dtype=np.float32) for values in content]
    if not arrays or any(array.ndim != 1 or not np.isfinite(array).all() for array in arrays):
        raise ValueError("a list must hold one row of finite numbers a text")
    return arrays


def _dump(content: dict) -> Dump:
    if not isinstance(content, dict) or content["version"] != VERSION:
        raise ValueError(f"version {content['version']}" if isinstance(content, dict) else type(content).__name__)
    named = {key: value for key, value in content.items() if key != "version"}
    rows = named["rows"] = [Row(**row) for row in named["rows"]]
    for index, row in enumerate(rows, start=1):
        count = len(row.values)
        expected = (np.float32, (count,), np.int32, (count, 2))
        if (row.values.dtype, row.values.shape, row.offsets.dtype, row.offsets.shape) != expected:
            raise ValueError(f"row {index}: values must be float32 [n] and offsets int32 [n, 2]")
    dump = Dump.of(**named)
    if not isinstance(dump.settings, dict):
        raise ValueError("settings must be a dict")
    start, end = dump.offsets.T
    for wrong, what in (
        (~np.isfinite(dump.values), "values must be finite"),
        ((start < 0) | (start > end), "offsets must be spans of characters"),
    ):
        if wrong.any():
            raise ValueError(f"row {np.searchsorted(dump.bounds, wrong.argmax(), side='right')}: {what}")
    return dump


def check_texts(dump: Dump | list[np.ndarray], texts: Iterable[str], name: str, dataset: str) -> int:
    """How many texts there are; InputError, naming the row, unless the dump's rows are these texts (without tags)."""
    path = dump_path(name)
    rows = dump if isinstance(dump, list) else dump.rows
    number = 0
    for number, text in enumerate(texts, start=1):
        if number > len(rows) or isinstance(dump, list):
            continue
        row = rows[number - 1]
        if row.text_sha256 != text_hash(text):
            raise InputError(f"{path} was made from other texts: row {number} of {dataset} is not its row {number}")
        if len(row.offsets) and row.offsets[:, 1].max() > len(text):
            raise InputError(f"{path}: row {number} has tokens beyond the text's end")
    if number != len(rows):
        raise InputError(f"{path} has {len(rows)} rows and {dataset} {number}: make the dump from this dataset")
    if isinstance(dump, list):
        print(f"{path}: a bare list of arrays, taken in row order; nothing tells whether it is of {dataset}")
    return number
