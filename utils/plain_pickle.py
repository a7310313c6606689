"""What a pickle holds, where that is plain: containers, strings, numbers, bytes and, if asked for, numpy arrays.

Python's unpickler calls what a file names, lets it set the insides of what it made, and makes its memo as long as a
file says. So nothing here unpickles: this is a reader of our own, in Python, for the few operations that pickles of
plain content are made of (protocols 2 to 5). Any other operation is refused, by its number.

- A name is refused, or read as one of NUMPY's functions, which are all below and make `Dtype` and `Array`: objects of
  ours that only keep what they were told, once they have checked it. numpy sees it when the file has been read whole,
  and then only a type of number, a byte order, a shape and bytes of that length (`Array.made`).
- Memory and time are bounded by the file's size. An operation is one step, whatever it says of lengths: these must lie
  within the file, and the memo's numbers must follow each other, as they do in any pickle. What takes more memory than
  nine bytes for each byte of the file is paid for from `Room`.
- A value that is used again through the memo is one object in memory. It may contain itself, so a walk through it may
  never end. So nothing here looks deeper than it must, errors show only names, and a walk pays for each step.
"""

import mmap
import struct
from collections.abc import Callable
from math import prod
from types import FunctionType

import numpy as np

# Booleans, integers and floats of a known size: types whose bytes are no pointers.
NUMBERS = {"b1": 1, "i1": 1, "i2": 2, "i4": 4, "i8": 8, "u1": 1, "u2": 2, "u4": 4, "u8": 8, "f2": 2, "f4": 4, "f8": 8}

# From this length on, bytes are a view of the data: of a file that is mapped, they stay on the disk until looked at.
LONG = 2**16

MARKS = 100  # how many lists, dicts or tuples may be open within each other: each open one is an object
STOP = ord(".")


class Refused(ValueError):
    """A pickle holds, or asks for, what it has no use for here."""


class NameRefused(Refused):
    """A pickle asks for something by its name."""


class Room:
    """Memory that may be used, in bytes: `times` the size of the file, and some for the smallest."""

    def __init__(self, size: int, times: int):
        self.left = times * size + 30_000_000

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise Refused("it would take far more memory than its size")


class Dtype:
    """Stands for a numpy.dtype."""

    __slots__ = ("code", "order")

    def __init__(self, code: str):
        self.code, self.order = code, None

    def __setstate__(self, state: object) -> None:
        orders = "|" if NUMBERS[self.code] == 1 else "<>"
        if self.order is not None or state not in [(3, order, None, None, None, -1, -1, 0) for order in orders]:
            raise Refused("it holds an array whose type is no plain number")
        self.order = state[1]


class Array:
    """Stands for a numpy.ndarray or, with shape (), for a number of numpy's."""

    __slots__ = ("dtype", "shape", "fortran", "data")

    def __init__(self):
        self.dtype, self.shape = None, ()

    def __setstate__(self, state: object) -> None:
        expected = (int, tuple, Dtype, bool, bytes)
        if type(state) is not tuple or tuple(map(type, state)) != expected or self.dtype is not None:
            raise Refused("it holds an array that is not of numbers")
        version, self.shape, self.dtype, self.fortran, self.data = state
        lengths = all(type(length) is int and 0 <= length < 2**31 for length in self.shape)
        if version != 1 or not lengths or len(self.shape) > 2:
            raise Refused("it holds an array of more than two dimensions, or one with an invalid shape")

    @property
    def code(self) -> str:
        return "" if self.dtype is None else self.dtype.code

    def made(self) -> np.ndarray:
        """The array itself, a view of the pickle's bytes."""
        if self.dtype is None or self.dtype.order is None:
            raise Refused("it holds an array without its content")
        if prod(self.shape) * NUMBERS[self.code] != len(self.data):
            raise Refused("it holds an array of more or fewer bytes than its shape needs")
        dtype = np.dtype(self.dtype.order + self.code)
        return np.ndarray(self.shape, dtype, self.data, order="F" if self.fortran else "C")


def _dtype(code: object, align: object, copy: object) -> Dtype:
    if type(code) is not str or code not in NUMBERS or (align, copy) != (False, True):
        shown = repr(code[:20]) if type(code) is str else type(code).__name__
        raise Refused(f"it holds an array of {shown}, and a dump's arrays are of numbers")
    return Dtype(code)


def _reconstruct(array_class: object, shape: object, code: object) -> Array:
    if (array_class, shape, code) != (_ndarray, (0,), b"b"):
        raise Refused("it holds an array whose class is not numpy's")
    return Array()  # whose state the pickle then sets


def _ndarray(*arguments: object) -> None:
    raise Refused("it calls numpy.ndarray, which pickles of arrays only mention")


def _frombuffer(data: object, dtype: object, shape: object, order: object) -> Array:
    if order not in ("C", "F"):
        raise Refused("it holds an array with an unknown memory order")
    array = Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: object, data: object) -> Array:
    return _frombuffer(data, dtype, (), "C")


def _encode(text: object, encoding: object) -> bytes:
    """Protocol 2 has no bytes: they are text there, each character a byte."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("it encodes text in a way that no pickle of bytes does")
    return text.encode("latin1")


def _bytes() -> bytes:
    return b""


# The names in pickles of numpy's arrays and numbers: numpy 2 writes `numpy._core`, numpy 1 `numpy.core`.
NUMPY = {
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _ndarray,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


def loads(data: bytes | mmap.mmap, names: dict[tuple[str, str], Callable]) -> object:
    """What the pickle holds; only `names` may be named in it: {} or NUMPY. With {}, LONG bytes are a memoryview.

    Raises Refused (NameRefused for a name).
    """
    if data[:1] != b"\x80" or data[1:2] not in (b"\2", b"\3", b"\4", b"\5"):
        raise Refused("not a pickle of protocol 2 to 5")
    try:
        return _Reader(data, names).content()
    except Refused:
        raise
    except (IndexError, TypeError, ValueError) as error:
        # Something missing: an operation, what it works on, an argument; or text that is none.
        raise Refused("a damaged pickle") from error


class _Reader:
    def __init__(self, data: bytes | mmap.mmap, names: dict[tuple[str, str], Callable]):
        self.data, self.names = data, names
        self.at = 2  # behind the protocol's number
        self.stack, self.below = [], []  # what was read since the last mark; the stacks below that mark
        self.memo = []
        # With nine bytes a byte for the stack and the memo, and the file itself, this makes 20 times its size.
        self.room = Room(len(data), 10)

    def content(self) -> object:
        data, room = self.data, self.room
        while (number := data[self.at]) != STOP:
            self.at += 1
            if number not in OPERATIONS:
                raise Refused(f"it uses the pickle operation {number:#04x}, which is not allowed in a dump")
            step, argument, cost = OPERATIONS[number]
            if cost:
                room.spend(cost)
            step(self, argument)
        if self.below or len(self.stack) != 1 or self.at + 1 != len(data):
            raise Refused("a damaged pickle: something is left over at its end")
        return self.stack[0]

    def next(self, length: int) -> slice:
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise Refused("a damaged pickle: it ends too early")
        return slice(start, self.at)

    def take(self, length: int) -> bytes:
        return self.data[self.next(length)]

    def number(self, width: int) -> int:
        if width == 1:
            self.at += 1
            return self.data[self.at - 1]
        return int.from_bytes(self.take(width), "little")

    def frame(self, width: int) -> None:
        if self.number(width) > len(self.data) - self.at:
            raise Refused("a damaged pickle: it ends too early")

    # Numbers, strings and bytes

    def constant(self, value: object) -> None:
        self.stack.append(value)

    def unsigned(self, width: int) -> None:
        self.stack.append(self.number(width))

    def signed(self, width: int) -> None:
        self.stack.append(int.from_bytes(self.take(width), "little", signed=True))

    def long_integer(self, width: int) -> None:
        self.signed(self.number(width))

    def real(self, width: int) -> None:
        self.stack.append(struct.unpack(">d", self.take(width))[0])

    def text(self, width: int) -> None:
        self.stack.append(self.take(self.number(width)).decode("utf-8", "surrogatepass"))

    def binary(self, width: int) -> None:
        length = self.number(width)
        data = memoryview(self.data) if length >= LONG and not self.names else self.data
        self.stack.append(data[self.next(length)])

    # Containers

    def mark(self, _: None) -> None:
        if len(self.below) == MARKS:
            raise Refused("its containers are nested too deeply")
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.below.pop()
        self.room.spend(9 * len(items))
        return items

    def top(self, kind: type) -> list | dict:
        if type(self.stack[-1]) is not kind:
            raise Refused("a damaged pickle: it fills what is no container")
        return self.stack[-1]

    def new_list(self, _: None) -> None:
        self.stack.append([])

    def append(self, _: None) -> None:
        item = self.stack.pop()
        self.top(list).append(item)

    def extend(self, _: None) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def new_dict(self, _: None) -> None:
        self.stack.append({})

    def set_item(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def set_items(self, _: None) -> None:
        self.update(self.since_mark())

    def update(self, items: list) -> None:
        filled = self.top(dict)
        # Also since the hash of a tuple is that of all within it, however deep.
        if len(items) % 2 or any(type(key) is not str for key in items[::2]):
            raise Refused("it holds a dict whose keys are not strings")
        self.room.spend(50 * len(items))
        filled.update(zip(items[::2], items[1::2], strict=True))

    def tuple_since_mark(self, _: None) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def tuple_of(self, length: int) -> None:
        if len(self.stack) < length:
            raise Refused("a damaged pickle: a tuple lacks its items")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    # The memo

    def memoize(self, _: None) -> None:
        self.memo.append(self.stack[-1])

    def put(self, width: int) -> None:
        if self.number(width) != len(self.memo):
            raise Refused("it numbers its memo as no pickle is numbered")
        self.memo.append(self.stack[-1])

    def get(self, width: int) -> None:
        self.stack.append(self.memo[self.number(width)])

    # Names and what is done with them

    def line(self) -> str:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise Refused("a damaged pickle: it ends too early")
        taken = self.take(end - self.at)
        self.at += 1
        return taken.decode("utf-8")

    def name_in_lines(self, _: None) -> None:
        module = self.line()
        self.named(module, self.line())

    def name_on_stack(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("a damaged pickle: a name is no text")
        self.named(module, name)

    def named(self, module: str, name: str) -> None:
        if (module, name) not in self.names:
            raise NameRefused(f"it imports {module[:50]}.{name[:50]}, which is not allowed in a dump")
        self.stack.append(self.names[module, name])

    def call(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        # Only `named` lays functions on the stack.
        if type(function) is not FunctionType or type(arguments) is not tuple:
            raise Refused("it calls what can't be called")
        made = function(*arguments)
        if type(made) is bytes:
            self.room.spend(len(made))
        self.stack.append(made)

    def set_state(self, _: None) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) not in (Dtype, Array):
            raise Refused("it sets the state of what has none")
        self.stack[-1].__setstate__(state)


# An operation's number: what is done, with which argument, and the most memory that it takes for what it makes, beside
# the bytes that it read and nine for the stack or the memo.
OPERATIONS = {
    0x95: (_Reader.frame, 8, 0),
    ord("N"): (_Reader.constant, None, 0),
    0x88: (_Reader.constant, True, 0),
    0x89: (_Reader.constant, False, 0),
    ord("K"): (_Reader.unsigned, 1, 0),
    ord("M"): (_Reader.unsigned, 2, 32),
    ord("J"): (_Reader.signed, 4, 32),
    0x8A: (_Reader.long_integer, 1, 32),
    ord("G"): (_Reader.real, 8, 0),
    0x8C: (_Reader.text, 1, 80),
    ord("X"): (_Reader.text, 4, 80),
    0x8D: (_Reader.text, 8, 80),
    ord("C"): (_Reader.binary, 1, 40),
    ord("B"): (_Reader.binary, 4, 40),
    0x8E: (_Reader.binary, 8, 40),
    0x96: (_Reader.binary, 8, 40),  # a bytearray's
    ord("("): (_Reader.mark, None, 0),
    ord("]"): (_Reader.new_list, None, 96),
    ord("a"): (_Reader.append, None, 0),
    ord("e"): (_Reader.extend, None, 0),
    ord("}"): (_Reader.new_dict, None, 232),
    ord("s"): (_Reader.set_item, None, 0),
    ord("u"): (_Reader.set_items, None, 0),
    ord(")"): (_Reader.constant, (), 0),
    0x85: (_Reader.tuple_of, 1, 48),
    0x86: (_Reader.tuple_of, 2, 56),
    0x87: (_Reader.tuple_of, 3, 64),
    ord("t"): (_Reader.tuple_since_mark, None, 40),
    0x94: (_Reader.memoize, None, 0),
    ord("q"): (_Reader.put, 1, 0),
    ord("r"): (_Reader.put, 4, 0),
    ord("h"): (_Reader.get, 1, 0),
    ord("j"): (_Reader.get, 4, 0),
    ord("c"): (_Reader.name_in_lines, None, 0),
    0x93: (_Reader.name_on_stack, None, 0),
    ord("R"): (_Reader.call, None, 64),
    ord("b"): (_Reader.set_state, None, 0),
}
