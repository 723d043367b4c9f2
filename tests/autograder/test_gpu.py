"""Grading on a GPU as far as it goes without one: which GPU, what the sandbox shows, whose turn it is, and the way of
grading that needs no forks. `tests/gpu` does the rest where there is a GPU."""

import contextlib
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from both_ways import graded_both_ways, variants_and_reference, verdicts
from conftest import TinyCourse
from rooms import process_namespace, processes_in, result_of

from autograder import gpu as gpus
from autograder import slots
from autograder.authoring import read_script, released_notebook
from autograder.autograde import GPU_BROKEN
from autograder.checks import assert_close, assert_device
from autograder.course import CourseError, Limits, load_course
from autograder.escapes import demand_walls
from autograder.gpu import Gpu, GpuNotFree, GpuUnavailable, demand_free, find_gpu, memory_in_use, turn_on
from autograder.judges import Graded, Judges
from autograder.remote import standin
from autograder.remote.client import loopback
from autograder.results import Verdict
from autograder.sandbox import bubblewrap, cuda, folders, watching
from autograder.sandbox.room import Sandbox
from autograder.worker import refused, resolve_device

REPOSITORY = Path(__file__).parents[2]
UUIDS = ("GPU-11111111-aaaa-bbbb-cccc-000000000000", "GPU-22222222-aaaa-bbbb-cccc-000000000000")

# which GPU


def machine_with(root: Path, *minors: int, listed: bool = True) -> Path:
    """A folder that looks like the root of a machine with GPUs, in the order of their addresses on the bus."""
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", *(f"nvidia{n}" for n in minors)):
        (root / "dev").mkdir(parents=True, exist_ok=True)
        (root / "dev" / name).touch()
    for number, minor in enumerate(minors if listed else ()):
        bus = f"0000:0{number + 1}:00.0"
        folder = root / "proc/driver/nvidia/gpus" / bus
        folder.mkdir(parents=True)
        text = f"Model: \t\t NVIDIA X\nGPU UUID: \t {UUIDS[number]}\nBus Location: \t {bus}\nDevice Minor: \t {minor}\n"
        (folder / "information").write_text(text)
        (root / "sys/bus/pci/devices" / bus).mkdir(parents=True)
    (root / "sys/devices/system/node").mkdir(parents=True)
    (root / "sys/class/net").mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("visible", "minor"),
    [(None, 1), ("0", 1), ("1", 0), ("1,0", 0), (UUIDS[1], 0), ("GPU-111", 1)],
)
def test_the_gpu_is_the_first_that_cuda_may_see(tmp_path: Path, visible: str | None, minor: int) -> None:
    root = machine_with(tmp_path, 1, 0)  # the first on the bus need not be /dev/nvidia0
    gpu = find_gpu(root, visible)
    assert [path.name for path in gpu.devices] == [f"nvidia{minor}", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]
    number = 1 - minor
    assert gpu.name == gpu.uuid == UUIDS[number]
    assert [str(path.relative_to(root)) for path in gpu.hardware] == [
        "sys/devices/system/node", f"sys/bus/pci/devices/0000:0{number + 1}:00.0",
    ]  # fmt: skip


@pytest.mark.parametrize("visible", ["", "-1", "2", "none", "GPU-3", "GPU-", "MIG-11111111", "11111111"])
def test_a_gpu_that_may_not_be_seen_is_not_taken(tmp_path: Path, visible: str) -> None:
    with pytest.raises(GpuUnavailable, match="CUDA_VISIBLE_DEVICES"):
        find_gpu(machine_with(tmp_path, 0, 1), visible)


def test_a_container_without_the_drivers_list_still_has_its_gpu(tmp_path: Path) -> None:
    gpu = find_gpu(machine_with(tmp_path, 3, listed=False), None)
    assert (gpu.name, gpu.uuid, gpu.devices[0].name) == ("3", "", "nvidia3")


@pytest.mark.parametrize("missing", ["nvidiactl", "nvidia-uvm", "nvidia0"])
def test_what_is_missing_for_a_gpu_is_named(tmp_path: Path, missing: str) -> None:
    (machine_with(tmp_path, 0) / "dev" / missing).unlink()
    with pytest.raises(CourseError, match=rf"there is no /dev/{missing} on this machine"):
        find_gpu(tmp_path, None)


@pytest.mark.parametrize(("line", "version"), [("cuda: Optional[str] = None", ""), ("cuda: str = '13.0'", "13.0")])
def test_what_torch_was_built_for_is_told_without_importing_it(tmp_path: Path, line: str, version: str) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it was imported')")
    (package / "version.py").write_text(f"__version__ = '2'\n{line}\nhip: Optional[str] = None\n")
    source = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom autograder.gpu import torch_cuda_version as v\n"
    done = subprocess.run([sys.executable, "-c", f"{source}print(v())"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{version}\n"


LISTED = "1234 libs found in cache `/etc/ld.so.cache'\n\tlibc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6\n"


@pytest.mark.parametrize(
    ("place", "refused"),
    [("/lib/x86_64-linux-gnu", ""), ("/usr/lib64", ""), ("/opt/driver/lib", "it is /opt/driver"), (None, "not list")],
)
def test_the_drivers_library_must_be_where_the_sandbox_shows_it(place: str | None, refused: str) -> None:
    listed = LISTED + (f"\tlibcuda.so.1 (libc6,x86-64) => {place}/libcuda.so.1\n" if place else "")
    with pytest.raises(GpuUnavailable, match=refused) if refused else contextlib.nullcontext():
        gpus._demand_driver_library(listed)


def test_only_a_course_that_asks_for_a_gpu_needs_one(tiny_course: TinyCourse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "none")
    course = load_course(tiny_course.root)
    assert {resolve_device(course.model_copy(update={"device": device})) for device in ("auto", "cpu")} == {"cpu"}
    with pytest.raises(CourseError, match="GPU"):
        resolve_device(course.model_copy(update={"device": "cuda"}))


# what the sandbox shows

CANDIDATES = ("/dev/autofs", "/dev/fuse", "/dev/net/tun", "/dev/rtc0")
"""Device files that a sandbox does not show, to stand for a GPU's: they are opened and closed, no more."""


def seen_inside(gpu: Gpu | None) -> dict[str, list[str]]:
    """What a process behind the walls sees of devices and hardware, and which of `CANDIDATES` it can open."""
    program = textwrap.dedent(f"""
        import json, os
        def opens(path):
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            except OSError:
                return False
            return True
        walk = lambda top: sorted(os.path.join(f, n) for f, _, names in os.walk(top) for n in names)
        print(json.dumps({{
            "dev": [path for path in walk("/dev") if not path.startswith("/dev/pts")],
            "sys": os.listdir("/sys") if os.path.isdir("/sys") else [],
            "opened": [path for path in {CANDIDATES!r} if opens(path)],
            "environment": sorted(name for name in os.environ if name.startswith("CU")),
        }}))
    """)
    folder, lock = folders.make_folder()  # where an ordinary user may read it
    reading, writing = os.pipe()
    try:
        room, stage = bubblewrap.write_room(folder), folder / "stage"
        stage.mkdir()
        walls = bubblewrap.build_walls(room, nested=True, files_bytes=2**22, forbidden=REPOSITORY, gpu=gpu)
        line, options = bubblewrap.command(walls, [bubblewrap.interpreter(), "-I", "-c", program], reading, stage)
        os.write(writing, options)
        os.close(writing)
        done = subprocess.run(line, pass_fds=(reading,), capture_output=True, text=True, check=False, cwd="/")
    finally:
        os.close(reading)
        os.close(lock)
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_sandbox_shows_exactly_the_device_files_of_its_gpu() -> None:
    found = [path for name in CANDIDATES if (path := Path(name)).is_char_device() and path.stat().st_mode & 0o004]
    if not found:
        pytest.skip(f"this machine has none of {', '.join(CANDIDATES)} that all may read")
    hardware = tuple(path for path in (Path("/sys/devices/system/cpu"),) if path.exists())
    shown = seen_inside(Gpu("0", (found[0],), hardware, UUIDS[0]))
    plain = seen_inside(None)
    assert (plain["sys"], plain["opened"], plain["environment"]) == ([], [], [])
    assert sorted(set(shown["dev"]) - set(plain["dev"])) == [str(found[0])] == shown["opened"]
    assert set(plain["dev"]) <= set(shown["dev"])
    assert shown["sys"] == (["devices"] if hardware else [])
    assert "CUDA_VISIBLE_DEVICES" in shown["environment"]


def test_folders_that_are_reached_by_a_link_are_there_under_both_names(tmp_path: Path) -> None:
    real = tmp_path / "sys/devices/pci0000:00/0000:01:00.0"
    real.mkdir(parents=True)
    link = tmp_path / "sys/bus/0000:01:00.0"
    link.parent.mkdir()
    link.symlink_to(real)
    assert bubblewrap.gpu_arguments(Gpu("0", (), (link,))) == [
        "--ro-bind", str(real), str(real), "--symlink", str(real), str(link),
    ]  # fmt: skip


def test_without_a_driver_cuda_does_not_start() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: tests/gpu starts it in a room")
    with pytest.raises((RuntimeError, AssertionError), match=r"CUDA|NVIDIA"):
        cuda.start(2**30)


# Does what a driver does that walls could mind: it starts threads, reserves more than there is, makes a memory file.
DRIVER = """
import mmap, os, threading

def demand_untouched():
    pass

def start(memory_bytes):
    from autograder.remote import standin

    global kept
    for _ in range(6):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    reserved = mmap.mmap(-1, 2**40, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0)
    kept = [reserved, os.memfd_create("driver"), bytearray(b"x") * 2**28]
    return standin.DEVICE
"""


@pytest.fixture(scope="module")
def gpu_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox whose rooms have a GPU, but for the driver."""
    write_room = bubblewrap.write_room

    def write_with_driver(folder: Path) -> Path:
        room = write_room(folder)
        (room / "autograder/sandbox/cuda.py").write_text(DRIVER)
        return room

    limits = Limits(memory_bytes=2 * 2**30, processes=32, files_bytes=4 * 2**20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bubblewrap, "write_room", write_with_driver)
        sandbox = Sandbox("bubblewrap", limits, tmp_path_factory.mktemp("course"), gpu=Gpu("0", ()))
    with sandbox:
        yield sandbox


def test_rooms_with_a_gpu_have_the_walls_of_all_rooms(gpu_sandbox: Sandbox, tmp_path: Path) -> None:
    gpu_sandbox.wait()
    demand_walls(gpu_sandbox, tmp_path)


def test_a_driver_costs_a_submission_neither_memory_nor_walls(gpu_sandbox: Sandbox) -> None:
    room = gpu_sandbox.open()
    # The driver's 256 MiB, give or take the pages that the kernel counts in batches.
    assert 1.01 * 2**28 > room.overhead > 0.99 * 2**28 > room.usage().memory_bytes
    found = result_of(room, """
        import os, torch
        result = {"threads": len(os.listdir("/proc/self/task")), "taken": 0}
        try:
            os.memfd_create("x")
        except PermissionError:
            result["memfd"] = "refused"
        blocks = []
        try:
            while True:
                blocks.append(torch.ones(2**25))
                result["taken"] += 2**27
        except (MemoryError, RuntimeError) as error:
            result["error"] = str(error)[:60]
        del blocks
    """)  # fmt: skip
    assert (found["threads"], found["memfd"]) == (7, "refused")
    assert 1.8 * 2**30 < found["taken"] <= 2 * 2**30 and "alloc" in found["error"]
    assert 1.8 * 2**30 < room.peak_memory() < 2.2 * 2**30
    room.forget_peak()
    assert room.peak_memory() < 2**29
    namespace = process_namespace(room)
    assert processes_in(namespace)
    room.end()
    assert processes_in(namespace) == []  # at once: what a GPU held is free


def test_the_template_must_not_have_opened_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.demand_untouched()
    monkeypatch.setattr(cuda, "DEVICE_FILES", "/dev/full")
    with open("/dev/full", "rb"), pytest.raises(RuntimeError, match="opened the GPU"):  # noqa: PTH123
        cuda.demand_untouched()


def in_a_process(source: str) -> str:
    """What a program prints, with the lockdown at hand."""
    start = "import ctypes, os, resource, sys, threading\nfrom autograder.sandbox import lockdown\n"
    command = [sys.executable, "-c", start + textwrap.dedent(source)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("all_threads", "said"), [("True", "refused"), ("False", "a file in no folder")])
def test_system_calls_are_filtered_in_threads_that_a_driver_has_started(all_threads: str, said: str) -> None:
    source = f"""
        go, lines = threading.Event(), []
        def later():
            go.wait()
            try:
                os.memfd_create("x")
            except PermissionError:
                lines.append("refused")
            else:
                lines.append("a file in no folder")
        thread = threading.Thread(target=later)
        thread.start()
        lockdown.forbid_new_privileges()
        lockdown.filter_system_calls(all_threads={all_threads})
        go.set()
        thread.join()
        print(*lines)
    """
    assert in_a_process(source) == said


def test_memory_is_limited_where_the_address_space_is_not() -> None:
    source = """
        import mmap
        kept = []
        lockdown.limit_data(2**28)
        def reserve(size, protection):
            try:
                kept.append(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, protection))
            except OSError:
                return False
            return True
        PROT_NONE = 0
        print(reserve(2**36, PROT_NONE), reserve(2**27, mmap.PROT_WRITE), reserve(2**28, mmap.PROT_WRITE))
    """
    assert in_a_process(source) == "True True False"


def test_the_most_that_a_process_had_in_memory_can_be_forgotten() -> None:
    before = watching.peak_of(os.getpid())
    block = bytearray(b"x") * 2**28
    assert watching.peak_of(os.getpid()) > before + 2**27
    del block
    watching.forget_peak(os.getpid())
    assert watching.peak_of(os.getpid()) < before + 2**27


# where tensors are


def test_what_the_checks_have_on_the_stand_in_is_on_the_other_device_there() -> None:
    names: dict[str, object] = {}
    exec("def f(x): return x * 2, x.device, str(x.device)\ndef g(device): return device", names)
    student = loopback(names, torch.device("cpu"))
    for sent, told in ((torch.arange(3.0).to(standin.DEVICE), "cpu"), (torch.arange(3.0), "cpu")):
        result, device, name = student.f(sent)
        assert_close(result, torch.tensor([0.0, 2.0, 4.0]))
        assert_device(result, standin.DEVICE)
        assert (device, name) == (standin.DEVICE, told)
    assert student.g(standin.DEVICE) == standin.DEVICE


# whose turn it is

TAKES_A_TURN = """
import sys
from pathlib import Path
from autograder import gpu, slots
slots.FOLDER = Path(sys.argv[2])
with gpu.gpu_slot(gpu.Gpu(sys.argv[1], ())):
    print("in", flush=True)
    sys.stdin.readline()
"""


def test_two_graders_have_a_gpu_one_after_the_other(tmp_path: Path) -> None:
    def start(name: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", TAKES_A_TURN, name, str(tmp_path)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def line_of(process: "subprocess.Popen[str]") -> str:
        assert process.stdout
        return process.stdout.readline().strip()

    with start("a") as first, start("a") as second, start("b") as other:
        assert line_of(other) == "in"
        ready, _, _ = select.select([first.stdout, second.stdout], [], [], 30)
        (has,) = ready
        holder, waiter = (first, second) if has is first.stdout else (second, first)
        assert line_of(holder) == "in"
        while f"-> FLOCK  ADVISORY  WRITE {waiter.pid} " not in Path("/proc/locks").read_text():
            assert waiter.poll() is None
        holder.kill()  # however it ends
        assert line_of(waiter) == "in"
        waiter.kill()
        other.kill()


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for `nvidia-smi` that says one line of a file after another, and the last again and again."""
    lines = tmp_path / "lines"
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    script = f"""#!/bin/sh
        test "$*" = "--id=7 --query-gpu=memory.used --format=csv,noheader,nounits" || exit 1
        head -n 1 {lines}
        test "$(wc -l < {lines})" -gt 1 && sed -i 1d {lines}
        exit 0
    """
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return lines


GPU = Gpu("7", ())
MIB = 2**20


def test_memory_that_comes_back_late_is_waited_for(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("4312\n2210\n451\n")
    demand_free(GPU, 447 * MIB)
    assert nvidia_smi.read_text() == "451\n"
    assert memory_in_use(GPU) == 451 * MIB


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("3447\n", "3000 MiB more of the memory of GPU 7 are in use than when grading began"),
        ("[N/A]\n", "nvidia-smi does not tell"),
        ("No devices were found\n", "nvidia-smi does not tell"),
    ],
)
def test_memory_that_stays_in_use_is_said(nvidia_smi: Path, said: str, reason: str) -> None:
    nvidia_smi.write_text(said)
    with pytest.raises(GpuNotFree, match=reason):
        demand_free(GPU, 447 * MIB, seconds=0)


@pytest.mark.parametrize(
    ("said", "verdict", "asked"),
    [
        ("447\n447\n", Verdict.STUDENT_FAULT, 1),
        ("9000\n", Verdict.GRADER_FAULT, 0),
        ("447\n900\n", Verdict.GRADER_FAULT, 1),
    ],
    ids=["all is free", "it was in use before", "it is kept"],
)
def test_a_submission_that_leaves_less_memory_gets_no_mark(
    nvidia_smi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, verdict: Verdict, asked: int
) -> None:
    monkeypatch.setattr(slots, "FOLDER", tmp_path)
    monkeypatch.setattr(gpus.demand_free, "__defaults__", (0.0,))
    nvidia_smi.write_text(said)
    runs = tmp_path / "runs"
    runs.touch()

    def grade() -> Graded:
        with runs.open("a") as file:
            file.write(f"{signal.alarm(0) > 0}\n")  # the time that a submission may take counts from its turn
        return Graded(refused("shapes", "ada", {"area": 2.0}, ""), right=False)

    judges = Judges("shapes", 60, functools.partial(turn_on, GPU, 447 * MIB))
    result = judges.once("ada", grade)
    assert (result.verdict, runs.read_text()) == (verdict, "True\n" * asked)
    assert ("GpuNotFree" in result.reason) == (verdict == Verdict.GRADER_FAULT)


# the notebook run for each task

SPIN, CRASH = "while True: pass", "import os; os._exit(3)"


def when_asked(source: str) -> dict[str, str]:
    """An answer to `area` that does this when hidden checks ask, and is right in the notebook's own check."""
    body = textwrap.indent(textwrap.dedent(source).strip(), "    ")
    return {"area": f"def area(side):\n    if side.tolist() == [3.0]: return side.square()\n{body}"}


SUBMISSIONS = {
    "reference": {},
    "wrong": {"area": "def area(side): return side * 2"},
    "crashes when asked": when_asked(CRASH),
    "never ends when asked for a gradient": when_asked("""
        while side.requires_grad: pass
        return side.square()
    """),
    "fills memory when asked for a gradient": when_asked("""
        blocks = []
        while side.requires_grad: blocks.append(torch.ones(2**25))
        return side.square()
    """),
    "ends its process in a cell": {"volume": CRASH},
    "never ends in a cell": {"volume": SPIN},
    "spoils torch for whoever comes later": when_asked("""
        answer = side.square()
        if side.requires_grad: torch.Tensor.__mul__ = lambda a, b: a  # after the last check of this task
        return answer
    """),
    "knows what the task before was asked": {
        "area": "asked = []\ndef area(side):\n    asked.append(float(side.flatten()[0]))\n    return side.square()",
        "volume": "def volume(side, height):\n    return side.square() * height * (asked[-1] != 3.0 or side == 3.0)",
    },
    "breaks the device when asked": when_asked("""
        def broken(*args, **kwargs): raise RuntimeError("CUDA error: device-side assert triggered")
        torch.ones = broken
        return torch.ones(3)
    """),
    "breaks the device in a cell": {"volume": "torch.ones = None\ntorch.ones(3)"},
}
LIMITS = """
    limits=Limits(cell_seconds=0.5, check_seconds=3, memory_bytes=2 * 1024**3),
)
"""


def release_without_nbgrader(course: TinyCourse) -> None:
    """Make the folder that `course release` makes, in a fraction of the time."""
    release = course.root / "release" / "shapes"
    release.mkdir(parents=True)
    (release / "shapes.ipynb").write_text(json.dumps(released_notebook(read_script(course.script))))
    shutil.copy(course.script.parent / "expect.py", release)


SLOW = {"never ends when asked for a gradient", "fills memory when asked for a gradient", "never ends in a cell"}
"""They take what they may, twice over."""


@pytest.mark.parametrize("names", [SUBMISSIONS.keys() - SLOW, pytest.param(SLOW, marks=pytest.mark.long)])
def test_running_the_notebook_for_each_task_finds_what_forking_finds(tiny_course: TinyCourse, names: set[str]) -> None:
    tiny_course.edit(tiny_course.config, "import Assignment, Course", "import Assignment, Course, Limits")
    tiny_course.edit(tiny_course.config, '00:00")],\n)\n', '00:00")],' + LIMITS)
    release_without_nbgrader(tiny_course)
    found = graded_both_ways(tiny_course.root, "shapes", {name: SUBMISSIONS[name] for name in sorted(names)})
    for name, (forked, rerun) in found.items():
        assert (forked.device, rerun.device) == ("cpu", "standin")
        if name != "breaks the device in a cell":  # which costs what the cell defines, like a cell that crashes
            assert verdicts(rerun) == verdicts(forked), name
            assert (rerun.verdict, rerun.reason) == (forked.verdict, forked.reason), name
            assert [cell.error for cell in rerun.cells] == [cell.error for cell in forked.cells], name
    scores = {
        "reference": 5.0, "wrong": 3.0, "crashes when asked": 0.0, "never ends when asked for a gradient": 3.67,
        "fills memory when asked for a gradient": 3.67, "ends its process in a cell": 2.0,
        "never ends in a cell": 2.0, "spoils torch for whoever comes later": 5.0,
        "knows what the task before was asked": 5.0,
        "breaks the device when asked": 0.0, "breaks the device in a cell": 2.0,
    }  # fmt: skip
    assert {name: rerun.score for name, (_, rerun) in found.items()} == {name: scores[name] for name in names}
    causes = {
        "crashes when asked": ["your code ended its process (exit code 3)"] * 2,
        "never ends when asked for a gradient": ["", "took more than 3 seconds of computing time"],
        "fills memory when asked for a gradient": ["", "used up its 2.0 GiB of memory"],
        "breaks the device when asked": [GPU_BROKEN] * 2,
    }
    asked = names & causes.keys()
    assert {name: [check.cause for check in found[name][1].tasks[0].checks] for name in asked} == {
        name: causes[name] for name in asked
    }
    if "breaks the device in a cell" in names:
        assert found["breaks the device in a cell"][1].reason == f"cell 7: {GPU_BROKEN}"


def test_code_that_ignores_the_device_fails_on_a_gpu_what_it_fails_on_the_cpu(tiny_course: TinyCourse) -> None:
    tiny_course.edit(tiny_course.checks, "def test_three(self, student):", "def test_three(self, student, device):")
    tiny_course.edit(tiny_course.checks, "student.area(torch.tensor([1.7]))", "student.area(side)")
    tiny_course.edit(
        tiny_course.checks, "        assert_close(student.area(side)",
        "        side = torch.tensor([1.7], device=device)\n        assert_close(student.area(side)",
    )  # fmt: skip
    tiny_course.edit(tiny_course.checks, '    @check(hint="Is it', DEVICE_CHECK + '    @check(hint="Is it')
    release_without_nbgrader(tiny_course)
    answers = {"reference": {}, "ignores": {"area": "def area(side): return side.square() * torch.ones(1)"},
               "wrong": {"area": "def area(side): return side * 2"}}  # fmt: skip
    found = graded_both_ways(tiny_course.root, "shapes", answers)
    passed = {name: [[check.passed for check in result.tasks[0].checks] for result in found[name]] for name in found}
    assert passed == {
        "reference": [[True, True, True]] * 2, "ignores": [[True, False, True]] * 2, "wrong": [[False, True, False]] * 2
    }  # fmt: skip


DEVICE_CHECK = '''    def test_device(self, student, elsewhere):
        """A side on a GPU makes an area there."""
        student.area(torch.tensor([1.7], device=elsewhere))

'''


@pytest.mark.long
@pytest.mark.parametrize("assignment", [one.name for one in load_course(REPOSITORY).assignments])
def test_marks_on_the_stand_in_are_those_on_the_cpu(assignment: str) -> None:
    answers = variants_and_reference(REPOSITORY, assignment)
    found = graded_both_ways(REPOSITORY, assignment, answers, touched_only=True)
    assert found.keys() == answers.keys() and len(found) > 10
    differ = {name: (verdicts(cpu), verdicts(other)) for name, (cpu, other) in found.items()}
    assert {name: pair for name, pair in differ.items() if pair[0] != pair[1]} == {}
    assert all(differ["reference"][1].values())
