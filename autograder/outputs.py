"""Cell outputs from the sandbox, made harmless: plain text and pixels, nothing that a browser would run.

An output is built anew from what was checked; whatever else a submission put into it (HTML, SVG, JavaScript, widgets,
terminal control codes) is left out, its text form kept.
"""

import base64
import binascii
import json
import re
from typing import Any

MAX_OUTPUTS = 500
_FRAME_BYTES = 100  # what an output takes beside its text
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_IMAGES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}


def plain_text(text: Any) -> str:
    """Text without terminal codes, control or direction-changing characters, nor what a carriage return overwrote."""
    parts = text if isinstance(text, list) else [text]
    text = "".join(str(part) for part in parts if not isinstance(part, list | dict))  # lists in lists may have no end
    text = _ANSI.sub("", text).replace("\r\n", "\n")
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return _CONTROL.sub("", text.encode("utf-8", "replace").decode("utf-8"))


def clean_outputs(data: bytes, limit: int) -> tuple[dict[str, Any], ...]:
    """Harmless nbformat outputs from what a submission's process sent as JSON; nothing where that is not readable.

    Args:
        data: A JSON list of outputs.
        limit: Bytes that may be kept.
    """
    try:
        received = json.loads(data) if len(data) <= 4 * limit + 2**16 else []
    except (ValueError, RecursionError):
        return ()
    kept: list[dict[str, Any]] = []
    for output in received[:MAX_OUTPUTS] if isinstance(received, list) else []:
        clean = _clean(output) if isinstance(output, dict) else None
        if clean is None:
            continue
        room = limit - _FRAME_BYTES
        if clean["output_type"] == "stream" and 0 < room < len(clean["text"]):
            clean["text"] = clean["text"][:room]
        size = sum(len(text) for text in _texts(clean))
        if size <= room:
            limit = room - size
            kept.append(clean)
    return tuple(kept)


def _texts(output: dict[str, Any]) -> list[str]:
    data = output.get("data", {})
    return [*data.values(), *output.get("traceback", ()), output.get("text", ""), output.get("evalue", "")]


def _clean(output: dict[str, Any]) -> dict[str, Any] | None:
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return {"output_type": "stream", "name": name, "text": plain_text(output.get("text", ""))}
    if kind == "error":
        lines = output.get("traceback")
        return {
            "output_type": "error",
            "ename": plain_text(output.get("ename", "")),
            "evalue": plain_text(output.get("evalue", "")),
            "traceback": [plain_text(line) for line in lines] if isinstance(lines, list) else [],
        }
    bundle = output.get("data")
    if kind not in ("display_data", "execute_result") or not isinstance(bundle, dict):
        return None
    data = {mime: image for mime in _IMAGES if (image := _image(mime, bundle.get(mime))) is not None}
    if "text/plain" in bundle:
        data["text/plain"] = plain_text(bundle["text/plain"])
    # Shown as display_data: nbgrader would read a number among a grade cell's results as a mark.
    return {"output_type": "display_data", "data": data, "metadata": {}} if data else None


def _image(mime: str, value: Any) -> str | None:
    try:
        pixels = base64.b64decode(value, validate=False) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(pixels).decode("ascii") if pixels.startswith(_IMAGES[mime]) else None
