"""What files may do to the reader of dumps: nothing but be read or be refused, in one line, at the cost of their size.

`attacks` builds hostile and damaged files by hand; the loops below change good ones at random.
"""

import base64
import os
import pickle
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.test_attention_dump import Calls, content, save, small_dump
from utils import attention_dump, plain_pickle
from utils.attention_dump import checksum, read, read_dump, write
from utils.errors import InputError
from utils.plain_pickle import Refused

# The three texts' dump as the writer of version 1 left it (commit fa4f064).
VERSION_1 = zlib.decompress(
    base64.b85decode(
        b"c-nQ5U2D`p6o#|AUANK}1gTWS8$l^v)MPUG81SRGR~qPr_p;7R&NRVnvQCoL6@=bYyD)b>{sDha{Y^UAZbh^XoMArByzg_)oUDDL"
        b"17|rt<E|MUfv)qa#H442(<+4m&CN<5KDk;q)q5!OPoU9ksJuJ`J=1yFpjoe>Y3xCboz7-n%A!qSQbVC|VK!zOW>BURQPp^6Mju+x"
        b"In-8ARYg%9+lOdw6nt*&@h$EqPSOK2Oq=-((2P`3@x~|Enl)V=FEcuqjRrn8lRD!h2+{0wra*a$MZ}M|%ZMu&kksWq^996V7`d)T"
        b"LK2YJi$TbM^T?%KK$=D|70k5+N4#h|tUF~poz3?qveK|OZHp%7TJt%Y&4~tCm35<A+2A>v;WE=Qmg!~6IVR32j(Y;X;u~8@FBzO-"
        b"cK50n`=qZZF3v7*2d4KF4-O7q|FmN{B~F84G2V2XljrtVUUXlB_Q;GXrEHUH%yzPSokw>6w?oqZg4qMp&;L-)9$lxq)9DRXF<Qme"
        b"%A>Vi&2F3h04P^Nd6Y*)dW!Ry_>>ac$B^1><Ov#hsid4!sz^Xt82XIGGK`~CK%_9+{ui=uHxC!%^&b}(&)&WKzSS9KkFUvF7UM0("
        b"x2{mvYz+TG1YfwaV~UmZq(@l?Ol8bis01UFL>#CGG^9*0pGr<yz?dhZI3OYpf@=|-OGM{?XwC{Pd)1LZyY~yQvKay"
    )
)

DUMP_2 = {
    "version": 2,
    "model": "m",
    "tokenizer": "t",
    "settings": {"layers": None},
    "text_sha256": ["0" * 64, "1" * 64],
    "tokens": [1, 2],
    "values": struct.pack("<3f", 0.25, 0.5, 1.0),
    "offsets": struct.pack("<6i", 0, 1, 0, 1, 1, 2),
}


def dump_2(**changes) -> bytes:
    """A dump of version 2 with other content, its checksum right all the same, where it has one."""
    dump = DUMP_2 | changes
    return pickle.dumps({"checksum": checksum(dump)} | dump if "checksum" not in changes else dump, protocol=4)


# Parts of pickles. Each lays one thing on the stack.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def binary(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def several(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + several(*arguments) + b"R"


def dtype(code: bytes = text("f4"), state: bytes | None = None, order: str = "<", last: bytes = b"K\0") -> bytes:
    usual = several(b"K\3", text(order), b"N", b"N", b"N", NEGATIVE, NEGATIVE, last)
    return call("numpy", "dtype", code, b"\x89", b"\x88") + (usual if state is None else state) + b"b"


def array(shape: bytes = b"K\2\x85", of: bytes | None = None, data: bytes = b"B\x08\0\0\0" + bytes(8)) -> bytes:
    return EMPTY + several(b"K\1", shape, dtype() if of is None else of, b"\x89", data) + b"b"


def in_list(*parts: bytes) -> bytes:
    return b"\x80\4](" + b"".join(parts) + b"e."


NEGATIVE = b"J\xff\xff\xff\xff"
CORE = "numpy._core.multiarray"
EMPTY = call(CORE, "_reconstruct", name("numpy", "ndarray"), b"K\0\x85", b"B\1\0\0\0b")
NO_TYPE_STATE = several(b"K\3", text("<"), b"N", b"N", b"N", NEGATIVE, NEGATIVE)


def test_the_parts_make_what_is_read(tmp_path):
    """Otherwise the attacks below could be refused for a mistake in them."""
    good = in_list(array(), array(of=dtype(order=">"), data=binary(struct.pack(">2f", 1, 2))))
    np.testing.assert_array_equal(read(save(tmp_path, good)), [[0, 0], [1, 2]])
    for found, expected in zip(pickle.loads(good), [[0, 0], [1, 2]], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert read_dump(save(tmp_path, dump_2())).settings == {"layers": None}


def calls(mark: str) -> dict[str, bytes]:
    """Files that would run code, which leaves a mark, or would name what can."""
    touch = text(f"touch {mark}")
    system = name("os", "system")
    code = f"open({mark!r}, 'w')"
    pickled = {
        "os.system": Calls(os.system, f"touch {mark}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "Popen": Calls(subprocess.Popen, ["touch", mark]),
        "numpy.memmap": Calls(np.memmap, mark, "u1", "w+", 0, (4,)),
        "numpy.save": Calls(np.save, f"{mark}.npy", 1),
        "a call in a key": {"version": 2, "settings": {Calls(os.system, f"touch {mark}"): 1}},
        "a call in an object array": [np.array([1.0, Calls(os.system, f"touch {mark}")], dtype=object)],
        "a call in a dump of version 1": content(values=Calls(os.system, f"touch {mark}")),
        "a call in a dump of version 2": DUMP_2 | {"model": Calls(os.system, f"touch {mark}")},
    }
    return {
        **{what: pickle.dumps(hostile, protocol=4) for what, hostile in pickled.items()},
        "a line's name": b"\x80\2cos\nsystem\n" + several(touch) + b"R.",
        "INST": b"\x80\2(" + touch + b"ios\nsystem\n.",
        "OBJ": b"\x80\4(" + system + touch + b"o.",
        "NEWOBJ": b"\x80\4" + system + several(touch) + b"\x81.",
        "NEWOBJ_EX": b"\x80\4" + system + several(touch) + b"}\x92.",
        "protocol 0": b"cos\nsystem\n(S'touch " + mark.encode() + b"'\ntR.",
        "protocol 1": b"cos\nsystem\n(" + touch + b"tR.",
        "a dotted name": in_list(name("numpy", "dtype.type.__base__")),
        "a name's module as a name": in_list(name("numpy", "ctypeslib")),
        "a name that is bytes": in_list(text("numpy") + binary(b"dtype") + b"\x93"),
        "a module that is a list": in_list(b"]" + text("dtype") + b"\x93"),
        "a name without its module": b"\x80\4" + text("dtype") + b"\x93.",
        "a name without an end": b"\x80\2cnumpy\ndtype",
        "a long name": b"\x80\2c" + b"n" * 10**6 + b"\ndtype\n.",
        "a name with escapes": b"\x80\2c\x1b[2J\x1b]0;owned\x07\n\xc2\x9b31m\n.",
        "our own functions": in_list(call("utils.plain_pickle", "_encode", text("a"), text("latin1"))),
        "numpy.ndarray itself": in_list(call("numpy", "ndarray", b"K\2\x85", dtype(), binary(bytes(8)))),
        "numpy.core's own reader": in_list(call(CORE, "fromfile", text(mark))),
        "copyreg": in_list(call("copyreg", "_reconstructor", name("numpy", "ndarray"), b"N", b"N")),
        "EXT1": in_list(b"\x82\1"),
        "EXT2": in_list(b"\x83\1\0"),
        "EXT4": in_list(b"\x84\1\0\0\0"),
        "PERSID": b"\x80\2P" + mark.encode() + b"\n.",
        "BINPERSID": in_list(text("a") + b"Q"),
        "a call of text": in_list(text("a") + b")R"),
        "a call of an array": in_list(array() + b")R"),
        "a call with a list": in_list(name("numpy", "dtype") + b"]R"),
        "a call without enough": in_list(call("numpy", "dtype", text("f4"))),
        "a state for a function": in_list(name("numpy", "dtype") + b"}b"),
        "a state for a list": in_list(b"]}b"),
        "a state for text": in_list(text("a") + b"}b"),
        "a state for nothing": b"\x80\4}b.",
        "version 2 with an array": dump_2(settings={"scale": 1.0}, checksum="0" * 64).replace(
            b"G\x3f\xf0" + bytes(6), call(CORE, "scalar", dtype(), binary(bytes(4)))
        ),
    }


def arrays(mark: str) -> dict[str, bytes]:
    """Arrays that would have numpy take bytes for pointers, or read or write beyond them, or that are misread."""
    objects = several(b"K\3", text("|"), b"N", b"N", b"N", NEGATIVE, NEGATIVE, b"K\x3f")
    fields = several(
        *(b"K\3", text("<"), b"N", several(text("a"))),
        b"}(" + text("a") + several(dtype(), b"K\0") + b"u",
        *(b"K\x10", b"K\1", b"K\0"),
    )
    flagged = dtype(order=">", last=b"K\x3f")
    parts = several(b"K\3", text(">"), several(dtype(), b"K\7\x85"), b"N", b"N", NEGATIVE, NEGATIVE, b"K\0")
    pickled = {
        "objects": np.array([1.0, None], dtype=object),
        "fields": np.zeros(2, [("a", "f4"), ("b", "O")]),
        "plain fields": np.zeros(2, "f4,f4"),
        "dates": np.zeros(2, "M8[s]"),
        "long doubles": np.zeros(2, np.longdouble),
        "complex numbers": np.zeros(2, complex),
        "text": np.array(["0.5", "0.25"]),
        "bytes": np.array([b"0.5"]),
        "raw bytes": np.zeros(2, "V4"),
        "a masked array": np.ma.masked_array([1.0], [True]),
        "a record": np.zeros(2, "f4,f4").view(np.recarray),
        "three dimensions": np.zeros((1, 1, 1)),
        "two dimensions": np.zeros((1, 1)),
        "no dimension": np.zeros(()),
        "a number of numpy's": np.float32(1),
        "a complex number in a list": [np.complex64(1)],
        "a type": np.dtype("f4"),
        "a class": np.float32,
        "text in a list": ["0.5"],
        "infinity in a list": [float("inf")],
        "too much for float32": [1e300],
        "a long integer": [10**600],
        "float64 beyond float32": np.array([1e300]),
        "not a number": np.array([0.5, np.nan]),
    }
    return {
        **{f"an array of {what}": pickle.dumps([hostile], protocol=4) for what, hostile in pickled.items()},
        "a big-endian type with fields": in_list(array(of=dtype(state=fields))),
        "a big-endian type with flags": in_list(array(of=flagged)),
        "a big-endian type with parts": in_list(array(of=dtype(state=parts))),
        "a type with an object's flags": in_list(array(of=dtype(state=objects))),
        "a type's state of seven": in_list(array(of=dtype(state=NO_TYPE_STATE))),
        "a type's state of one": in_list(array(of=dtype(state=b"K\3\x85"))),
        "a type's state as a dict": in_list(array(of=dtype(state=b"}"))),
        "a type's native order": in_list(array(of=dtype(order="="))),
        "a type's long order": in_list(array(of=dtype(order="<>"))),
        "a type's order that is a list": in_list(
            array(of=dtype(state=several(b"K\3", b"]", b"N", b"N", b"N", NEGATIVE, NEGATIVE, b"K\0")))
        ),
        "a type without an order": in_list(array(of=call("numpy", "dtype", text("f4"), b"\x89", b"\x88"))),
        "a type's state twice": in_list(array(of=dtype() + NO_TYPE_STATE[:-1] + b"K\0tb")),
        "a byte's order": in_list(array(of=dtype(text("u1")), data=binary(b"ab"))),
        "a type with an alignment": in_list(array(of=call("numpy", "dtype", text("f4"), b"\x88", b"\x88"))),
        **{
            f"a type named {shown}": in_list(array(of=dtype(code)))
            for shown, code in {
                **{
                    code: text(code)
                    for code in ("O", "V8", "f4,O", "2f4", ">f4", "float32", "", "f4\x1b[2J", "f" * 999)
                },
                **{"a list": b"]" + several(text("a"), text("O")) + b"a", "a number": b"K\1", "a dict": b"}"},
                **{"None": b"N", "a type": dtype(), "a tuple": several(text("f4"), b"K\2"), "bytes": binary(b"f4")},
            }.items()
        },
        "bytes beyond the array's": in_list(array(shape=b"K\3\x85")),
        "more bytes than the array": in_list(array(shape=b"K\1\x85")),
        "a long shape": in_list(array(shape=b"J\xff\xff\xff\x7f\x85")),
        "a shape that overflows": in_list(array(shape=b"\x8a\x09" + bytes(8) + b"\1\x85")),
        "a shape that overflows to nothing": in_list(
            array(shape=b"\x8a\x08" + bytes(7) + b"\x40K\0\x86", data=binary(b""))
        ),
        "a negative shape": in_list(array(shape=NEGATIVE + b"\x85")),
        "two negative lengths": in_list(array(shape=NEGATIVE + b"J\xfe\xff\xff\xff\x86")),
        "a shape of booleans": in_list(array(shape=b"\x88\x85", data=binary(bytes(4)))),
        "a shape of floats": in_list(array(shape=b"G@\0\0\0\0\0\0\0\x85")),
        "a shape that is a number": in_list(array(shape=b"K\2")),
        "a shape that is a list": in_list(array(shape=b"]K\2a")),
        "thousands of dimensions": in_list(array(shape=b"(" + b"K\1" * 5000 + b"t", data=binary(bytes(4)))),
        "bytes that are text": in_list(array(data=text("abcdefgh"))),
        "bytes that are a list": in_list(array(data=b"]")),
        "bytes that are an array": in_list(array(data=array())),
        "an array's type that is text": in_list(array(of=text("f4"))),
        # Found by a fuzzer: Python refuses it.
        "an array's state of another version": in_list(
            EMPTY + several(b"K\x7a", b"K\2\x85", dtype(), b"\x89", binary(bytes(8))) + b"b"
        ),
        "an array's state twice": in_list(array() + array()[len(EMPTY) :]),
        "an array without a state": in_list(EMPTY),
        "an array that is its own shape": b"\x80\4]("
        + EMPTY
        + b"\x94(K\1h\0\x85"
        + dtype()
        + b"\x89"
        + binary(b"")
        + b"tbe.",
        "an array of another class": in_list(
            call(CORE, "_reconstruct", name("numpy", "dtype"), b"K\0\x85", binary(b"b"))
        ),
        "an array of text's class": in_list(call(CORE, "_reconstruct", text("a"), b"K\0\x85", binary(b"b"))),
        "a first shape of its own": in_list(
            call(CORE, "_reconstruct", name("numpy", "ndarray"), b"J\xff\xff\xff\x7f\x85", binary(b"b"))
        ),
        "a buffer in no order": in_list(
            call("numpy._core.numeric", "_frombuffer", binary(bytes(4)), dtype(), b"K\1\x85", text("A"))
        ),
        "a buffer that is too short": in_list(
            call("numpy._core.numeric", "_frombuffer", binary(bytes(4)), dtype(), b"K\2\x85", text("C"))
        ),
        "a number of objects": in_list(b"]" + call(CORE, "scalar", dtype(text("O")), binary(bytes(8))) + b"a"),
        "a number without bytes": in_list(b"]" + call(CORE, "scalar", dtype(), binary(b"")) + b"a"),
        "a number's bytes as text": in_list(b"]" + call(CORE, "scalar", dtype(), text("abcd")) + b"a"),
        "another encoding": in_list(array(data=call("_codecs", "encode", text("abcdefgh"), text("utf-16-le")))),
        "an encoding of bytes": in_list(array(data=call("_codecs", "encode", binary(bytes(8)), text("latin1")))),
        "text beyond its encoding": in_list(array(data=call("_codecs", "encode", text("abcdefg…"), text("latin1")))),
        "bytes made by a number": in_list(array(data=call("__builtin__", "bytes", b"J\xff\xff\xff\x7f"))),
    }


def bombs(mark: str) -> dict[str, bytes]:
    """Files that would take memory or time beyond their size."""
    many, half = 2_500_000, 300_000
    long_text = text("a" * half)
    encoded = call("_codecs", "encode", b"h\0", text("latin1"))
    same_bytes = array(shape=b"J" + struct.pack("<i", half // 4) + b"\x85", data=b"h\0")
    laughs, holds_itself, keyed, row = [1], [], {}, content()["rows"][0]
    for _ in range(30):
        laughs = [laughs] * 10
    holds_itself.append(holds_itself)
    keyed["a"] = keyed
    deep = "a"
    for _ in range(11):
        deep = [deep]
    shared = np.zeros(100_000, np.float32)
    row_of_many = {"text_sha256": "0", "values": shared, "offsets": np.zeros((len(shared), 2), np.int32)}
    pickled = {
        "a list that holds itself": holds_itself,
        "a row that holds itself": [holds_itself],
        "settings that hold themselves": content(settings=keyed),
        "a model that holds itself": content(model=holds_itself),
        "rows that hold themselves": content(rows=holds_itself),
        "deep settings": content(settings={"a": deep}),
        "lists of lists, each ten times": laughs,
        "settings of lists, each ten times": content(settings={"a": laughs}),
        "a long text many times in the settings": content(settings={"a": ["a" * half] * 10_000}),
        "the same long row many times": content(rows=[row_of_many] * 10_000),
        "the same long arrays many times": content(rows=[dict(row_of_many) for _ in range(1000)]),
        "the same row many times": content(rows=[row] * half),
    }
    return {
        **{what: pickle.dumps(hostile, protocol=4) for what, hostile in pickled.items()},
        # Python's pickler keeps no numbers in its memo, but this text is there.
        "a long integer many times in the settings": pickle.dumps(content(settings={"a": ["@@"] * half})).replace(
            b"\x8c\2@@", b"\x8a\xff" + b"\1" * 255
        ),
        "version 2: settings that hold themselves": dump_2(settings=keyed, checksum="0" * 64),
        "version 2: settings of lists, each ten times": dump_2(settings={"a": laughs}, checksum="0" * 64),
        "version 2: a hash many times": dump_2(
            **{"text_sha256": ["0" * 64] * 2_000_000, "tokens": [0] * 2_000_000, "values": b"", "offsets": b""},
            checksum="0" * 64,
        ),
        "nine bytes for 4 GB": b"\x80\4Nr\0\0\0\x10.",
        "a memo that skips": b"\x80\4Nq\1.",
        "a memo numbered twice": b"\x80\4Nq\0q\0.",
        "the memo of nothing": b"\x80\4\x94.",
        "what is not in the memo": b"\x80\4h\0.",
        "what is far from the memo": b"\x80\4j\xff\xff\xff\xff.",
        "long text": b"\x80\4\x8d" + b"\xff" * 7 + b"\x7fab.",
        "text of 4 GB": b"\x80\4X\xff\xff\xff\xffab.",
        "long bytes": b"\x80\4\x8e" + b"\xff" * 8 + b"ab.",
        "long changeable bytes": b"\x80\5\x96\0\0\0\0\1\0\0\0ab.",
        "a buffer from elsewhere": b"\x80\5\x97.",
        "a frame beyond the end": b"\x80\4\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
        "an integer of 2 GB": b"\x80\4\x8b\xff\xff\xff\x7f\1.",
        "an integer's decimals": b"\x80\4L" + b"9" * half + b"L\n.",
        "an integer that is cut off": b"\x80\4\x8a\xff\1.",
        "arrays of the same bytes": in_list(
            array(data=binary(bytes(half)) + b"\x94", shape=b"J" + struct.pack("<i", half // 4) + b"\x85"),
            same_bytes * 2000,
        ),
        "a text encoded again and again": b"\x80\4](" + long_text + b"\x94" + encoded * 2000 + b"e.",
        "a text's encoding encoded": b"\x80\4" + call("_codecs", "encode", encoded.replace(b"h\0", long_text)) + b".",
        "lists within lists": b"\x80\4" + b"]" * half + b"a" * (half - 1) + b".",
        "open lists within lists": b"\x80\4" + b"](" * half + b"e" * half + b".",
        "tuples within tuples": b"\x80\4)" + b"\x85" * half + b".",
        "tuples within tuples as a key": b"\x80\4})" + b"\x85" * half + b"Ns.",
        "dicts within dicts": b"\x80\4" + (b"}" + text("a")) * half + b"}" + b"s" * half + b".",
        "marks": b"\x80\4" + b"(" * 2 * many,
        "empty lists": b"\x80\4](" + b"]" * many + b"e.",
        "empty dicts": b"\x80\4](" + b"}" * many + b"e.",
        "lists of one": b"\x80\4](" + b"]Na" * many + b"e.",
        "dicts of one": b"\x80\4" + text("a") + b"\x94](" + b"}h\0Ns" * many + b"e.",
        "nothing, many times": b"\x80\4](" + b"N" * half + b"e.",
        "a memo of nothing": b"\x80\4N" + b"\x94" * half + b".",
        "short texts": b"\x80\4](" + b"\x8c\2\xd0\x80" * many + b"e.",
        "keys": b"\x80\4}(" + b"".join(b"\x8c\6%06dN" % number for number in range(half)) + b"u.",
        "names": b"\x80\2](" + b"cnumpy\ndtype\n" * (half // 10) + b"e.",
    }


def broken(mark: str) -> dict[str, bytes]:
    """No pickle, half a pickle or more than one; dumps of version 2 whose content is not right."""
    good = dump_2()
    dumps = {
        "a wrong checksum": {"checksum": "0" * 64},
        "a checksum that is a number": {"checksum": 0},
        "an unknown key": {"more": 1},
        "a version that is true": {"version": True},
        "version 3": {"version": 3},
        "a version that is a list": {"version": [2]},
        "a model that is bytes": {"model": 1},
        "a model with escapes": {"model": "\x1b]0;owned\x07\x1b[2J"},
        "a model of two lines": {"model": "m\nrefused"},
        "a model that is written from right to left": {"model": "m\u202e"},
        "a model with half a character": {"model": "m\udc80"},
        "a tokenizer with escapes": {"tokenizer": "\x9b2J"},
        "a setting with escapes": {"settings": {"queries": "\x1b[2J"}},
        "a setting's name with escapes": {"settings": {"\x1b[2J": 1}},
        "settings that are a list": {"settings": []},
        "settings that are a text": {"settings": "a"},
        "a hash that is a number": {"text_sha256": [1, "1"]},
        "a hash that is too long": {"text_sha256": ["0" * 65, "1"]},
        "a hash too few": {"text_sha256": ["0"]},
        "hashes that are a text": {"text_sha256": "01"},
        "negative tokens": {"tokens": [4, -1]},
        "tokens that are true": {"tokens": [True, 2]},
        "tokens that are floats": {"tokens": [1.0, 2.0]},
        "more tokens than values": {"tokens": [1, 3]},
        "far more tokens than values": {"tokens": [2**62, 2**62]},
        "fewer tokens than values": {"tokens": [1, 1]},
        "a value too few": {"values": DUMP_2["values"][:-4]},
        "a byte too few": {"values": DUMP_2["values"][:-1]},
        "an offset too few": {"offsets": DUMP_2["offsets"][:-4]},
        "a value that is no number": {"values": struct.pack("<3f", 0.25, float("nan"), 1)},
        "an infinite value": {"values": struct.pack("<3f", 0.25, float("inf"), 1)},
        "offsets that run backwards": {"offsets": struct.pack("<6i", 0, 1, 1, 0, 1, 2)},
        "negative offsets": {"offsets": struct.pack("<6i", -1, 1, 0, 1, 1, 2)},
    }
    lacking = {
        f"no {key}": pickle.dumps({other: value for other, value in whole.items() if other != key}, protocol=4)
        for whole in [pickle.loads(good)]
        for key in whole
    }
    return {
        **{what: dump_2(**changes) for what, changes in dumps.items()},
        **lacking,
        "values that are a list": dump_2(values=[0.25, 0.5, 1.0], checksum="0" * 64),
        "a setting that is bytes": dump_2(settings={"a": b"a"}, checksum="0" * 64),
        "a setting that is a tuple": dump_2(settings={"a": ()}, checksum="0" * 64),
        "a setting without text as its name": dump_2(settings={1: 1}, checksum="0" * 64),
        "nothing": b"",
        "text": b"text\n",
        "a zip": b"PK\3\4",
        "a protocol's number alone": b"\x80\4",
        "protocol 6": b"\x80\6N.",
        "the protocol twice": b"\x80\4\x80\4N.",
        "an end alone": b"\x80\4.",
        "no end": good[:-1],
        "a byte more": good + b"\n",
        "two pickles": good + good,
        "two things": b"\x80\4NN.",
        "a mark without an end": b"\x80\4(N.",
        "an end without a mark": b"\x80\4Nt.",
        "a tuple of too few": b"\x80\4N\x86.",
        "a tuple beyond the mark": b"\x80\4N(N\x86t.",
        "a list that takes beyond the mark": b"\x80\4](Nat.",
        "an item for text": b"\x80\4X\1\0\0\0aNa.",
        "items for a tuple": b"\x80\4)(Ne.",
        "a key without its value": b"\x80\4}(X\1\0\0\0au.",
        "a list as a key": b"\x80\4}]Ns.",
        "text that is no UTF-8": b"\x80\4\x8c\1\xff.",
        "a float that is cut off": b"\x80\4G\0\0.",
        "a popped item": b"\x80\4NN0.",
        "a doubled item": b"\x80\4]N2ee.",
        "a set": pickle.dumps([{1.0}], protocol=4),
        "a frozen set": pickle.dumps([frozenset({1.0})], protocol=4),
        "Python 2's text": b"\x80\2U\1a.",
        "a decimal": b"\x80\2F0.5\n.",
        "a number alone": b"\x80\4K\1.",
        "none": b"\x80\4N.",
    }


def attacks(mark: str) -> dict[str, bytes]:
    sets = (calls(mark), arrays(mark), bombs(mark), broken(mark))
    assert sum(map(len, sets)) == len({what for cases in sets for what in cases})
    return {what: data for cases in sets for what, data in cases.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A file for each attack, by its number."""
    folder = tmp_path_factory.mktemp("attacks")
    for number, data in enumerate(attacks(str(folder / "ran")).values()):
        (folder / f"{number}.pkl").write_bytes(data)
    return folder


NAMES = [*attacks("mark")]


def test_the_attacks_are_many_and_differ(folder):
    assert len({path.read_bytes() for path in folder.glob("*.pkl")}) == len(NAMES) >= 60


def refusal(name: str | Path) -> str:
    with pytest.raises(InputError) as raised:
        read(str(name))
    message = str(raised.value)
    assert message.isprintable() and len(message) <= 300
    return message


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_an_attack_is_refused_in_one_line_and_runs_nothing(folder, number):
    assert f"{number}.pkl: refused: " in refusal(folder / str(number))
    assert not [*folder.glob("ran*")]


def test_what_would_run_does_run_where_it_is_unpickled(tmp_path):
    mark = tmp_path / "ran"
    for what in ("os.system", "eval", "a line's name", "OBJ", "INST", "protocol 0", "a call in a dump of version 2"):
        pickle.loads(calls(str(mark))[what])
        mark.unlink()


BOUNDED = """
import resource, sys, time
from pathlib import Path
from utils import attention_dump
from utils.errors import InputError

def memory():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

before, unlimited = memory(), resource.getrlimit(resource.RLIMIT_AS)[1]
for path in sorted(Path(sys.argv[1]).glob("*.pkl"), key=lambda path: int(path.stem)):
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (before + max(200_000_000, 20 * size), unlimited))
    started = time.process_time()
    try:
        attention_dump.read(path)
    except InputError:
        pass
    assert time.process_time() - started < 1 + size / 500_000, path
    print(path.stem)
"""


def test_an_attack_takes_memory_and_time_of_its_size(folder):
    command = [sys.executable, "-c", BOUNDED, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, NAMES[len(done.stdout.split())] + done.stderr
    assert len(done.stdout.split()) == len(NAMES)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "X.pkl")
    assert "X.pkl: not a file" in refusal(tmp_path / "X")
    (tmp_path / "Y.pkl").mkdir()
    assert "Y.pkl: not a file" in refusal(tmp_path / "Y")


def test_a_message_shows_a_long_path_in_part(tmp_path):
    folder = tmp_path / ("a" * 200) / ("b" * 200)
    folder.mkdir(parents=True)
    (folder / "X.pkl").write_bytes(calls("mark")["a long name"])
    assert "X.pkl: refused: it imports nnn" in refusal(folder / "X")
    assert "Y.pkl: no such dump" in refusal(folder / "Y")


# Damage by chance


def test_every_flipped_bit_of_a_dump_is_noticed_or_changes_nothing(tmp_path):
    whole = write(small_dump(), str(tmp_path / "whole")).read_bytes()
    expected = pickle.loads(whole)
    harmless = 0
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        try:
            attention_dump.loads(bytes(damaged))
        except Refused:
            continue
        harmless += 1
        assert pickle.loads(bytes(damaged)) == expected
    assert harmless < 50  # the protocol's number, the frame's length, what is kept in the memo and not used


def mutated(data: bytes, other: bytes, generator: random.Random) -> bytes:
    """Some of the changes that fuzzers make: bits and bytes, what is left out, doubled or taken from another file."""
    data = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 8))):
        start, length = generator.randrange(len(data) + 1), generator.choice((1, 1, 2, 4, 30))
        begin = generator.randrange(len(other))
        piece = {
            "byte": bytes([generator.randrange(256)]),
            "operation": bytes([generator.choice(b"Rbetus.)]}(NhKq\x85\x86\x87\x93\x94\x8c")]),
            "left out": b"",
            "doubled": data[start : start + length] * 2,
            "other": other[begin : begin + length],
        }[generator.choice(("byte", "operation", "left out", "doubled", "other"))]
        data[start : start + generator.choice((0, length))] = piece
    return bytes(data)


def samples() -> list[bytes]:
    arrays = [np.array([0.5, 2.0]), np.array([1, 2], ">f4"), np.zeros(0, "f2"), [1.0, 2, np.float32(3)]]
    return [VERSION_1, dump_2(), *(pickle.dumps(arrays, protocol=protocol) for protocol in range(2, 6))]


def test_random_changes_are_refused_or_read_as_python_reads_them():
    """What ours has read Python's unpickler may have as well: it names nothing but numpy's arrays, rightly made."""
    generator, good = random.Random(0), samples()
    was_read = 0
    for _ in range(4000):
        data = mutated(generator.choice(good), generator.choice(good), generator)
        try:
            found = attention_dump.loads(data)
        except Refused:
            continue
        was_read += 1
        expected = pickle.loads(data)
        rows = [row.values for row in found.rows] if isinstance(found, attention_dump.Dump) else found
        if isinstance(expected, dict) and expected["version"] == 2:
            assert {key: expected[key] for key in DUMP_2} == DUMP_2
            continue
        expected = [row["values"] for row in expected["rows"]] if isinstance(expected, dict) else expected
        for row, python_row in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(row, np.asarray(python_row).astype(np.float32))
    assert was_read > 100


# What is read


def sized(operation: bytes, width: int, data: bytes) -> bytes:
    return operation + len(data).to_bytes(width, "little") + data


# An operation with its argument, and small pickles around those that need more.
TEXTS = [sized(operation, width, "é\n".encode()) for operation, width in ((b"\x8c", 1), (b"X", 4), (b"\x8d", 8))]
BINARIES = [
    sized(operation, width, b"\xff\0") for operation, width in ((b"C", 1), (b"B", 4), (b"\x8e", 8), (b"\x96", 8))
]
NUMBERS = [sized(b"\x8a", 1, data) for data in (b"", b"\xff", b"\0\1\2\3\4\5\6\7\x80")]
NUMBERS += [b"K\xff", b"M\xff\xfe", b"J\xff\xff\xff\xfe", b"G" + struct.pack(">d", -0.1)]
TUPLES = [b")", b"K\1\x85", b"K\1K\2\x86", b"K\1K\2K\3\x87", b"(K\1K\2t"]
COLLECTIONS = [b"](K\1K\2e", b"]K\1a", b"}" + TEXTS[0] + b"K\2s", b"}(" + TEXTS[0] + b"K\2u"]
MEMORIES = [b"K\7q\0h\0\x86", b"K\7r\0\0\0\0j\0\0\0\0\x86", b"K\7\x94h\0\x86"]


@pytest.mark.parametrize(
    "operations",
    [*TEXTS, *BINARIES, *NUMBERS, *TUPLES, *COLLECTIONS, *MEMORIES, b"N", b"\x88", b"\x89"],
    ids=repr,
)
def test_each_operation_reads_what_pythons_unpickler_reads(operations):
    data = b"\x80\5" + operations + b"."
    found, expected = plain_pickle.loads(data, {}), pickle.loads(data)
    assert found == expected and (type(found) is type(expected) or type(expected) is bytearray)


def test_a_dump_of_version_1_is_read_as_it_was(tmp_path):
    dump = read_dump(save(tmp_path, VERSION_1))
    expected = small_dump()
    assert (dump.model, dump.tokenizer) == (expected.model, expected.tokenizer)
    assert dump.settings == expected.settings | {"queries": "following", "layers": [0, 1]}
    assert dump.text_sha256 == [*expected.text_sha256, attention_dump.text_hash("")]
    np.testing.assert_array_equal(dump.bounds, [0, 3, 5, 5])
    for found, expected_array in ((dump.values, expected.values), (dump.offsets, expected.offsets)):
        assert found.dtype == expected_array.dtype
        np.testing.assert_array_equal(found, expected_array)
    write(dump, str(tmp_path / "Y"))
    again = read_dump(str(tmp_path / "Y"))
    assert (again.settings, again.text_sha256) == (dump.settings, dump.text_sha256)
    np.testing.assert_array_equal(again.offsets, dump.offsets)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_bare_lists_of_any_numbers_are_read(tmp_path, protocol):
    for code in ("f2", "f4", "f8", ">f2", ">f4", ">f8", "i1", ">i2", "i4", ">i8", "u1", "u8", "?"):
        array = np.array([1, 0, 1, 1]).astype(code)
        fixed = array.copy()
        fixed.flags.writeable = False
        by_column = np.asfortranarray(np.stack([array, array]))[0]
        rows = [array, fixed, array[::2], by_column, array[:0], list(array), tuple(array.tolist()), array.tolist()]
        for container in (list, tuple):
            found = read(save(tmp_path, pickle.dumps(container(rows), protocol=protocol)))
            for row, expected in zip(found, rows, strict=True):
                assert row.dtype == np.float32
                np.testing.assert_array_equal(row, np.asarray(expected).astype(np.float32))


def test_dumps_of_big_endian_machines_and_in_fortran_order_are_read_rightly(tmp_path):
    """numpy's own unpickling of a type in the other byte order is where foreign bytes could reach its insides."""
    values, offsets = np.array([0.5, 0.25]), np.array([[0, 3], [3, 7]])
    changed = content(values=values.astype(">f4"), offsets=np.asfortranarray(offsets.astype(">i4")))
    dump = read_dump(save(tmp_path, pickle.dumps(changed, protocol=4)))
    assert (dump.values.dtype, dump.offsets.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(dump.values, values)
    np.testing.assert_array_equal(dump.offsets, offsets)


def test_a_row_that_a_list_holds_often_is_read(tmp_path):
    found = read(save(tmp_path, pickle.dumps([np.ones(1000)] * 100_000)))
    assert len(found) == 100_000 and found[0] is found[-1]


def test_a_dump_without_texts_is_read(tmp_path):
    write(attention_dump.Dump.of("m", "t", {}, []), str(tmp_path / "X"))
    for dump in (read_dump(str(tmp_path / "X")), read_dump(save(tmp_path, pickle.dumps(content(rows=[]))))):
        assert (dump.text_sha256, dump.values.shape, dump.offsets.shape, dump.bounds.tolist()) == (
            [],
            (0,),
            (0, 2),
            [0],
        )


def test_names_are_written_so_that_they_can_be_read(tmp_path):
    dump = small_dump()
    dump.model = "a\nfolder \x1b[2J"
    write(dump, str(tmp_path / "X"))
    assert read_dump(str(tmp_path / "X")).model == "a\\nfolder \\x1b[2J"


def test_settings_that_a_dump_does_not_hold_are_not_written(tmp_path):
    for wrong in ({"a": np.zeros(1)}, {"a": (1,)}, {1: 1}, {"a": "\x1b[2J"}, {"a": b"a"}):
        dump = small_dump()
        dump.settings = wrong
        with pytest.raises(ValueError, match="settings"):
            write(dump, str(tmp_path / "X"))
        assert not [*tmp_path.iterdir()]
