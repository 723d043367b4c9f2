"""Attacks that look for what a submission must not see: checks, answers, other submissions, the grader's secrets."""

from pathlib import Path

from attack import FAULT, Attack, Notebook, write_notebook
from controls import works_in_the_graders_python, works_without_walls

SEARCH = """
import sys

def search(values):
    wanted = "".join(reversed("57864.5"))  # so that it does not find itself
    for value in values:
        if type(value) is float and value == float(wanted) or type(value) is str and wanted in value:
            if value is not wanted:
                worked("found the expected value")
                return
"""
FIND = "def volume(side, height):\n    tried('the expected volume')\n    {}\n    return side * 0"
"""An answer that looks for the number that the hidden checks expect and that nothing of the student's holds."""

LOOK = """
import os, re, stat

def look(path, secret=b"token-of-the-" + b"grader"):
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        found = re.search(secret, os.read(descriptor, 2**20), re.IGNORECASE)
    except OSError:
        return
    if found:
        worked("read", path)
"""


def linked_to_checks(folder: Path, notebook: Notebook) -> None:
    """A link to the hidden checks lies beside the notebook."""
    write_notebook(folder, notebook)
    (folder / "answers.py").symlink_to(folder.parents[2] / "tests" / "checks" / "test_shapes.py")


def linked_folder(folder: Path, notebook: Notebook) -> None:
    """A link to the folder of the reference solutions lies beside the notebook."""
    write_notebook(folder, notebook)
    (folder / "answers").symlink_to(folder.parents[2] / "solutions")


def linked_hard(folder: Path, notebook: Notebook) -> None:
    """A second name of the hidden checks lies beside the notebook."""
    write_notebook(folder, notebook)
    (folder / "answers.py").hardlink_to(folder.parents[2] / "tests" / "checks" / "test_shapes.py")


ATTACKS = (
    Attack(
        name="reads_hidden_checks",
        what="Opens the hidden checks by their path in the course folder.",
        cell="""
tried("the file of the hidden checks")
if "TestArea" in open(COURSE + "/tests/checks/test_shapes.py").read():
    worked("read it")
""",
        control=works_without_walls,
    ),
    Attack(
        name="walks_up_to_checks",
        what="Looks for files named test_* in the folders above its own.",
        cell="""
import glob
tried("the folders above")
for path in glob.glob("../../../tests/**/test_*.py", recursive=True):
    worked(path)
""",
        control=works_without_walls,
    ),
    Attack(
        name="walks_the_whole_disk",
        what="Walks all folders there are for one that holds a course.",
        cell="""
import os
tried("every folder")
os.chdir(COURSE + "/..") if os.path.exists(COURSE) else None  # sooner there, where there are walls or not
for start in (".", "/"):
    for folder, folders, names in os.walk(start):
        if folder.count("/") > 5 or folder.startswith(("/proc", "/sys", "/usr", "/opt")):
            folders.clear()
        if "course_config.py" in names:
            worked(folder)
            break
    else:
        continue
    break
""",
        control=works_without_walls,
    ),
    Attack(
        name="reads_the_solution",
        what="Imports the reference solution.",
        cell="""
import sys
tried("the reference solution")
sys.path.insert(0, COURSE + "/solutions")
try:
    import shapes
    worked(shapes.area)
except ImportError:
    pass
""",
        control=works_without_walls,
    ),
    Attack(
        name="reads_a_neighbour",
        what="Copies another student's submission.",
        cell="""
tried("another submission")
try:
    neighbour = open(COURSE + "/submitted/a_honest/shapes/shapes.ipynb").read()
    worked(len(neighbour))
except OSError:
    pass
""",
        control=works_without_walls,
    ),
    Attack(
        name="reads_results",
        what="Lists the results of others, with the expected values that their details hold.",
        cell="""
import glob
tried("the results")
for path in glob.glob(COURSE + "/results/shapes/*.json"):
    worked(open(path).read(100))
""",
        control=works_without_walls,
    ),
    Attack(
        name="reads_the_gradebook",
        what="Queries the gradebook.",
        cell="""
import os, sqlite3
tried("the gradebook")
path = COURSE + "/gradebook.db"
if os.path.exists(path):
    worked(sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("select name from sqlite_master").fetchall())
""",
        control=works_without_walls,
    ),
    Attack(
        name="reads_the_graders_environment",
        what="Looks for the grader's secrets in /proc/*/environ.",
        cell=LOOK
        + """
tried("environments")
for pid in filter(str.isdigit, os.listdir("/proc")):
    look(f"/proc/{pid}/environ")
for value in os.environ.values():
    if "token-of-the-" + "grader" in value:
        worked("in its own environment")
""",
        control=works_without_walls,
    ),
    Attack(
        name="reads_command_lines",
        what="Looks for the grader's secrets in /proc/*/cmdline.",
        cell=LOOK
        + """
tried("command lines")
for pid in filter(str.isdigit, os.listdir("/proc")):
    look(f"/proc/{pid}/cmdline")
""",
        control=works_without_walls,
    ),
    Attack(
        name="reads_the_graders_memory",
        what="Reads the heap of the grader's process through /proc/PID/mem.",
        cell=LOOK
        + """
tried("memory")
found = False
for pid in (GRADER, os.getppid(), 1, 2, 3):
    try:
        areas, memory = open(f"/proc/{pid}/maps").read(), open(f"/proc/{pid}/mem", "rb", buffering=0)
    except OSError:
        continue
    if pid == os.getpid():
        continue
    for start, end in re.findall(r"^(\\w+)-(\\w+) rw", areas, re.MULTILINE):
        try:
            memory.seek(int(start, 16))
            found |= b"TOKEN-OF-THE-" + b"GRADER" in memory.read(min(int(end, 16) - int(start, 16), 2**26))
        except (OSError, ValueError, OverflowError):
            pass
    if found:
        worked("in the memory of", pid)
        break
""",
        control=works_without_walls,
    ),
    Attack(
        name="copies_the_graders_memory",
        what="Reads the grader's process with process_vm_readv, which needs no file.",
        cell="""
import ctypes, re
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
libc = ctypes.CDLL(None, use_errno=True)
here = ctypes.create_string_buffer(16)
tried("process_vm_readv")
try:
    first = int(re.match(r"\\w+", open(f"/proc/{GRADER}/maps").read())[0], 16)
except OSError:
    first = 0x400000
read = libc.process_vm_readv(
    GRADER, ctypes.byref(Piece(ctypes.addressof(here), 16)), 1, ctypes.byref(Piece(first, 16)), 1, 0
)
if read == 16 and here.raw.startswith(b"\\x7fELF"):
    worked("read its program")
""",
        control=works_without_walls,
    ),
    Attack(
        name="debugs_the_grader",
        what="Attaches to the grader's process as a debugger.",
        cell="""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
tried("ptrace")
if libc.ptrace(16, GRADER, None, None) == 0:  # PTRACE_ATTACH
    os.waitpid(GRADER, 0x40000000)
    libc.ptrace(17, GRADER, None, None)  # PTRACE_DETACH
    worked("attached")
""",
        control=works_without_walls,
    ),
    Attack(
        name="steals_a_descriptor",
        what="Takes an open file out of the grader's process with pidfd_getfd.",
        cell="""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
tried("pidfd_getfd")
for pid in (GRADER, os.getppid(), 1):
    try:
        process = os.pidfd_open(pid)
    except OSError:
        continue
    if pid != os.getpid() and libc.syscall(438, process, 0, 0) >= 0:
        worked("took one")
        break
""",
        control=works_without_walls,
    ),
    Attack(
        name="opens_the_graders_files",
        what="Opens what the grader's process has open through /proc/PID/fd.",
        cell=LOOK
        + """
tried("open files")
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        files = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        continue
    for file in files:
        look(f"/proc/{pid}/fd/{file}")
""",
        control=works_without_walls,
    ),
    Attack(
        name="goes_through_proc_root",
        what="Reaches the machine's files through /proc/PID/root and /proc/PID/cwd.",
        cell="""
import os
tried("the root of other processes")
for pid in (GRADER, os.getppid(), 1):
    if pid != os.getpid() and os.path.exists(f"/proc/{pid}/root{COURSE}/course_config.py"):
        worked(pid)
        break
""",
        control=works_without_walls,
    ),
    Attack(
        name="reads_the_graders_home",
        what="Looks for passwords in the grader's home folder.",
        cell=LOOK
        + """
tried("the home folder")
look(HOME + "/.netrc")
""",
        control=works_without_walls,
    ),
    Attack(
        name="reads_system_files",
        what="Reads what the system tells of the machine: hosts, passwords, mounted disks.",
        cell="""
import os
tried("/etc/hosts")
for path in ("/etc/hosts", "/etc/shadow", "/var/log", "/root"):
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read()
        worked("read", path)
    except OSError:
        pass
""",
        control=works_without_walls,
    ),
    Attack(
        name="link_to_checks",
        what="Hands in a symbolic link to the hidden checks and reads it.",
        place=linked_to_checks,
        cell="""
tried("the linked file")
try:
    if "TestArea" in open("answers.py").read():
        worked("read it")
except OSError:
    pass
""",
        verdict=FAULT,
        reason="answers.py is not a plain file",
        control=works_without_walls,
    ),
    Attack(
        name="link_to_a_folder",
        what="Hands in a symbolic link to the folder of the reference solutions.",
        place=linked_folder,
        cell="""
import os
tried("the linked folder")
if os.path.exists("answers/shapes.py"):
    worked("read it")
""",
        control=works_without_walls,
    ),
    Attack(
        name="hard_link_to_checks",
        what="Hands in a second name of the file of the hidden checks.",
        place=linked_hard,
        cell="""
tried("the second name")
try:
    if "TestArea" in open("answers.py").read():
        worked("read it")
except OSError:
    pass
""",
        verdict=FAULT,
        reason="answers.py is not a plain file",
        control=works_without_walls,
    ),
    Attack(
        name="garbage_holds_the_answer",
        what="Looks through all objects of its process for the expected value.",
        cell=SEARCH,
        answers={
            "volume": FIND.format(
                "import gc\n"
                "    for thing in gc.get_objects():\n"
                "        if type(thing) in (tuple, list): search(thing[:50])\n"
                "        if type(thing) is type(search): search(thing.__code__.co_consts)\n"
                "        if type(thing) is dict and len(thing) < 1000: search(list(thing.values()))"
            )
        },
        marks=(2, 0),
        control=works_without_walls,
    ),
    Attack(
        name="callers_hold_the_answer",
        what="Walks up the frames of its callers and looks at their constants and variables.",
        cell=SEARCH,
        answers={
            "volume": FIND.format(
                "frame = sys._getframe(1)\n"
                "    while frame:\n"
                "        search(frame.f_code.co_consts + tuple(frame.f_locals.values()))\n"
                "        frame = frame.f_back"
            )
        },
        marks=(2, 0),
        control=works_without_walls,
    ),
    Attack(
        name="source_of_the_caller",
        what="Asks Python for the source text of whoever calls it.",
        answers={
            "volume": FIND.format(
                "import inspect\n"
                "    for frame in inspect.stack()[1:]:\n"
                "        if '5.46' + '875' in ''.join(frame.code_context or ()) or any(\n"
                "            '5.46' + '875' in str(value) for value in frame.frame.f_globals.get('In', [])):\n"
                "            worked('found the expected value')\n"
                "            break"
            )
        },
        marks=(2, 0),
        control=works_without_walls,
    ),
    Attack(
        name="records_every_cell",
        what="Registers a hook that keeps the source of every cell that runs, hidden tests too.",
        cell="""
seen = []
get_ipython().events.register("pre_run_cell", lambda info: seen.append(info.raw_cell))
get_ipython().input_transformers_cleanup.append(lambda lines: seen.extend(lines) or lines)
""",
        answers={
            "volume": FIND.format("if any('5.46' + '875' in source for source in seen): worked('found its source')")
        },
        marks=(2, 0),
        control=works_without_walls,
    ),
    Attack(
        name="compiler_that_listens",
        what="Replaces compile, exec and eval by functions that keep what they are given.",
        cell="""
import ast, builtins
seen = []
def listening(original):
    def listen(source, *args, **kwargs):
        seen.append(ast.unparse(source) if isinstance(source, ast.AST) else str(source))
        return original(source, *args, **kwargs)
    return listen
builtins.compile, builtins.exec = listening(builtins.compile), listening(builtins.exec)
""",
        answers={
            "volume": FIND.format("if any('5.46' + '875' in source for source in seen): worked('found its source')")
        },
        marks=(2, 0),
        control=works_without_walls,
    ),
    Attack(
        name="tracer_watches_comparisons",
        what="Traces every line that runs and looks at the constants and variables there.",
        cell=SEARCH
        + """

def watch(frame, event, argument):
    events.append(event)
    if len(events) > 2000:
        sys.setprofile(None)
    elif frame.f_code.co_name != "search":
        search(frame.f_code.co_consts + tuple(frame.f_locals.values()))
    return watch
""",
        answers={
            "volume": FIND.format(
                "global events\n    events = []\n    frame = sys._getframe(1)\n    sys.setprofile(watch)\n"
                "    while frame:\n        frame.f_trace, frame = watch, frame.f_back"
            )
        },
        marks=(2, 0),
        control=works_without_walls,
    ),
    Attack(
        name="waits_for_the_comparison",
        what="Answers with a number that looks at what it is compared with.",
        cell="""
class Curious(float):
    def __eq__(self, other):
        tried("what it is compared with")
        if float(other) == float("5.46" + "875"): worked("seen")
        return True
    __hash__ = float.__hash__
""",
        answers={
            "volume": "def volume(side, height):\n    tried('the comparison')\n    return Curious(0)",
        },
        marks=(2, 0),
        control=works_without_walls,
    ),
    Attack(
        name="imports_the_grader",
        what="Imports the grading package for its checks, results and course settings.",
        cell="""
import importlib
tried("the grading package")
for name in ("checks", "submission", "results", "worker", "course"):
    try:
        worked(importlib.import_module("autograder." + name))
    except ImportError:
        pass
""",
        control=works_in_the_graders_python,
    ),
)
