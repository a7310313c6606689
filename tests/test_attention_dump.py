"""The dump's file: round trip, plain content, hostile and damaged pickles, agreement with texts."""

import hashlib
import os
import pickle
import struct

import numpy as np
import pytest

from utils import attention_dump
from utils.attention_dump import Dump, Row, check_texts, read, read_dump, text_hash, write
from utils.errors import InputError

TEXTS = ["Ann, of Bonn.", "Zoë 🙂"]


def small_dump() -> Dump:
    return Dump.of(
        model="org/model",
        tokenizer="fingerprint",
        settings={"include_self": False, "prepend_bos": True, "dtype": "float32"},
        rows=[
            Row(text_hash(TEXTS[0]), np.array([0.25, 0.5, 0.0], np.float32), np.array([[0, 3], [3, 7], [7, 13]], "i4")),
            Row(text_hash(TEXTS[1]), np.array([0.1, 1e-30], np.float32), np.array([[0, 3], [4, 5]], np.int32)),
        ],
    )


def content(**changes) -> dict:
    """A dump of version 1 as it is pickled, with one row; `changes` replace keys of the dump or of its row."""
    row = {"text_sha256": "0", "values": np.zeros(2, np.float32), "offsets": np.zeros((2, 2), np.int32)}
    dump = {"version": 1, "model": "m", "tokenizer": "t", "settings": {}, "rows": [row]}
    for key, value in changes.items():
        (row if key in row else dump)[key] = value
    return dump


def save(tmp_path, data: bytes) -> str:
    (tmp_path / "X.pkl").write_bytes(data)
    return str(tmp_path / "X")


class Calls:
    """Pickles as the instruction to call `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_round_trip(tmp_path):
    path = write(small_dump(), str(tmp_path / "folder" / "X"))
    assert path == tmp_path / "folder" / "X.pkl"
    for name in (str(path), str(path.with_suffix(""))):
        again = read_dump(name)
        assert (again.model, again.tokenizer, again.settings) == ("org/model", "fingerprint", small_dump().settings)
        for row, expected in zip(again.rows, small_dump().rows, strict=True):
            assert row.text_sha256 == expected.text_sha256
            assert (row.values.dtype, row.offsets.dtype) == (np.float32, np.int32)
            np.testing.assert_array_equal(row.values, expected.values)
            np.testing.assert_array_equal(row.offsets, expected.offsets)


def test_the_file_holds_plain_containers_with_the_documented_keys(tmp_path):
    class WithoutNames(pickle.Unpickler):
        def find_class(self, module, name):
            raise AssertionError(f"asks for {module}.{name}")

    with open(write(small_dump(), str(tmp_path / "X")), "rb") as opened:
        dump = WithoutNames(opened).load()
    assert type(dump) is dict
    assert list(dump) == [
        *("version", "model", "tokenizer", "settings"),
        *("text_sha256", "tokens", "values", "offsets", "checksum"),
    ]
    assert (dump["version"], dump["tokens"], dump["text_sha256"]) == (2, [3, 2], [text_hash(text) for text in TEXTS])
    assert dump["values"] == struct.pack("<5f", 0.25, 0.5, 0.0, 0.1, 1e-30)
    assert dump["offsets"] == struct.pack("<10i", 0, 3, 3, 7, 7, 13, 0, 3, 4, 5)


@pytest.mark.parametrize("count", [0, 3, 16_383, 16_384, 700_000])
def test_written_piece_by_piece_it_is_the_pickle_of_its_content(tmp_path, count):
    """Around the 64 KiB from which pickle hands bytes on as they are, and beyond the block that is read at a time."""
    generator = np.random.default_rng(0)
    values = generator.random(count, dtype=np.float32)
    offsets = generator.integers(0, 9, (count, 2), dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    cuts = sorted(generator.integers(0, count + 1, 4).tolist())
    bounds = np.array([0, *cuts, count])
    hashes = [text_hash(str(number)) for number in range(5)]
    dump = Dump("m", "t", {"layers": None}, hashes, bounds, values, offsets)
    plain = {"version": 2, "model": "m", "tokenizer": "t", "settings": {"layers": None}, "text_sha256": hashes}
    plain |= {"tokens": np.diff(bounds).tolist(), "values": values.tobytes(), "offsets": offsets.tobytes()}
    plain["checksum"] = attention_dump.checksum(plain)
    expected = pickle.dumps(plain, protocol=4)
    assert write(dump, str(tmp_path / "X")).read_bytes() == expected
    unfinished = attention_dump.Unfinished(tmp_path)
    for first, last in ((0, 2), (2, 5)):
        rows = [slice(*bounds[number : number + 2]) for number in range(first, last)]
        unfinished.add(hashes[first:last], [offsets[row] for row in rows], [values[bounds[first] : bounds[last]]])
    record = {"config": {}}
    unfinished.write(str(tmp_path / "Y"), "m", "t", {"layers": None}, record)
    assert (tmp_path / "Y.pkl").read_bytes() == expected
    assert len(read_dump(str(tmp_path / "Y")).values) == count


def test_the_checksum_is_over_all_that_a_dump_holds():
    """printf, jq or any JSON writer that sorts its keys, and sha256sum give the same."""
    others = (
        '{"model": "m", "settings": {"layers": null, "queries": "following"}, "text_sha256": ["00"], '
        '"tokenizer": "t", "tokens": [1], "version": 2}'
    )
    values, offsets = struct.pack("<f", 0.5), struct.pack("<2i", 0, 3)
    dump = {"version": 2, "model": "m", "tokenizer": "t", "settings": {"queries": "following", "layers": None}}
    dump |= {"text_sha256": ["00"], "tokens": [1], "values": values, "offsets": offsets}
    assert attention_dump.checksum(dump) == hashlib.sha256(others.encode() + values + offsets).hexdigest()


def test_text_hash_is_sha256_of_utf_8():
    # printf 'Zoë' | sha256sum
    assert text_hash("Zoë") == "c6a12698582fc1104ea24107a2d7268145ff06ef859707729d01fd060897f067"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["alone", "in a list", "in a row", "in an object array", "as a dict's key"])
@pytest.mark.parametrize("kind", ["os.system", "eval"])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path, kind, place, protocol):
    mark = tmp_path / "ran"
    hostile = Calls(os.system, f"touch {mark}") if kind == "os.system" else Calls(eval, f"open({str(mark)!r}, 'w')")
    data = pickle.dumps(
        {
            "alone": hostile,
            "in a list": [np.zeros(2), hostile],
            "in a row": content(values=hostile),
            "in an object array": [np.array([1.0, hostile], dtype=object)],
            "as a dict's key": content(settings={hostile: 1}),
        }[place],
        protocol=protocol,
    )
    name = save(tmp_path, data)
    with pytest.raises(InputError, match="X.pkl: refused"):
        read(name)
    assert not mark.exists()


def test_the_hostile_pickles_above_would_run(tmp_path):
    for number, kind in enumerate((os.system, eval)):
        mark = tmp_path / str(number)
        code = f"touch {mark}" if kind is os.system else f"open({str(mark)!r}, 'w')"
        pickle.loads(pickle.dumps([np.array([1.0, Calls(kind, code)], dtype=object)]))
        assert mark.exists()


def test_an_object_array_over_raw_bytes_is_refused(tmp_path):
    """numpy.ndarray itself takes bytes for pointers to objects: any others than these, to None, crash or run code."""
    pointers = struct.pack("P", id(None)) * 2
    hostile = Calls(np.ndarray, (2,), np.dtype(object), pointers)
    with pytest.raises(InputError, match="X.pkl"):
        read(save(tmp_path, pickle.dumps([hostile])))


def test_every_truncation_is_an_error(tmp_path):
    whole = write(small_dump(), str(tmp_path / "whole")).read_bytes()
    for length in range(len(whole)):
        with pytest.raises(InputError, match="X.pkl"):
            read(save(tmp_path, whole[:length]))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 3)),
        np.array([np.zeros(2), np.zeros(3)], dtype=object),
        "text",
        None,
        {},
        [],
        [np.zeros((2, 2))],
        [np.zeros(2), "text"],
        [0.5, 0.5],
        content(version=2),
        content(version=3),
        content(version=True),
        content(version="1"),
        content(rows=None),
        content(rows=[{}]),
        content(unknown=1),
        content(values=np.zeros(2)),
        content(values=[0.0, 0.0]),
        content(values=np.zeros(3, np.float32)),
        content(values=np.zeros((2, 1), np.float32)),
        content(values=np.array([0, np.nan], np.float32)),
        content(values=np.array([0, np.inf], np.float32)),
        content(offsets=np.zeros((2, 2), np.int64)),
        content(offsets=np.zeros((2, 3), np.int32)),
        content(offsets=np.zeros(4, np.int32)),
    ],
    ids=repr,
)
def test_what_is_not_a_dump_is_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="X.pkl"):
        read(save(tmp_path, pickle.dumps(wrong)))


@pytest.mark.parametrize("data", [b"", b"text\n", b"{}", b"\x80\x04", b"PK\x03\x04", b"\x80\x04}]Ns."])
def test_what_is_not_a_pickle_is_refused(tmp_path, data):
    with pytest.raises(InputError, match="X.pkl"):
        read(save(tmp_path, data))


def test_a_missing_dump_is_named(tmp_path):
    with pytest.raises(InputError, match="X.pkl: no such dump"):
        read(str(tmp_path / "X"))


def test_no_key_of_a_dump_may_be_missing(tmp_path):
    for key in content():
        lacking = {other: value for other, value in content().items() if other != key}
        with pytest.raises(InputError, match="X.pkl"):
            read(save(tmp_path, pickle.dumps(lacking)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bare_list_is_read_as_float32_and_refused_as_a_dump(tmp_path, dtype):
    arrays = [np.array([0.1, 0.2], dtype), np.array([0.3], dtype)]
    name = save(tmp_path, pickle.dumps(arrays))
    found = read(name)
    assert isinstance(found, list)
    for array, expected in zip(found, arrays, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected.astype(np.float32))
    with pytest.raises(InputError, match="X.pkl: a bare list"):
        read_dump(name)


@pytest.mark.parametrize("protocol", [2, 3])
def test_files_of_numpy_1_are_read(tmp_path, protocol):
    """numpy 1 calls the module numpy.core.multiarray; up to protocol 3 names stand in a pickle without a length."""
    values = np.array([0.25, 0.5], np.float32)
    settings = {"scale": np.float32(0.5)}  # a numpy number asks for one more name than arrays do
    data = pickle.dumps(content(values=values, settings=settings), protocol=protocol)
    data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in data and b"numpy._core" not in data
    dump = read_dump(save(tmp_path, data))
    np.testing.assert_array_equal(dump.rows[0].values, values)
    assert dump.settings == settings


def test_check_texts_accepts_the_texts_themselves():
    check_texts(small_dump(), TEXTS, "X", "data.csv")


@pytest.mark.parametrize(
    ("texts", "row"), [(TEXTS[::-1], 1), ([TEXTS[0] + " ", TEXTS[1]], 1), ([TEXTS[0], "Zoe\u0308 🙂"], 2)]
)
def test_check_texts_names_the_row_that_was_moved_or_edited(texts, row):
    with pytest.raises(InputError, match=f"X.pkl .*row {row} of data.csv"):
        check_texts(small_dump(), texts, "X", "data.csv")


@pytest.mark.parametrize("texts", [TEXTS[:1], [*TEXTS, "more"]])
def test_check_texts_counts_the_rows(texts):
    for dump in (small_dump(), [row.values for row in small_dump().rows]):
        with pytest.raises(InputError, match=f"X.pkl has 2 rows and data.csv {len(texts)}"):
            check_texts(dump, texts, "X", "data.csv")


def test_check_texts_finds_offsets_beyond_the_text():
    dump = small_dump()
    dump.rows[1].offsets[1] = [4, 6]
    with pytest.raises(InputError, match="row 2"):
        check_texts(dump, TEXTS, "X", "data.csv")


def test_check_texts_says_that_a_bare_list_names_no_texts(capsys):
    check_texts([row.values for row in small_dump().rows], TEXTS, "X", "data.csv")
    assert "X.pkl: a bare list" in capsys.readouterr().out


def test_a_failed_write_leaves_the_old_dump(tmp_path, monkeypatch):
    path = write(small_dump(), str(tmp_path / "X"))
    before = path.read_bytes()

    def fails(content, opened, protocol):
        opened.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(attention_dump.pickle, "dump", fails)
    with pytest.raises(InputError, match="X.pkl: can't be written: no space left"):
        write(small_dump(), str(tmp_path / "X"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
