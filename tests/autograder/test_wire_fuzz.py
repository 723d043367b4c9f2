"""Frames that no honest side would send: each is read as data or refused, in memory that its length bounds.

Hypothesis draws a recipe of a few bytes; a recipe makes a family of frames: JSON of the format's own shapes with lies
in it, a body that fits or does not, then the same frame cut short, with lengths that lie, and with parts changed.
"""

import builtins
import contextlib
import json
import math
import random
import re
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from autograder.checks import CheckFailure, assert_close
from autograder.course import Limits
from autograder.remote import frames, wire
from autograder.remote.client import Remote, Student, StudentError, _Decoder
from autograder.remote.server import UNREADABLE
from autograder.sandbox.room import Room, RoomEnded

FAMILY = 20
"""Frames that one recipe makes."""
PER_JSON_BYTE, PER_BODY_BYTE, BESIDES = 64, 2, 2**17
"""Bytes that decoding may hold at once: for each byte of JSON ("[]," becomes two lists), of the body, and besides."""

PLAIN_TYPES = {
    type(None), bool, int, float, complex, str, bytes, list, tuple, dict, torch.Tensor, torch.Size, torch.dtype,
    torch.device, np.ndarray, Remote,
}  # fmt: skip
ATOMS = (
    "null", "true", "false", "0", "1", "-1", "2", "7", "255", "1.5", "-0.0", "-0", "1E5", "1e308", "5e-324", '""',
    '"a"', str(2**31), str(2**48), str(2**63), str(2**64), str(10**400), "9" * 4300, '"\\ud800"', '"\\ud83d\\ude00"',
    "[]", '"\\udc80"', '"\\u0000"', '"\\u202e"', '"' + "x" * 3000 + '"', "[[]]", "\t1\n",
)  # fmt: skip
NO_ATOMS = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 10**5, "01", "+1", ".5", "1e", '"', "''", '"\\x"',
    '"\x00"', '"\n"', "{}", '{"t":1}', '{"t":null}', '{"v":1}', '{"t":[]}', "[", "]", "{", "}", ",", "", " ", "\ufeff1",
    "1 2", "//", '"\ud800"', "undefined",
)  # fmt: skip
TOKEN = re.compile(r'"[^"]*"|[-+.\w]+')
TAGS = (
    *wire.Decoder._BUILDERS, "handle", "function", "partial", "generator", "distribution", "pickle", "", "__class__",
)  # fmt: skip
DTYPES = (*wire.DTYPES, "object", "float8_e4m3fn", "O8", "U4", "datetime64", "", "Float32")
DEVICES = ("cpu", "cuda", "cuda:0", "lazy:0", "lazy", "meta", "mps", "cuda:10", "cpu:0", "privateuseone", "")
SIZES = (0, 0, 1, 1, 2, 3, 4, 7, -1, 2**26, 2**26 + 1, 2**31, 2**47, 2**48, 2**63)
FLOATS = ("inf", "-inf", "nan", "1.0", "Infinity", "NaN", "")


class Recipe:
    """Turns bytes into choices; when they are used up, every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self.bytes = iter(data)
        self.body: list[bytes] = []

    def number(self, below: int) -> int:
        """A number from 0 up to, not including, `below`, which may be large."""
        value, span = next(self.bytes, 0), 256
        while span < below:
            value, span = value * 256 + next(self.bytes, 0), span * 256
        return value % below

    def of(self, options):
        """One of the options."""
        return options[self.number(len(options))]

    def seldom(self) -> bool:
        """True once in eight."""
        return self.number(8) == 7

    def node(self, depth: int = 0) -> str:
        """The text of a JSON node; tensor bytes go to the body."""
        kind = self.number(12)
        if kind <= 1 or depth > 5:
            return self.of(NO_ATOMS if self.seldom() and self.seldom() else ATOMS)
        if kind <= 3:
            return f"[{','.join(self.node(depth + 1) for _ in range(self.number(5)))}]"
        if kind == 4 and self.seldom():
            opening, closing = self.of((("[", "]"), ('{"t":"tuple","v":[', "]}"), ('{"t":', "}")))
            levels = self.of((15, 16, 17, 18, 60, 1000, 2000))
            return opening * levels + self.node(6) + closing * levels
        if kind == 5 and self.seldom():
            return f"[{','.join([self.of(ATOMS[:17])] * self.of((255, 256, 257, 3000, 60_000)))}]"
        return self.tagged(depth)

    def tagged(self, depth: int) -> str:
        """An object with a tag and the fields that go with it, or others."""
        tag = self.of(TAGS)
        fields = [("t", json.dumps(tag)), *(() if self.seldom() else self.fields(tag, depth))]
        if self.seldom():
            fields.append((self.of(("t", "v", "shape", "dtype", "n", "more")), self.node(depth + 1)))
        return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields) + "}"

    def fields(self, tag: str, depth: int) -> list[tuple[str, str]]:
        """What an honest object of this tag holds, with lies among it."""
        inner = [self.node(depth + 1) for _ in range(self.number(4))]
        if tag in ("tensor", "ndarray", "scalar"):
            return self.tensor(tag)
        if tag == "bytes":
            count = self.of((0, 1, 5, 100, -1, 2**48, 2**26))
            self.body.append(bytes(min(max(count, 0), 200)))
            return [("n", str(count))]
        if tag == "dict":
            pairs = [f"[{key},{self.node(depth + 1)}]" for key in inner]
            return [("v", f"[{','.join(pairs)}]")]
        if tag in ("float", "dtype", "device"):
            return [("v", json.dumps(self.of({"float": FLOATS, "dtype": DTYPES, "device": DEVICES}[tag])))]
        if tag == "handle":
            return [("id", self.of(("0", "1", "-1", str(2**70), "null", "true", "1.0"))), ("type", '"Linear"')]
        if tag == "function":
            return [("name", '"f"'), ("source", "\"f = __import__('os').getpid\"")]
        if tag == "generator":
            return [("device", '{"t":"device","v":"cpu"}'), ("state", '{"t":"bytes","n":0}')]
        if tag == "distribution":
            return [("name", '"Normal"'), ("args", "[0.0,1.0]"), ("kwargs", '{"t":"dict","v":[]}')]
        return [("v", f"[{','.join(inner)}]")]  # tuple, size, complex and what is unknown

    def tensor(self, tag: str) -> list[tuple[str, str]]:
        """The fields of a tensor, and its bytes: as many as it says, or not."""
        dtype = self.of(DTYPES)
        shape = (
            [] if tag == "scalar" and not self.seldom() else [self.of(SIZES) for _ in range(self.of((1, 2, 0, 3, 9)))]
        )
        size = getattr(getattr(torch, dtype, None), "itemsize", 1)
        count = math.prod(shape) * size + self.of((0, 0, 0, 0, 0, 1, -1, size))
        if 0 < count <= 2**14:
            self.body.append(bytes([self.number(256)]) * count)
        fields = [("dtype", json.dumps(dtype)), ("shape", json.dumps(shape)), ("device", json.dumps(self.of(DEVICES)))]
        return fields[: 2 if self.seldom() else 3]

    def frames(self) -> Iterator[bytes]:
        """The family."""
        text, body = self.node(), b"".join(self.body)
        whole = framed(text, body)
        dice = random.Random(whole)
        yield whole
        for _ in range(2):
            yield whole[: dice.randrange(len(whole))]
        size = int.from_bytes(whole[:4])
        for lie in dice.sample((size - 1, size + 1, 0, 1, len(whole), wire.MAX_JSON, wire.MAX_JSON + 1, 2**32 - 1), 2):
            yield wire.JSON_LENGTH.pack(max(lie, 0)) + whole[wire.JSON_LENGTH.size :]
        yield framed(text, body[1:] or b"x")
        others = (*ATOMS, *NO_ATOMS, *map(json.dumps, (*TAGS, *DTYPES, *DEVICES)), *map(str, SIZES))
        for _ in range(9):
            tokens = list(TOKEN.finditer(text)) or [re.match("", text)]
            token = dice.choice(tokens)
            yield framed(text[: token.start()] + dice.choice((*others, text[:200])) + text[token.end() :], body)
        for _ in range(3):
            changed = bytearray(whole)
            for _ in range(dice.randint(1, 4)):
                changed[dice.randrange(len(changed))] = dice.choice(b'[]{},:"0123456789.eE-+\\ntu\x00\xff\x80')
            yield bytes(changed)
        for _ in range(2):
            start, length = dice.randrange(len(whole)), dice.randint(1, 16)
            piece = dice.choice((b"", whole[start : start + length] * 2, body, b"[" * 50))
            yield whole[:start] + piece + whole[start + length :]


def framed(text: str, body: bytes) -> bytes:
    """A frame whose lengths are right."""
    data = text.encode("utf-8", "surrogatepass")
    return wire.JSON_LENGTH.pack(len(data)) + data + body


def plain(value: object) -> bool:
    """Whether a value and all in it is data of the kinds that may cross, or a name for what stays on the other side."""
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    if isinstance(value, list | tuple) and type(value) is not torch.Size:
        return type(value) in PLAIN_TYPES and all(map(plain, value))
    return type(value) in PLAIN_TYPES or isinstance(value, np.generic)


NOBODY = Student(lambda frame: pytest.fail("decoding asked the student's side something"))


def read_or_refused(frame: bytes) -> bool:
    """Decode as the trusted side does; whether there was something to read. All that it held at once is counted."""
    length = min(wire.JSON_LENGTH.unpack_from(frame)[0], len(frame)) if len(frame) >= 4 else 0
    bound = PER_JSON_BYTE * length + PER_BODY_BYTE * (len(frame) - length) + BESIDES
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    try:
        value = wire.unpack(frame, lambda body: _Decoder(NOBODY, body))
    except wire.WireError:
        return False
    finally:
        held = tracemalloc.get_traced_memory()[1] - before
        assert held <= bound, f"{held} bytes held for a frame of {len(frame)}"
    assert plain(value)
    return True


def fuzz(frames: int, number: int) -> tuple[int, int]:
    """Let hypothesis make frames; how many were tried, and how many could be read."""
    tried = read = 0

    @seed(number)
    @settings(
        max_examples=-(-frames // FAMILY), deadline=None, database=None, suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )  # fmt: skip
    @example(b"")
    @given(st.binary(max_size=160))
    def run(recipe: bytes) -> None:
        nonlocal tried, read
        frames = list(Recipe(recipe).frames())
        tracemalloc.start()  # here, because it makes what hypothesis does besides take three times as long
        try:
            for frame in frames:
                tried += 1
                read += read_or_refused(frame)
        finally:
            tracemalloc.stop()

    run()
    return tried, read


def test_ten_thousand_frames_are_read_as_data_or_refused() -> None:
    tried, read = fuzz(10_000, number=0)
    assert tried >= 10_000
    assert read > tried // 20, "nearly nothing can be read: the frames are no test of what reading makes"


MILLION = """
import resource, sys
sys.path.insert(0, {folder!r})
from test_wire_fuzz import FAMILY, fuzz, status

def limit(kind, value):
    resource.setrlimit(kind, (value, value))

fuzz(1000, number=1)
limit(resource.RLIMIT_AS, status("VmSize") + 2**29)
limit(resource.RLIMIT_CPU, 3600)
before = status("VmHWM")
tried = sum(fuzz(10_000, number)[0] for number in range(2, 102))
used = resource.getrusage(resource.RUSAGE_SELF)
print(tried, (status("VmHWM") - before) // 2**20, round(used.ru_utime + used.ru_stime))
"""


@pytest.mark.long
def test_a_million_frames_leave_a_process_of_the_size_that_it_had(capsys: pytest.CaptureFixture[str]) -> None:
    """In a process that may not grow by more than 512 MiB nor compute for more than an hour."""
    program = MILLION.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tried, grown, seconds = map(int, done.stdout.split())
    with capsys.disabled():
        print(f"\n{tried} frames: {seconds} s of computing time, the process grew by {grown} MiB")
    assert tried >= 1_000_000
    assert grown < 128


def status(name: str) -> int:
    """A size from /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(f"{name}:")).split()[1]) * 1024


def tensors(dtype: str, count: int, tag: str = "tensor") -> bytes:
    """A frame as large as may be: `count` tensors of bytes that are all 2."""
    size = (wire.MAX_FRAME - wire.MAX_JSON) // count // 8 * 8
    shape = size // torch.empty(0, dtype=wire.DTYPES[dtype]).itemsize
    node = f'{{"t":"{tag}","dtype":"{dtype}","shape":[{shape}],"device":"cpu"}}'
    return framed(f"[{','.join([node] * count)}]", b"\2" * (size * count))


def dense(item: str) -> bytes:
    """A frame with as much of one kind of node as fits."""
    return framed(f"[{','.join([item] * ((wire.MAX_JSON - 2) // (len(item) + 1)))}]", b"")


LARGEST = {
    "a tensor": tensors("float32", 1),
    "booleans": tensors("bool", 1),
    "256 tensors": tensors("complex128", 256),
    "an array of booleans": tensors("bool", 1, "ndarray"),
    "bytes": framed(f'{{"t":"bytes","n":{wire.MAX_FRAME - 2**18}}}', bytes(wire.MAX_FRAME - 2**18)),
    **{f"lists of {item}": dense(item) for item in ("[]", "[[]]", "[1]", "1.5", "12345", '"ab"', '{"t":0}')},
    **{
        f"values of {tag}": dense(f'{{"t":"{tag}","v":{value}}}')
        for tag, value in (("tuple", "[]"), ("dict", "[]"), ("size", "[9]"), ("float", '"nan"'), ("complex", "[1,2]"))
    },
}


@pytest.mark.parametrize("frame", LARGEST.values(), ids=LARGEST)
def test_the_largest_frames_are_decoded_in_their_own_size_and_little_more(frame: bytes) -> None:
    """As the kernel sees it, since torch's memory is not Python's."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = status("VmRSS")
    with contextlib.suppress(wire.WireError):
        wire.unpack(frame)
    assert status("VmHWM") - before <= (len(frame) if len(frame) > wire.MAX_JSON + 4 else 0) + 24 * 2**20


# the reader


@dataclass(frozen=True)
class Ends:
    """A room as the grader sees it, and the other ends of its sockets."""

    room: Room
    channel: socket.socket
    keeper: socket.socket

    def answer(self, *parts: bytes, then_end: bool = False) -> threading.Thread:
        """Once a request has come, send pieces one after another."""

        def send() -> None:
            self.channel.recv(2**16)
            for part in parts:
                self.channel.sendall(part)
            if then_end:
                self.keeper.shutdown(socket.SHUT_RDWR)
                self.channel.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        return thread


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Both ends, with a keeper that finds no limit passed."""
    ours, channel = socket.socketpair()
    lifeline, keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def keep() -> None:
        while keeper.recv(1):
            keeper.send(json.dumps({"cpu": 0.0, "memory": 0}).encode())

    thread = threading.Thread(target=keep)
    thread.start()
    with channel, keeper:
        found = Ends(Room(ours, lifeline, Limits()), channel, keeper)
        yield found
        found.room.close()
        thread.join()


REPLY = wire.pack({"value": [1, torch.ones(3)]})
HEAD = frames.FRAME_LENGTH.pack(len(REPLY))


def test_a_reply_that_comes_byte_by_byte_is_read(ends: Ends) -> None:
    sender = ends.answer(*(bytes([byte]) for byte in HEAD + REPLY))
    assert ends.room.ask(b"?", 10) == REPLY
    sender.join()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", RoomEnded), (HEAD[:3], RoomEnded), (HEAD, RoomEnded), (HEAD + REPLY[:-1], RoomEnded),
        (frames.FRAME_LENGTH.pack(wire.MAX_FRAME + 1), wire.WireError), (b"\xff" * 100, wire.WireError),
    ],
)  # fmt: skip
def test_a_reply_that_is_cut_off_or_says_too_much_ends_the_wait(
    ends: Ends, sent: bytes, error: type[Exception]
) -> None:
    sender = ends.answer(sent, then_end=True)
    with pytest.raises(error):
        ends.room.ask(b"?", 10)
    sender.join()


def test_a_length_alone_costs_no_memory(ends: Ends) -> None:
    tracemalloc.start()
    sender = ends.answer(frames.FRAME_LENGTH.pack(wire.MAX_FRAME), b"x" * 1000, then_end=True)
    with pytest.raises(RoomEnded):
        ends.room.ask(b"?", 10)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sender.join()
    assert held < 2**22


def test_descriptors_that_come_along_are_not_kept(ends: Ends) -> None:
    """The kernel closes what a plain read leaves behind; the sandbox's own side is the only one that takes any."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with socket.socket() as gift:
        socket.send_fds(ends.channel, [HEAD[:4]], [gift.fileno()] * 100)
        socket.send_fds(ends.channel, [HEAD[4:] + REPLY], [gift.fileno()] * 100)
    assert ends.room.ask(b"?", 10) == REPLY
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# what the trusted side makes of replies


def student(reply: bytes) -> Student:
    """A student whose process answers every question with the same bytes."""
    return Student(lambda frame: reply)


@pytest.mark.parametrize(
    "reply",
    [
        b"", b"\0", b"x" * 1000, framed("1", b""), framed('"value"', b""), framed("[]", b""),
        wire.pack({}), wire.pack({"values": 1}), wire.pack(["value"]), wire.pack({"error": 1}),
        wire.pack({"error": {"type": 1, "text": 2, "cell": 3, "line": "4"}}), wire.pack({"error": {"line": True}}),
        framed('{"t":"dict","v":[["value",{"t":"handle","id":"0"}]]}', b""),
        framed('{"t":"dict","v":[["value",{"t":"handle"}]]}', b""),
    ],
)  # fmt: skip
def test_a_reply_of_a_wrong_form_is_an_error_of_the_student(reply: bytes) -> None:
    with pytest.raises(StudentError) as raised:
        student(reply).area(1)
    assert raised.value.kind in (UNREADABLE, "Exception")
    assert (raised.value.cell, raised.value.line) in (("", 0), ("", True))


@pytest.mark.parametrize(
    "kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "Skipped", "__import__", "x" * 999]
)
def test_an_error_says_no_more_than_the_name_of_a_builtin(kind: str) -> None:
    with pytest.raises(StudentError) as raised:
        student(wire.pack({"error": {"type": kind, "text": "t"}})).area(1)
    assert raised.value.kind == (kind if kind in dir(builtins) and kind != "__import__" else "Exception")


def test_a_handle_for_nothing_is_no_value_and_no_comparison_holds_for_it() -> None:
    """An object that stays on the student's side, or that is not even there, must not pass for an answer."""
    for number in (0, -1, 10**30):
        got = student(framed(f'{{"t":"dict","v":[["value",{{"t":"handle","id":{number}}}]]}}', b"")).area(1)
        for use in (
            bool, float, int, len, iter, abs, lambda x: x == 1, lambda x: x != 1, lambda x: x < 1, lambda x: x + 1,
            lambda x: x[0], torch.as_tensor, lambda x: x.sum(), lambda x: x.shape, lambda x: torch.ones(1) == x,
            lambda x: torch.ones(1) != x, lambda x: 1 in [x], lambda x: assert_close(x, 1.0),
        ):  # fmt: skip
            with pytest.raises((StudentError, TypeError, ValueError, RuntimeError, AssertionError)):
                use(got)


@pytest.mark.parametrize(
    "value",
    [
        None, True, "1.0", b"1", [], {}, (), [[1.0]], 10**400, math.nan, 1j, torch.Size([1]), torch.float32,
        np.float64("nan"), torch.ones(0), torch.ones(1, 1), torch.ones(2), torch.ones(1, dtype=torch.complex64),
        np.ones((0, 3)),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_value_of_another_kind_than_asked_is_no_answer(value: object) -> None:
    got = student(wire.pack({"value": value})).area(1)
    with pytest.raises((CheckFailure, ValueError)):
        assert_close(got, torch.tensor([1.0]))
