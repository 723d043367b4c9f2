"""Attacks that take more than there is: memory, processes, files, output, computing time, patience.

Those of one cell take little more than the limits of the suite's course allow, say whether they got it, and give it
back: shown to work where nothing stops them, they do no harm.
"""

import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from attack import Attack, Control, Notebook
from controls import Bench, works_without_walls
from rooms import run_cell

from attacks.forging import CHANNEL
from attacks.killing import (
    ASKED,
    in_a_cell,
    in_a_check,
    leaves_a_process,
    never_ends,
    script,
    takes_more_than,
    without_effect,
)
from autograder.remote import frames, wire
from autograder.submission import cell_text

MIB = 2**20
RAW = (
    CHANNEL
    + """
def send_raw(data, length=None):
    view = memoryview(struct.pack(">Q", len(data) if length is None else length) + data)
    while view:
        view = view[os.write(channel(), view):]
"""
)


def takes(name: str, what: str, taking: str) -> Attack:
    """An attack of one cell that tries to take something and says whether it has it."""
    cell = f"""
tried({name!r})
try:
{textwrap.indent(textwrap.dedent(taking).strip(), "    ")}
except Exception as error:
    print(type(error))
"""
    return without_effect(name, what, cell, works_without_walls)


def prints_more_than(count: int) -> Control:
    """As a script it prints more than this many bytes."""

    def control(attack: Attack, bench: Bench) -> None:
        """As a script it prints more than is kept of a submission."""
        with subprocess.Popen(
            script(attack, bench), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=bench.hand_in(attack)
        ) as process:
            assert process.stdout is not None
            read = 0
            while read <= count and (part := process.stdout.read(MIB)):
                read += len(part)
            process.kill()
        assert read > count

    return control


def shows_more_than(count: int) -> Control:
    """Without walls a cell of it has more outputs than this."""

    def control(attack: Attack, bench: Bench) -> None:
        """Without walls a cell of it has more outputs than are kept."""
        with bench.room(attack) as room:
            assert len(run_cell(room, "from known import *\n" + attack.cell)[0]) > count

    return control


def computes_unseen(attack: Attack, bench: Bench) -> None:
    """Without walls its computing time is not in what the kernel says of its processes."""
    with bench.room(attack) as room:
        before = room.usage().cpu_seconds
        run_cell(room, "from known import *\n" + attack.cell)
        assert room.usage().cpu_seconds - before < 1.0


def read_without(limit: str, frame: bytes) -> Control:
    """With one limit lifted, the frame that it sends is read."""

    def control(attack: Attack, bench: Bench) -> None:
        """With one limit lifted, the frame that it sends is read."""
        with pytest.raises(wire.WireError):
            wire.unpack(frame)
        with without_limit(limit):
            wire.unpack(frame)

    return control


@contextmanager
def without_limit(name: str) -> Iterator[None]:
    if name == "digits":
        before = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        yield
        sys.set_int_max_str_digits(before)
        return
    with pytest.MonkeyPatch.context() as patch:
        for module in (frames, wire):
            patch.setattr(module, name, 2**40, raising=False)
        yield


def keeps_a_reader_waiting(attack: Attack, bench: Bench) -> None:
    """Who reads the answer without a limit on time is still reading two seconds later."""
    with bench.room(attack) as room:
        for cell in attack.notebook(bench.script)["cells"]:
            if cell["cell_type"] == "code" and not is_check(cell):
                run_cell(room, cell_text(cell))
        question = wire.pack(
            {"op": "call", "object": None, "path": ["volume"], "args": [1.25, 3.5], "kwargs": {}}
        )  # fmt: skip
        room.channel.setblocking(True)
        frames.send_frame(room.channel, question)
        reader = threading.Thread(target=read, args=(room.channel,))
        reader.start()
        reader.join(2)
        assert reader.is_alive()
    reader.join()


def asks_for_all_memory(attack: Attack, bench: Bench) -> None:
    """With the limit lifted, whoever reads the answer makes room for all of it."""
    here, there = socket.socketpair()
    with here, there, without_limit("MAX_FRAME"), pytest.raises(MemoryError):
        here.sendall(frames.FRAME_LENGTH.pack(2**40))
        frames.receive_frame(there)


def crosses_without_the_limit(attack: Attack, bench: Bench) -> None:
    """With the limit lifted, as much as it answers with crosses."""
    with without_limit("MAX_FRAME"):
        assert len(wire.pack(bytes(2**27))) > 2**27


def is_let_through(attack: Attack, bench: Bench) -> None:
    """It crosses, and takes more than 60 MiB."""
    frame = wire.pack(torch.ones(2**24 - 2**17))
    assert len(frame) > 60 * MIB and wire.unpack(frame).shape == (2**24 - 2**17,)


def read(channel: socket.socket) -> None:
    with pytest.raises((EOFError, OSError)):
        frames.receive_frame(channel)


def is_check(cell: Notebook) -> bool:
    return bool(cell["metadata"].get("nbgrader", {}).get("grade"))


def framed(text: str) -> bytes:
    return wire.JSON_LENGTH.pack(len(text)) + text.encode()


def answers_with(name: str, what: str, expression: str, limit: str) -> Attack:
    """An attack that answers a hidden check with a frame of its own making, an expression for the JSON in it."""
    frame = framed(str(eval(expression)))
    sending = f"text = ({expression}).encode(); send_raw(struct.pack('>I', len(text)) + text)"
    return in_a_check(name, what, sending, read_without(limit, frame), cell=RAW)


ATTACKS = (
    takes("forks", "Starts processes without end.", """
        import os, signal
        children = []
        try:
            while len(children) < 100:
                child = os.fork()
                if child == 0:
                    signal.pause()
                children.append(child)
            worked(len(children))
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    """),
    takes("threads", "Starts threads without end.", """
        import threading
        threading.stack_size(2**16)
        done, started = threading.Event(), []
        try:
            while len(started) < 100:
                started.append(threading.Thread(target=done.wait))
                started[-1].start()
            worked(len(started))
        finally:
            done.set()
    """),
    takes("reserves_memory", "Takes more memory than its limit; never touched, so that it does no harm.", """
        import numpy
        kept = numpy.empty(3 * 2**30, dtype=numpy.uint8)
        worked(len(kept))
        del kept
    """),
    takes("hides_memory", "Takes memory that stays when it is in no process's resident set.", """
        import mmap
        for path in (None, "/dev/zero"):
            try:
                with open(path or "/dev/null", "r+b") as file:
                    kept = mmap.mmap(file.fileno() if path else -1, 2**20, flags=mmap.MAP_SHARED)
                kept.write(b"x" * 2**20)
                kept.madvise(mmap.MADV_DONTNEED)
                if kept[9] == 120:
                    worked(path)
            except OSError:
                pass
    """),
    takes("memory_files", "Keeps data in files that are in no folder.", """
        import os
        os.close(os.memfd_create("kept"))
        worked()
    """),
    takes("system_v", "Keeps data in segments and queues that outlive its processes.", """
        import ctypes
        libc = ctypes.CDLL(None)
        segment, queue = libc.shmget(0, 4096, 0o1600), libc.msgget(0, 0o1600)
        if segment >= 0:
            libc.shmctl(segment, 0, None)
            worked("segment")
        if queue >= 0:
            libc.msgctl(queue, 0, None)
            worked("queue")
    """),
    takes("fills_folders", "Fills the folders that it can write to.", """
        import os
        for folder in (".", "/tmp", "/dev/shm"):
            path, written = f"{folder}/full-{os.getpid()}", 0
            try:
                with open(path, "wb", buffering=0) as file:
                    while written < 8 * 2**20:
                        written += file.write(bytes(2**20))
                worked(folder)
            except OSError:
                pass
            finally:
                os.unlink(path)
    """),
    takes("large_file", "Makes a file of a tebibyte that takes no room.", """
        import os
        try:
            with open("large", "wb") as file:
                file.truncate(2**40)
            worked()
        finally:
            os.unlink("large")
    """),
    takes("many_files", "Makes more files than there may be.", """
        import os
        made = 0
        try:
            for made in range(12_000):
                os.close(os.open(f"file-{made}", os.O_CREAT))
            worked(made)
        finally:
            for number in range(made + 1):
                try: os.unlink(f"file-{number}")
                except OSError: pass
    """),
    takes("deep_folders", "Makes folders in folders, deeper than whoever removes them may be able to go.", """
        import os
        here, depth = os.getcwd(), 0
        try:
            while depth < 12_000:
                os.mkdir("inner")
                os.chdir("inner")
                depth += 1
            worked(depth)
        finally:
            for _ in range(depth):
                os.chdir("..")
                os.rmdir("inner")
            os.chdir(here)
    """),
    takes("looks_at_others_limits", "Changes the limits of a process of the grader, here to what they are.", """
        import resource
        resource.prlimit(GRADER, resource.RLIMIT_CPU, resource.prlimit(GRADER, resource.RLIMIT_CPU))
        worked()
    """),
    without_effect(
        "prints_300_mb", "Prints 300 MB.", "for _ in range(300):\n    print('x' * 10**6)", prints_more_than(250 * 10**6)
    ),
    without_effect(
        "writes_300_mb", "Writes 300 MB to its descriptors 1 and 2, past Python's streams.",
        "import os\ntry:\n    for number in range(300):\n        os.write(1 + number % 2, b'x' * 10**6)\n"
        "except OSError:\n    pass",
        prints_more_than(250 * 10**6),
    ),
    without_effect(
        "many_outputs", "Shows thousands of things, and changes what is shown.",
        "from IPython.display import display, update_display\n"
        "for number in range(600):\n    display(number, display_id='one')\n"
        "for number in range(3):\n    update_display('x' * 2000, display_id='one')",
        shows_more_than(500),
    ),
    in_a_cell(
        "computes_unseen", "Computes in children whose end it ignores, so that the kernel forgets their time.",
        """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
reading, writing = os.pipe()
for _ in range(10):
    if os.fork() == 0:
        while time.process_time() < 0.5: pass
        os._exit(0)
os.close(writing)
os.read(reading, 1)  # until all have ended
""",
        "", computes_unseen,
    ),
    in_a_cell(
        "memory_of_many", "Takes memory in several processes, each within its limit.",
        """
import mmap, os, time
for _ in range(3):
    if os.fork() == 0:  # whole pages at once, which takes little of the computing time
        kept = mmap.mmap(-1, 800 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        time.sleep(10**6)
time.sleep(10**6)
""",
        "used more than 2.0 GiB of memory", takes_more_than(2 * 2**30),
    ),
    in_a_check(
        "fills_memory_when_asked", "Takes memory until there is no more, in a hidden check.",
        "kept = []\n        while True: kept.append(bytearray(2**26))",
        takes_more_than(2 * 2**30 + 2**28, ASKED), stock=False,
    ),
    in_a_check(
        "never_ending_answer", "Answers with a generator that never ends.",
        "return (x for x in iter(int, 1))", never_ends(f"list({ASKED})"),
    ),
    in_a_check(
        "list_without_end", "Answers with a list that says that it is never at its end.", "return Endless([1.0])",
        never_ends(f"[x for x in {ASKED}]"),
        cell="class Endless(list):\n    def __iter__(self):\n        while True:\n            yield 1.0\n"
        "    def __len__(self):\n        return 10**12",
    ),
    in_a_check(
        "regular_expression", "Loses itself in a regular expression, where the interpreter listens to nothing.",
        "__import__('re').match('(a+)+$', 'a' * 64 + 'b')", never_ends(ASKED),
    ),
    in_a_check(
        "largest_answer", "Answers with as much as a frame may hold.", "return torch.ones(2**24 - 2**17)",
        is_let_through,
    ),
    in_a_check(
        "large_answer", "Answers with more than a frame may hold.", "return torch.ones(2**25)",
        crosses_without_the_limit,
    ),
    in_a_check(
        "says_2_to_the_40", "Says that its answer has 2**40 bytes.", "send_raw(b'', 2**40)", asks_for_all_memory,
        cell=RAW,
    ),
    in_a_check(
        "frame_without_end", "Sends its answer byte by byte, for ever.",
        "send_raw(b'', 2**25)\n        while True: os.write(channel(), b'x')", keeps_a_reader_waiting, cell=RAW,
    ),
    answers_with("deep_answer", "Answers with lists in lists.", "'[' * 100 + ']' * 100", "MAX_DEPTH"),
    answers_with("long_number", "Answers with a number of 100,000 digits.", "'9' * 10**5", "digits"),
    answers_with(
        "long_text", "Answers with a text of 300,000 characters.", "chr(34) + 'x' * 300_000 + chr(34)", "MAX_JSON"
    ),
    answers_with(
        "many_tensors", "Answers with 300 tensors.",
        "'[' + ','.join(['{\"t\":\"bytes\",\"n\":0}'] * 300) + ']'", "MAX_TENSORS",
    ),
    Attack(
        "daemons_of_a_task",
        "Fills the room with processes in one task, so that there is no room for the next.",
        leaves_a_process("617.5"),
        cell="""
import os
def fill():
    try:
        for _ in range(40):
            if os.fork() == 0:
                os.setsid()
                os.execvp("sleep", ["sleep", "617.5"])
    except OSError:
        pass
""",
        answers={
            "area": "def area(side):\n    if 1.5 < float(side) < 1.8:\n        fill()\n    return side.square()"
        },
    ),
)  # fmt: skip
