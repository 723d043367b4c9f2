"""How frames travel between the grader and the sandbox: each with its length before it, none above a limit.

A frame is sent as `length:8 | frame`, the length big-endian. What is in it is no concern of this file, which imports no
torch: the grader starts the sandbox before that.

This file enters the sandbox: it imports nothing else of ours.
"""

import socket
import struct

MAX_FRAME = 64 * 2**20
FRAME_LENGTH = struct.Struct(">Q")
_SMALL = 2**16


class WireError(ValueError):
    """Something that may not cross, or a frame that does not keep to the format."""


def packets(frame: bytes) -> list[bytes]:
    """What to send for a frame, one after another.

    A small one goes with its length in one packet, for which the other side wakes up once; to join them copies it.
    """
    head = FRAME_LENGTH.pack(len(frame))
    return [head + frame] if len(frame) <= _SMALL else [head, frame]


def send_frame(channel: socket.socket, frame: bytes) -> None:
    """Send one frame on a blocking socket."""
    for packet in packets(frame):
        channel.sendall(packet)


def receive_frame(channel: socket.socket) -> tuple[bytearray, list[int]]:
    """Wait for one frame on a blocking socket: its bytes and the file descriptors that came with it.

    Raises:
        EOFError: The other side is gone.
        WireError: The frame says that it is larger than a frame may be.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, FRAME_LENGTH.size, 1)
    while head and len(head) < FRAME_LENGTH.size:
        more = channel.recv(FRAME_LENGTH.size - len(head))
        if not more:
            raise EOFError
        head += more
    if not head:
        raise EOFError
    (length,) = FRAME_LENGTH.unpack(head)
    if length > MAX_FRAME:
        raise WireError(f"a frame of {length} bytes")
    frame = bytearray(length)
    view, filled = memoryview(frame), 0
    while filled < length:
        count = channel.recv_into(view[filled:])
        if not count:
            raise EOFError
        filled += count
    return frame, list(descriptors)
