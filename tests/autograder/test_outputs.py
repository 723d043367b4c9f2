"""What of a cell's outputs reaches a page: text and pixels."""

import base64
import json
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.outputs import MAX_OUTPUTS, clean_outputs, plain_text

LIMIT = 100_000


def cleaned(*outputs):
    return list(clean_outputs(json.dumps(outputs).encode(), LIMIT))


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def display(data, kind="display_data"):
    return {"output_type": kind, "data": data, "metadata": {}}


def png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


PIXELS = base64.b64encode(png()).decode()


def test_text_and_pixels_are_kept():
    outputs = [stream("a\n"), stream("b\n", "stderr"), display({"text/plain": "<Figure>", "image/png": PIXELS})]
    assert cleaned(*outputs) == outputs
    jpeg = base64.b64encode(b"\xff\xd8\xff\xe0rest").decode()
    assert cleaned(display({"image/jpeg": jpeg})) == [display({"image/jpeg": jpeg})]


@pytest.mark.parametrize(
    "mime",
    [
        "text/html", "image/svg+xml", "application/javascript", "text/markdown", "text/latex", "application/json",
        "application/vnd.jupyter.widget-view+json", "image/gif", "TEXT/HTML", "image/png ",
    ],
)  # fmt: skip
def test_what_a_browser_could_run_is_left_out_and_its_text_form_kept(mime):
    assert cleaned(display({mime: "<script>alert(1)</script>", "text/plain": "x"})) == [display({"text/plain": "x"})]
    assert cleaned(display({mime: "<script>alert(1)</script>"})) == []


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x07", "link"),
        ("\x1b]0;title\x1b\\text", "text"),
        ("a\x00b\x07c\x08d\x7fe\x9bf", "abcdef"),
        ("abc\u202edcba\u2066x\u2069", "abcdcbax"),
        ("10%\r50%\r100%\n", "100%\n"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("done\r", "done"),
        ("\ud800", "?"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("κ₁ ≤ 2", "κ₁ ≤ 2"),
    ],
)
def test_text_is_freed_of_codes_that_steer_what_shows_it(hostile, harmless):
    assert plain_text(hostile) == harmless
    assert cleaned(stream(hostile)) == [stream(harmless)]
    assert cleaned(display({"text/plain": hostile})) == [display({"text/plain": harmless})]
    error = {"output_type": "error", "ename": hostile, "evalue": hostile, "traceback": [hostile]}
    assert cleaned(error) == [{"output_type": "error", "ename": harmless, "evalue": harmless, "traceback": [harmless]}]


@given(st.text(st.characters(exclude_categories=())))
@settings(deadline=None, max_examples=300)
def test_plain_text_has_no_control_character_and_can_be_written(text):
    cleaned_text = plain_text(text)
    cleaned_text.encode("utf-8")
    assert all(character in "\t\n" or character >= " " for character in cleaned_text)
    assert not set(cleaned_text) & set("\x1b\x7f\x9b\u202e\u2066")
    assert plain_text(cleaned_text) == cleaned_text


def test_a_list_of_lines_is_one_text():
    assert cleaned(stream(["a\n", "b"])) == [stream("a\nb")]


@pytest.mark.parametrize(
    "image",
    [
        "not base64!", base64.b64encode(b"<svg onload='alert(1)'/>").decode(), "", None, 5, [PIXELS], {"x": 1},
        base64.b64encode(b"GIF89a").decode(), "\ud800",
    ],
)  # fmt: skip
def test_an_image_that_is_none_is_left_out(image):
    assert cleaned(display({"image/png": image, "text/plain": "x"})) == [display({"text/plain": "x"})]
    assert cleaned(display({"image/jpeg": PIXELS})) == []


def test_an_image_cannot_leave_its_attribute():
    outputs = cleaned(display({"image/png": PIXELS[:-4] + '"><script>' + PIXELS[-4:]}))
    assert not any(set(output["data"]["image/png"]) & set("\"'<>") for output in outputs)


@pytest.mark.parametrize("value", ["10", "2.5", "1e3", " 7 ", "text"])
def test_a_result_never_stays_a_result(value):
    """A number among a grade cell's results would be read as a mark."""
    assert cleaned(display({"text/plain": value}, "execute_result"))[0]["output_type"] == "display_data"
    assert "execution_count" not in cleaned(display({"text/plain": value}, "execute_result"))[0]


def test_names_metadata_and_further_keys_do_not_cross():
    odd = {"output_type": "stream", "name": "<b>", "text": "x", "transient": {}, "metadata": {"a": "<b>"}}
    assert cleaned(odd) == [stream("x")]
    assert cleaned({**display({"text/plain": "x"}), "metadata": {"isolated": True}}) == [display({"text/plain": "x"})]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"5", b'"text"', b"{}", b"[", b"\xff\xfe", b"[" * 100_000, b"[null, 1, [], {}]", b"[NaN]",
        b'[{"output_type": "pyout"}]', b'[{"output_type": []}]', b'[{"output_type": {"a": 1}}]',
        b'[{"output_type": "display_data"}]', b'[{"output_type": "display_data", "data": []}]',
        b'[{"output_type": "display_data", "data": {"text/html": "x"}}]',
    ],
)  # fmt: skip
def test_what_is_no_list_of_outputs_is_nothing(data):
    assert clean_outputs(data, LIMIT) == ()


def test_malformed_parts_become_text():
    for output in (
        stream(None), stream({"a": [1]}), stream(10**50), {"output_type": "stream"}, {"output_type": "error"},
        {"output_type": "error", "ename": [], "evalue": {}, "traceback": "x"}, display({"text/plain": 5}),
        {"output_type": "error", "traceback": [None, 5, ["x"]]},
    ):  # fmt: skip
        [kept] = cleaned(output)
        assert all(isinstance(text, str) for key in ("text", "ename", "evalue") if (text := kept.get(key)) is not None)
        assert all(isinstance(line, str) for line in kept.get("traceback", []))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from(["stream", "error", "display_data", "execute_result", "stdout", PIXELS]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["output_type", "name", "text", "data", "ename", "traceback", "image/png", "text/plain"]), inner
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(JSON, max_size=5))
@settings(deadline=None, max_examples=200)
def test_anything_becomes_outputs_of_known_shape(received):
    for output in clean_outputs(json.dumps(received).encode(), LIMIT):
        assert output["output_type"] in ("stream", "error", "display_data")
        assert set(output.get("data", {})) <= {"text/plain", "image/png", "image/jpeg"}
        json.dumps(output, ensure_ascii=False).encode("utf-8")


def test_no_more_is_kept_than_allowed():
    assert len(cleaned(*[stream(f"{i}") for i in range(2 * MAX_OUTPUTS)])) == MAX_OUTPUTS
    kept = clean_outputs(json.dumps([stream("x" * 400)] * 100).encode(), 1000)
    assert len(kept) == 2 and len(json.dumps(kept)) < 1100
    assert clean_outputs(json.dumps([stream("x" * 200_000)]).encode(), 1000) == ()


def test_text_that_is_lists_in_lists_is_left_out() -> None:
    """JSON may be nested as deep as the interpreter reads it; to write it again takes more of the stack."""
    for depth in (1, 100, *range(900, 1000)):
        deep = "[" * depth + "]" * depth
        for output in ('{"output_type":"stream","text":%s}', '{"output_type":"error","traceback":[%s]}'):
            clean_outputs(f"[{output % deep}]".encode(), 2**20)
