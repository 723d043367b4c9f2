"""The GPU that submissions run on: which one, the files that a sandbox must show for it, one submission at a time.

The grader itself never computes on it: that takes a process of the sandbox. What is told here comes from the driver's
files and from `nvidia-smi`, so nothing of torch is imported.
"""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from autograder.course import CourseError
from autograder.slots import slot

MIB = 2**20
QUERY_SECONDS = 30.0
FREEING_SECONDS = 20.0
"""How long memory may take to be free again once the process that held it is gone."""
SPARE_BYTES = 64 * MIB
"""By how much the memory in use may differ with nothing of ours on the GPU."""


class GpuUnavailable(CourseError):
    """Submissions cannot run on a GPU of this machine, and what is missing."""


class GpuNotFree(RuntimeError):
    """Memory of the GPU is in use that was free when grading began: what a mark may need may not be there."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, and what a sandbox must show so that CUDA finds it and no other.

    Attributes:
        name: Its UUID where the driver tells it, else its number among the device files.
        devices: Device files, to be bound.
        hardware: Folders of /sys that CUDA reads: processors, memory nodes, the driver, this GPU.
        uuid: Its UUID, or "".
    """

    name: str
    devices: tuple[Path, ...]
    hardware: tuple[Path, ...] = ()
    uuid: str = ""


def demand_gpu() -> Gpu:
    """The GPU that this process is to use: the first, or the first that CUDA_VISIBLE_DEVICES names.

    Raises:
        GpuUnavailable: There is none, or something that grading on it needs is missing.
    """
    gpu = find_gpu(Path("/"), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not torch_cuda_version():
        raise GpuUnavailable(
            'device="cuda" needs a build of PyTorch for CUDA, and the one that is installed is for CPUs only: see '
            "https://pytorch.org/get-started"
        )
    _demand_driver_library(_ldconfig())
    if shutil.which("nvidia-smi") is None:
        raise GpuUnavailable(
            'device="cuda" needs nvidia-smi, which comes with the driver: it tells what memory is free'
        )
    return gpu


def find_gpu(root: Path, visible: str | None) -> Gpu:
    """The first NVIDIA GPU that may be used.

    Args:
        root: The machine's root folder.
        visible: What CUDA_VISIBLE_DEVICES holds, None where it is not set. Numbers count in the order of the PCI bus,
            as `nvidia-smi` does.

    Raises:
        GpuUnavailable: There is none.
    """
    needed = [root / "dev/nvidiactl", root / "dev/nvidia-uvm"]
    missing = [path for path in needed if not path.exists()]
    found = _gpus(root)
    if missing or not found:
        what = ", ".join(f"/{path.relative_to(root)}" for path in missing) or "/dev/nvidia0"
        raise GpuUnavailable(
            f'device="cuda" needs an NVIDIA GPU with its driver: there is no {what} on this machine. '
            'Use device="auto" or "cpu".'
        )
    minor, bus, uuid = _chosen(found, visible)
    tools = root / "dev/nvidia-uvm-tools"  # which newer drivers open too
    system = ("devices/system/node", "devices/system/cpu", "module/nvidia", "module/nvidia_uvm")
    hardware = [root / "sys" / name for name in system]
    if bus:
        hardware.append(root / "sys/bus/pci/devices" / bus)
    return Gpu(
        uuid or str(minor),
        (root / f"dev/nvidia{minor}", *needed, *([tools] if tools.exists() else [])),
        tuple(path for path in hardware if path.exists()),
        uuid,
    )


def _gpus(root: Path) -> list[tuple[int, str, str]]:
    """Number among the device files, address on the PCI bus and UUID of each GPU, in the order of the bus."""
    found = []
    for folder in sorted((root / "proc/driver/nvidia/gpus").glob("*")):
        with contextlib.suppress(OSError):
            text = (folder / "information").read_text(errors="replace")
            minor = re.search(r"^Device Minor:\s*(\d+)", text, re.MULTILINE)
            uuid = re.search(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", text, re.MULTILINE)
            if minor and (root / f"dev/nvidia{minor[1]}").exists():
                found.append((int(minor[1]), folder.name, uuid[1] if uuid else ""))
    if found:
        return found
    # Some containers hide the driver's own list.
    names = (re.fullmatch(r"nvidia(\d+)", path.name) for path in (root / "dev").glob("nvidia*"))
    return sorted((int(name[1]), "", "") for name in names if name)


def _chosen(found: list[tuple[int, str, str]], visible: str | None) -> tuple[int, str, str]:
    if visible is None:
        return found[0]
    first = visible.split(",")[0].strip()
    if first.startswith("MIG-"):
        raise GpuUnavailable("CUDA_VISIBLE_DEVICES names a part of a GPU (MIG), on which grading is not supported")
    if first.isdigit() and int(first) < len(found):
        return found[int(first)]
    matching = [gpu for gpu in found if gpu[2] and first.startswith("GPU-") and gpu[2].startswith(first)]
    if len(matching) == 1:
        return matching[0]
    raise GpuUnavailable(f"CUDA_VISIBLE_DEVICES={visible!r} names no GPU of the {len(found)} on this machine")


def torch_cuda_version() -> str:
    """The version of CUDA that the installed torch was built for, or "": told without importing it."""
    spec = find_spec("torch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        with contextlib.suppress(OSError):
            found = re.search(r"^cuda\b.*=\s*'([^']+)'", Path(folder, "version.py").read_text(), re.MULTILINE)
            return found[1] if found else ""
    return ""


def _ldconfig() -> str:
    program = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if program is None:
        return ""
    return subprocess.run([program, "-p"], capture_output=True, text=True, check=False, timeout=QUERY_SECONDS).stdout


def _demand_driver_library(libraries: str) -> None:
    """Demand the driver's library where the sandbox shows it; `libraries` is what `ldconfig -p` says."""
    places = [Path(place) for place in re.findall(r"^\s*libcuda\.so\.1 .*=> (\S+)", libraries, re.MULTILINE)]
    if not libraries or any(place.parts[1:2] and place.parts[1] in ("usr", "lib", "lib64") for place in places):
        return
    where = f"it is {places[0]}, and the sandbox shows /usr" if places else "`ldconfig -p` does not list it"
    raise GpuUnavailable(f'device="cuda" needs the driver\'s library libcuda.so.1 among those of the system: {where}')


# one submission at a time


def gpu_slot(gpu: Gpu) -> contextlib.AbstractContextManager[bool]:
    """Have a GPU alone, among all that grade on this machine: waits until nobody else has it."""
    return slot(f"gpu-{gpu.name}")


@contextlib.contextmanager
def turn_on(gpu: Gpu, before: int) -> Iterator[None]:
    """Have a GPU alone, with all memory free that was free when grading began; it must be free again in the end.

    Raises:
        GpuNotFree: It is not, before or after.
    """
    with gpu_slot(gpu):
        demand_free(gpu, before)
        yield
        demand_free(gpu, before)


def memory_in_use(gpu: Gpu) -> int:
    """Bytes of the GPU's memory that are in use, by whomever.

    Raises:
        GpuNotFree: `nvidia-smi` does not tell.
    """
    command = ["nvidia-smi", f"--id={gpu.name}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=QUERY_SECONDS)
        return read_memory(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise GpuNotFree(f"nvidia-smi does not tell how much of the GPU's memory is free: {error}") from None


def read_memory(said: str) -> int:
    """Bytes, from the one number of MiB that `nvidia-smi` prints.

    Raises:
        ValueError: It printed something else.
    """
    return int(said.strip()) * MIB


def demand_free(gpu: Gpu, before: int, seconds: float = FREEING_SECONDS) -> None:
    """Wait until no more of the GPU's memory is in use than there was.

    Args:
        gpu: The GPU.
        before: Bytes in use when nothing of ours was there.
        seconds: How long to wait; the driver frees what a killed process had a little later.

    Raises:
        GpuNotFree: More stays in use.
    """
    end = time.monotonic() + seconds
    while (used := memory_in_use(gpu)) > before + SPARE_BYTES:
        if time.monotonic() > end:
            raise GpuNotFree(
                f"{(used - before) // MIB} MiB more of the memory of GPU {gpu.name} are in use than when grading began "
                "(`nvidia-smi` may show by whom), so what a submission may use is not there"
            )
        time.sleep(0.2)
