"""What crosses unchanged, and what never comes out of a frame whatever bytes it holds."""

import json
import math
import socket
from collections import namedtuple
from enum import IntEnum, StrEnum

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.remote import frames, wire


def crossed(value):
    return wire.unpack(wire.pack(value))


def frame(node, body=b""):
    """A frame of a JSON node (or of raw bytes in its place) and a body."""
    data = node if isinstance(node, bytes) else json.dumps(node).encode()
    return wire.JSON_LENGTH.pack(len(data)) + data + body


def same(a, b):
    """Equal in kind, dtype, shape and every number, NaN and signs of zero included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        parts = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*parts)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    return a == b


DTYPES = st.sampled_from(sorted(wire.DTYPES))
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def tensors(draw):
    dtype, shape = wire.DTYPES[draw(DTYPES)], draw(SHAPES)
    if dtype == torch.bool:
        return torch.randint(2, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))).bool()
    data = draw(st.binary(min_size=(size := math.prod(shape) * dtype.itemsize), max_size=size))
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


@st.composite
def arrays(draw):
    dtype, shape = np.dtype(draw(st.sampled_from(sorted(wire.NUMPY_DTYPES)))), draw(SHAPES)
    data = draw(st.binary(min_size=(size := math.prod(shape) * dtype.itemsize), max_size=size))
    array = np.frombuffer(data, np.uint8) % 2 == 1 if dtype.name == "bool" else np.frombuffer(data, dtype)
    return array.reshape(shape)


# Two lone surrogates in a row can be a pair, which JSON reads as the one character they stand for.
TEXT = st.text(st.characters(codec="utf-8")) | st.sampled_from(["\ud800", "a\udc80b", "\\ud800", '"', "\x00", "\u2028"])
KEYS = st.none() | st.booleans() | st.integers() | TEXT | st.floats(allow_nan=False) | st.tuples(st.integers(), TEXT)
LEAVES = (
    KEYS | st.floats() | st.complex_numbers() | st.binary(max_size=20) | tensors() | arrays()
    | arrays().filter(lambda array: array.size == 1).map(lambda array: array.reshape(())[()])
    | SHAPES.map(torch.Size) | DTYPES.map(wire.DTYPES.get)
    | st.sampled_from([torch.device("cpu"), torch.device("cuda:1")])
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(deadline=None, max_examples=400)
def test_what_crosses_arrives_as_it_was(value):
    assert same(crossed(value), value)


@pytest.mark.parametrize("name", sorted(wire.DTYPES))
def test_tensors_of_every_dtype_cross_in_every_shape(name):
    for shape in ((), (0,), (0, 3), (1,), (2, 3), (1,) * wire.MAX_DIMENSIONS):
        value = torch.ones(shape, dtype=wire.DTYPES[name])
        assert same(crossed(value), value)


BASE = torch.arange(12, dtype=torch.float64).reshape(3, 4)


@pytest.mark.parametrize(
    "value",
    [
        BASE.T,
        BASE[::2, 1::2],
        BASE[1].expand(3, 4),
        BASE.to(torch.complex128).mul(1j).conj(),
        torch.view_as_complex(BASE.reshape(-1, 2)).conj().imag,
        BASE.clone().requires_grad_(),
        torch.nn.Parameter(BASE.clone()),
        BASE.clone().requires_grad_().square(),
        torch.empty_strided((0,), (0,)),
        BASE.to(torch.bfloat16).T,
    ],
    ids=[
        "transposed",
        "strided",
        "expanded",
        "conjugated",
        "negated",
        "leaf",
        "parameter",
        "with a graph",
        "empty",
        "transposed bfloat16",
    ],
)
def test_any_view_of_a_tensor_crosses_as_its_numbers(value):
    got = crossed(value)
    assert type(got) is torch.Tensor and not got.requires_grad and got.is_contiguous()
    assert torch.equal(got, value.detach())


def test_views_of_one_storage_arrive_as_separate_tensors():
    row, whole = crossed([BASE[0], BASE])
    row.fill_(-1.0)
    assert torch.equal(whole, BASE)


def test_arrays_in_foreign_byte_and_memory_order_cross_as_their_numbers():
    for value in (np.arange(3, dtype=">f4"), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(6)[::-2]):
        np.testing.assert_array_equal(crossed(value), value)


def test_a_masked_array_crosses_as_the_numbers_that_it_holds():
    np.testing.assert_array_equal(crossed(np.ma.array([1.0, 2.0], mask=[False, True])), [1.0, 2.0])


def test_subclasses_of_builtin_types_cross_as_the_type_that_they_extend():
    Pair = namedtuple("Pair", "a b")
    Colour = StrEnum("Colour", "RED")
    Number = IntEnum("Number", "ONE")

    class Verbose(float):
        def __repr__(self):
            return "__import__('os')"

    got = crossed([Pair(1, 2), Colour.RED, Number.ONE, Verbose(0.5), Verbose("inf")])
    assert got == [(1, 2), "red", 1, 0.5, math.inf]
    assert [type(item) for item in got] == [tuple, str, int, float, float]


@pytest.mark.parametrize(
    "value",
    [
        object(), len, lambda: 0, bytearray(b"x"), {1, 2}, slice(1), range(3), torch.nn.Linear(1, 1), torch.Generator(),
        torch.distributions.Normal(0.0, 1.0), torch.ones(2).to_sparse(), torch.empty(2, device="meta"),
        torch.ones((1,) * 9), np.ones((1,) * 9), np.array(["a"]), np.array([object()]), np.datetime64("2027-01-01"),
        np.longdouble(1), torch.float8_e4m3fn, 10**5000, [[object()]], {object(): 1},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_not_data_is_refused_by_the_sender(value):
    with pytest.raises(wire.WireError):
        wire.pack(value)


def nested(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("fits", "too_much"),
    [
        ("x" * (wire.MAX_JSON - 2), "x" * (wire.MAX_JSON - 1)),
        ([torch.ones(1)] * wire.MAX_TENSORS, [torch.ones(1)] * (wire.MAX_TENSORS + 1)),
        (nested(wire.MAX_DEPTH), nested(wire.MAX_DEPTH + 1)),
        (bytes(wire.MAX_FRAME - wire.MAX_JSON - 64), bytes(wire.MAX_FRAME - wire.MAX_JSON - 63)),
    ],
    ids=["JSON", "tensors", "depth", "frame"],
)
def test_the_sender_keeps_to_each_limit(fits, too_much):
    assert len(wire.pack(fits)) <= wire.MAX_FRAME
    with pytest.raises(wire.WireError):
        wire.pack(too_much)


def tensor(shape, dtype="float32", tag="tensor"):
    return {"t": tag, "dtype": dtype, "shape": shape, "device": "cpu"}


REFUSED = {
    "nothing": b"",
    "a frame larger than allowed": frame(0).ljust(wire.MAX_FRAME + 1, b" "),
    "JSON larger than allowed": frame(b'"' + b"x" * wire.MAX_JSON + b'"'),
    "JSON longer than the frame": wire.JSON_LENGTH.pack(9) + b"0",
    "no JSON": frame(b""),
    "not JSON": frame(b"{'t': 1}"),
    "not text": frame(b'"\xff"'),
    "a second value": frame(b"1 2"),
    "NaN": frame(b"NaN"),
    "Infinity": frame(b"[-Infinity]"),
    "a number out of range": frame(b"1e999"),
    "an integer of 5000 digits": frame(b"9" * 5000),
    "a key twice": frame(b'{"t":"float","v":"inf","v":"nan"}'),
    "a tag twice": frame(b'{"t":"float","t":"bytes","v":"inf"}'),
    "lists without end": frame(b"[" * 200_000),
    "lists too deep": frame(b"[" * 100_000 + b"]" * 100_000),
    "objects too deep": frame(b'{"t":' * 40_000 + b"1" + b"}" * 40_000),
    "values one level too deep": frame(nested(wire.MAX_DEPTH + 1)),
    "tuples one level too deep": frame(b'{"t":"tuple","v":[' * 18 + b"]}" * 18),
    "no tag": frame({"v": 1}),
    "a tag that is a list": frame({"t": ["float"], "v": "inf"}),
    "an unknown tag": frame({"t": "pickle", "v": "gASVAAAA"}),
    "a function": frame({"t": "function", "name": "f", "source": "def f(): pass"}),
    "a partial": frame({"t": "partial", "function": None, "args": [], "kwargs": {}}),
    "a generator": frame({"t": "generator", "device": "cpu", "state": tensor([0], "uint8")}),
    "a distribution": frame({"t": "distribution", "name": "Normal", "args": [0.0, 1.0], "kwargs": {}}),
    "a handle": frame({"t": "handle", "id": 0, "type": "Linear"}),
    "an unknown dtype": frame(tensor([1], "float8_e4m3fn"), bytes(1)),
    "an object dtype": frame(tensor([1], "object", "ndarray"), bytes(8)),
    "a dtype that is a list": frame(tensor([1], ["float32"]), bytes(4)),
    "an array of bfloat16": frame(tensor([1], "bfloat16", "ndarray"), bytes(2)),
    "nine dimensions": frame(tensor([1] * 9), bytes(4)),
    "a negative size": frame(tensor([-1, -1]), bytes(4)),
    "a size that is true": frame(tensor([True]), bytes(4)),
    "a size that is a fraction": frame(tensor([1.0]), bytes(4)),
    "a shape that is a number": frame(tensor(1), bytes(4)),
    "no shape": frame({"t": "tensor", "dtype": "float32"}, bytes(4)),
    "a shape that overflows": frame(tensor([2**40] * 8)),
    "a shape of none that overflows": frame(tensor([2**47, 2**47, 0])),
    "an array of none that overflows": frame(tensor([2**47, 2**47, 0], tag="ndarray")),
    "a huge size": frame(tensor([2**100])),
    "too few bytes": frame(tensor([2]), bytes(7)),
    "too many bytes": frame(tensor([2]), bytes(9)),
    "bytes for nothing": frame(0, b"x"),
    "bytes longer than the body": frame({"t": "bytes", "n": 2}, b"x"),
    "negative bytes": frame({"t": "bytes", "n": -1}, b"x"),
    "a scalar with a shape": frame(tensor([1], tag="scalar"), bytes(4)),
    "too many tensors": frame([tensor([0])] * (wire.MAX_TENSORS + 1)),
    "a dict with a key twice": frame({"t": "dict", "v": [[1, 2], [1, 3]]}),
    "a dict with a list for a key": frame({"t": "dict", "v": [[[], 2]]}),
    "a dict of triples": frame({"t": "dict", "v": [[1, 2, 3]]}),
    "a tuple of nothing": frame({"t": "tuple", "v": None}),
    "an unknown float": frame({"t": "float", "v": "1e5"}),
    "a float that is a list": frame({"t": "float", "v": []}),
    "a complex of three": frame({"t": "complex", "v": [1, 2, 3]}),
    "a complex of texts": frame({"t": "complex", "v": ["1", "2"]}),
    "a complex out of range": frame({"t": "complex", "v": [10**400, 0]}),
    "a size object of texts": frame({"t": "size", "v": "12"}),
    "an unknown device": frame({"t": "device", "v": "oven"}),
    "a device out of range": frame({"t": "device", "v": "cuda:99999999999999999999"}),
    "a device that is a list": frame({"t": "device", "v": []}),
    "a device with more behind it": frame({"t": "device", "v": "cuda:0\n"}),
    "a device without memory": frame({"t": "device", "v": "meta"}),
    "a tensor on an unknown device": frame({**tensor([2]), "device": "oven"}, bytes(8)),
    "a tensor on a device without memory": frame({**tensor([2]), "device": "meta"}, bytes(8)),
    "a tensor on a device that is a number": frame({**tensor([2]), "device": 0}, bytes(8)),
    "a tensor on no device": frame({"t": "tensor", "dtype": "float32", "shape": [2]}, bytes(8)),
}


@pytest.mark.parametrize("hostile", REFUSED.values(), ids=REFUSED)
def test_a_frame_that_breaks_the_format_is_refused(hostile):
    with pytest.raises(wire.WireError):
        wire.unpack(hostile)


def test_a_well_formed_frame_made_by_hand_is_read():
    """The refusals above are for the reason they name: their likes without it are read."""
    assert torch.equal(wire.unpack(frame(tensor([2]), bytes(8))), torch.zeros(2))
    assert wire.unpack(frame(b'{"t":"tuple","v":[' * 17 + b"]}" * 17))
    assert wire.unpack(frame({"t": "bytes", "n": 1}, b"x")) == b"x"
    assert wire.unpack(frame(tensor([], tag="scalar"), bytes(4))) == 0


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda", "lazy:0"])
def test_a_tensor_says_where_it_was_and_is_made_on_the_cpu(device):
    value = wire.unpack(frame({**tensor([2]), "device": device}, bytes(8)))
    assert type(value) is torch.Tensor and value.device == torch.device("cpu")
    assert wire.device_of(value) == torch.device(device)
    assert wire.device_of(crossed(value)) == torch.device(device)


@pytest.mark.parametrize(
    "value",
    [torch.empty(2, device="meta"), torch.device("meta"), torch.device("xpu:0"), torch.device("cpu:0")],
    ids=str,
)
def test_what_is_on_a_device_that_may_not_cross_is_refused(value):
    with pytest.raises(wire.WireError, match="is not data"):
        wire.pack(value)


@pytest.mark.parametrize("tag", ["tensor", "ndarray"])
def test_boolean_bytes_become_proper_booleans(tag):
    value = wire.unpack(frame(tensor([4], "bool", tag), bytes([0, 1, 2, 255])))
    assert value.tolist() == [False, True, True, True]
    assert int(value.sum()) == 3


def test_frames_and_descriptors_cross_a_socket():
    here, there = socket.socketpair()
    with here, there, socket.socket() as other:
        frames.send_frame(here, wire.pack("a"))
        socket.send_fds(here, frames.packets(wire.pack("b")), [other.fileno()])
        first, none = frames.receive_frame(there)
        second, [descriptor] = frames.receive_frame(there)
        assert (wire.unpack(first), none, wire.unpack(second)) == ("a", [], "b")
        socket.socket(fileno=descriptor).close()
        here.close()
        with pytest.raises(EOFError):
            frames.receive_frame(there)


def test_a_length_over_the_limit_is_refused_before_anything_is_read():
    here, there = socket.socketpair()
    with here, there:
        here.sendall(frames.FRAME_LENGTH.pack(wire.MAX_FRAME + 1))
        with pytest.raises(wire.WireError):
            frames.receive_frame(there)


def test_a_shape_that_is_empty_but_huge_is_refused() -> None:
    empty = b'{"t":"tensor","dtype":"float32","shape":[0,536870912],"device":"cpu"}'
    frame = wire.JSON_LENGTH.pack(len(empty)) + empty
    with pytest.raises(wire.WireError, match="larger than a frame"):
        wire.unpack(frame)
