"""CUDA in a room: started after the fork, before student code, with a bound on the memory that torch takes of the GPU.

This file enters the sandbox: it imports nothing else of ours.
"""

import os
import sys
from typing import Any

DEVICE_FILES = "/dev/nvidia"


def demand_untouched() -> None:
    """Demand that nothing has started CUDA in this process: its forks could not use it.

    Raises:
        RuntimeError: Something has.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("CUDA was started in the template, whose forks could then not use it")
    opened = []
    for number in os.listdir("/proc/self/fd"):
        try:
            opened.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the descriptor that listed the folder
            continue
    if any(path.startswith(DEVICE_FILES) for path in opened):
        raise RuntimeError("an import has opened the GPU in the template, whose forks could then not use it")


def start(memory_bytes: int) -> Any:
    """Start CUDA in this process and let torch take so much of the GPU's memory; the GPU as a device of torch.

    It needs `memfd_create`, so it starts before system calls are filtered; its threads must be filtered with the rest.

    Raises:
        Exception: It does not start; torch says why.
    """
    import torch

    torch.cuda.init()  # type: ignore[no-untyped-call]
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total), 0)
    device = torch.device("cuda", 0)
    torch.ones((), device=device).add(1).item()  # the first kernel loads what a submission should not wait for
    return device
