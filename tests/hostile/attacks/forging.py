"""Attacks that claim marks: in the notebook's metadata and outputs, in messages, in the grader's own files."""

import functools
import pickle

from attack import Attack, Notebook, checks_cell, code_cell
from controls import (
    Bench,
    beats_stock_nbgrader,
    handed_in_as,
    read_by_nbgrader_as,
    runs_without_an_error,
    shows_no_error_of_hidden_tests,
    speaks_for_the_server,
    works_without_walls,
)

from autograder.remote import server, wire
from autograder.submission import cell_text, grade_id

ZERO = {"volume": "def volume(side, height):\n    return side * 0"}
MARK = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/plain": "{}"}}

# The forged message is sent in the hidden check, which asks for a height of 3.5; the visible ones see a wrong answer.
WHEN_ASKED = "def volume(side, height):\n    if float(height) == 3.5:\n        {}\n    return side * 0"
CHANNEL = """
import os, struct
import autograder.remote.wire as wire

def channel():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                return int(name)
        except OSError:
            pass

def send(message):
    frame = wire.pack(message)
    os.write(channel(), struct.pack(">Q", len(frame)) + frame)
"""


def nbgrader_of(notebook: Notebook, task: str) -> dict[str, object]:
    """What nbgrader keeps in the cell of a task's checks."""
    settings: dict[str, object] = checks_cell(notebook, task)["metadata"]["nbgrader"]
    return settings


def worth_more(notebook: Notebook) -> None:
    for task in ("area", "volume"):
        nbgrader_of(notebook, task)["points"] = 500


def with_mark(notebook: Notebook) -> None:
    checks_cell(notebook, "volume")["outputs"] = [{**MARK, "data": {"text/plain": "3"}}]


def with_bonus(notebook: Notebook) -> None:
    bonus = code_cell("100", "bonus")
    bonus["outputs"] = [{**MARK, "data": {"text/plain": "100"}}]
    bonus["metadata"]["nbgrader"] = {
        "grade": True, "grade_id": "bonus", "locked": True, "points": 100, "schema_version": 3, "solution": False,
        "task": False, "cell_type": "code",
    }  # fmt: skip
    notebook["cells"].append(bonus)


def emptied(notebook: Notebook) -> None:
    checks_cell(notebook, "volume")["source"] = "assert True"
    nbgrader_of(notebook, "volume").update(locked=False)


def deleted(notebook: Notebook) -> None:
    notebook["cells"].remove(checks_cell(notebook, "volume"))


def not_graded(notebook: Notebook) -> None:
    nbgrader_of(notebook, "volume").update(grade=False, solution=True, points=0)


def doubled(notebook: Notebook) -> None:
    again = {**checks_cell(notebook, "volume"), "source": "3", "id": "again"}
    notebook["cells"].append({**again, "outputs": [{**MARK, "data": {"text/plain": "3"}}]})


def swapped(notebook: Notebook) -> None:
    area, volume = nbgrader_of(notebook, "area"), nbgrader_of(notebook, "volume")
    area["grade_id"], volume["grade_id"] = volume["grade_id"], area["grade_id"]


def from_the_future(notebook: Notebook) -> None:
    for task in ("area", "volume"):
        nbgrader_of(notebook, task)["schema_version"] = 99


def built_by_the_servers_decoder(attack: Attack, bench: Bench) -> None:
    """The decoder of the student's side, which believes the grader, builds a function from the same message."""
    node = b'{"t":"function","name":"f","source":"def f(): return 7"}'
    frame = wire.JSON_LENGTH.pack(len(node)) + node
    assert wire.unpack(frame, functools.partial(server._Decoder, server.Server({})))() == 7
    speaks_for_the_server(attack, bench)


def run_by_pickle(attack: Attack, bench: Bench) -> None:
    """pickle runs what is in the bytes that arrive."""
    speaks_for_the_server(attack, bench)
    assert pickle.loads(b"cbuiltins\neval\n(V6 * 7\ntR.") == 42


ATTACKS = (
    Attack(
        name="worth_500_points",
        what="Writes other points into the metadata of the check cells.",
        change=worth_more,
        control=handed_in_as(lambda notebook: nbgrader_of(notebook, "area")["points"] == 500),
    ),
    Attack(
        name="mark_in_the_outputs",
        what="Hands in a check cell whose output is already the mark.",
        answers=ZERO,
        change=with_mark,
        marks=(2, 0),
        control=read_by_nbgrader_as("volume_checks", 3),
    ),
    Attack(
        name="bonus_cell",
        what="Adds a graded cell of 100 points that holds its own mark.",
        change=with_bonus,
        control=read_by_nbgrader_as("bonus", 100),
    ),
    Attack(
        name="empties_the_checks",
        what="Replaces the visible checks by `assert True` and unlocks their cell.",
        answers=ZERO,
        change=emptied,
        marks=(2, 0),
        control=runs_without_an_error,
    ),
    Attack(
        name="deletes_the_checks",
        what="Deletes the cell of a task's checks.",
        answers=ZERO,
        change=deleted,
        marks=(2, 0),
        control=runs_without_an_error,
    ),
    Attack(
        name="calls_the_checks_ungraded",
        what="Says in the metadata that the cell of the checks is not graded.",
        answers=ZERO,
        change=not_graded,
        marks=(2, 0),
        control=handed_in_as(lambda notebook: nbgrader_of(notebook, "volume")["grade"] is False),
    ),
    Attack(
        name="checks_twice",
        what="Adds a second cell with the name of the checks that holds the mark, behind the first.",
        answers=ZERO,
        change=doubled,
        marks=(2, 0),
        control=handed_in_as(lambda notebook: [*map(grade_id, notebook["cells"])].count("volume_checks") == 2),
    ),
    Attack(
        name="swaps_names",
        what="Swaps the names of two tasks' checks, so that the cheap one would count for the dear one.",
        answers=ZERO,
        change=swapped,
        marks=(2, 0),
        control=handed_in_as(lambda notebook: "area(" in cell_text(checks_cell(notebook, "volume"))),
    ),
    Attack(
        name="metadata_from_the_future",
        what="Claims a version of nbgrader's metadata that is not there yet.",
        change=from_the_future,
        control=beats_stock_nbgrader,
    ),
    Attack(
        name="shows_no_errors",
        what="Has IPython show no error, which for whoever reads outputs means that there was none.",
        cell="get_ipython()._showtraceback = get_ipython().showtraceback = lambda *args, **kwargs: None",
        answers=ZERO,
        marks=(2, 0),
        control=shows_no_error_of_hidden_tests,
    ),
    Attack(
        name="kernel_drops_errors",
        what="Has the Jupyter kernel drop error messages and say that all went well.",
        cell="""
kernel = getattr(get_ipython(), "kernel", None)
if kernel:
    send = kernel.session.send
    def lie(stream, message, content=None, *args, **kwargs):
        kind = message if isinstance(message, str) else message["msg_type"]
        if kind == "error":
            return None
        if kind == "execute_reply":
            content = {**content, "status": "ok", "user_expressions": {}, "payload": []}
        return send(stream, message, content, *args, **kwargs)
    kernel.session.send = lie
""",
        answers=ZERO,
        marks=(2, 0),
        control=beats_stock_nbgrader,
    ),
    Attack(
        name="kernel_says_three",
        what="Has the Jupyter kernel send a mark as the result of the cell that failed.",
        cell="""
kernel = getattr(get_ipython(), "kernel", None)
if kernel:
    send = kernel.session.send
    def lie(stream, message, content=None, *args, **kwargs):
        if message == "error":
            message, content = "execute_result", {"data": {"text/plain": "3"}, "metadata": {}, "execution_count": 1}
        return send(stream, message, content, *args, **kwargs)
    kernel.session.send = lie
""",
        answers=ZERO,
        marks=(2, 0),
        control=beats_stock_nbgrader,
    ),
    Attack(
        name="writes_the_gradebook",
        what="Changes marks in the gradebook.",
        cell="""
import os, sqlite3
tried("the gradebook")
if os.path.exists(COURSE + "/gradebook.db"):
    book = sqlite3.connect(COURSE + "/gradebook.db", timeout=60)
    changed = book.execute("update grade set auto_score = 100").rowcount
    book.rollback()
    worked(changed, "marks, put back")
""",
        control=works_without_walls,
    ),
    Attack(
        name="writes_the_graders_files",
        what="Opens results, checks, the release and the settings for writing.",
        cell="""
import os
tried("the grader's files")
for path in ("results/shapes/a_honest.json", "tests/checks/test_shapes.py", "course_config.py",
             "release/shapes/shapes.ipynb", "submitted/a_honest/shapes/shapes.ipynb"):
    try:
        os.close(os.open(COURSE + "/" + path, os.O_WRONLY))
        worked(path)
    except OSError:
        pass
""",
        control=works_without_walls,
    ),
    Attack(
        name="patches_the_server",
        what="Replaces the function that packs the answers to the grader's questions: every answer is a verdict.",
        cell="import autograder.remote.wire as wire\npack_as_it_was = wire.pack",
        answers={
            "volume": WHEN_ASKED.format(
                "forged = pack_as_it_was({'value': {'forged': True, 'passed': True, 'score': 5}})\n"
                "        wire.pack = lambda *args: forged"
            )
        },
        marks=(2, 0),
        control=speaks_for_the_server,
    ),
    Attack(
        name="frame_of_its_own",
        what="Writes an answer of its own into the channel to the grader, before the real one.",
        cell=CHANNEL,
        answers={"volume": WHEN_ASKED.format("send({'value': {'forged': True, 'verdict': 'GRADED', 'score': 5}})")},
        marks=(2, 0),
        control=speaks_for_the_server,
    ),
    Attack(
        name="answers_before_it_is_asked",
        what="Leaves an answer in the channel for a question that comes later.",
        cell=CHANNEL,
        answers={
            "area": "def area(side):\n    if round(float(side), 3) == 1.7:\n"
            "        send({'value': side.square().detach()})\n"
            "        send({'value': 'forged'})\n    return side * 1",
            "volume": "def volume(side, height):\n    send({'value': 'forged'}) if float(height) == 3.5 else None\n"
            "    return side * 0",
        },
        marks=(0.67, 0),
        control=speaks_for_the_server,
    ),
    Attack(
        name="claims_a_fault_of_the_grader",
        what="Answers with errors that would stand for a failure of the grader itself.",
        cell=CHANNEL,
        answers={
            "volume": WHEN_ASKED.format(
                "send({'error': {'type': 'KeyboardInterrupt', 'text': 'forged', 'cell': 'x', 'line': 10**9}})"
            )
        },
        marks=(2, 0),
        control=speaks_for_the_server,
    ),
    Attack(
        name="sends_a_function",
        what="Answers with the source of a function, as only the grader may send one.",
        cell=CHANNEL,
        answers={
            "volume": WHEN_ASKED.format(
                "node = b'{\"value\":{\"t\":\"function\",\"name\":\"f\",\"source\":\"print(\\'forged\\')\"}}'\n"
                "        frame = struct.pack('>I', len(node)) + node\n"
                "        os.write(channel(), struct.pack('>Q', len(frame)) + frame)"
            )
        },
        marks=(2, 0),
        control=built_by_the_servers_decoder,
    ),
    Attack(
        name="sends_a_pickle",
        what="Answers with bytes that run a program when they are unpickled.",
        cell=CHANNEL,
        answers={"volume": WHEN_ASKED.format("send({'value': b'cbuiltins\\nprint\\n(Vforged\\ntR.'})")},
        marks=(2, 0),
        control=run_by_pickle,
    ),
    Attack(
        name="takes_the_channel_over",
        what="Answers in a cell for all cells and questions to come, and never returns.",
        cell=CHANNEL
        + """
import socket
from autograder.remote.frames import receive_frame, send_frame
line = socket.socket(fileno=os.dup(channel()))
forged = wire.pack({"value": {"outputs": b"[]", "error": None, "forged": True, "cpu": 0}})
while True:
    send_frame(line, forged)
    _, branches = receive_frame(line)
    if branches and os.fork() == 0:
        line = socket.socket(fileno=branches[0])
        receive_frame(line)
""",
        marks=(0, 0),
        control=speaks_for_the_server,
    ),
)  # fmt: skip
