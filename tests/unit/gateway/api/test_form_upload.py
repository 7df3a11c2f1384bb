"""Files out of multipart forms, whatever way the network cuts them."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator

import pytest

from services.gateway.api.form_upload import MAX_OTHER_BYTES, FormFile, open_form
from shared.errors import InvalidRequestError, PayloadTooLargeError

TYPE = "multipart/form-data; boundary=bound"
CONTENT = b"line\r\n--boun\r\n--\r\n\r\nend\r\n" + bytes(range(256))


def part(name: str, content: bytes, *more: str) -> bytes:
    head = f'--bound\r\nContent-Disposition: form-data; name="{name}"{"".join(more)}\r\n'
    return head.encode() + b"\r\n" + content + b"\r\n"


def file_part(content: bytes, file_name: str = "a b/ä.txt") -> bytes:
    return part("file", content, f'; filename="{file_name}"\r\nContent-Type: text/x-test')


END = b"--bound--\r\n"


async def pieces_of(form: bytes, size_bytes: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(form), size_bytes):
        yield form[start : start + size_bytes]


async def read(form: bytes, size_bytes: int = 1 << 20, content_type: str | None = TYPE) -> tuple[FormFile, bytes]:
    file = await open_form(content_type, pieces_of(form, size_bytes))
    return file, b"".join([piece async for piece in file.body])


@pytest.mark.parametrize("size_bytes", [1, 2, 3, 7, 64, 1 << 20])
async def test_the_file_comes_out_whole_however_it_is_cut(size_bytes) -> None:
    """Other fields before and after it do not matter; its name and type are kept."""
    form = part("note", b"x" * 50) + file_part(CONTENT) + part("more", b"y") + END
    file, body = await read(form, size_bytes)
    assert (file.file_name, file.content_type, body) == ("a b/ä.txt", "text/x-test", CONTENT)


async def test_a_large_file_is_not_kept(seed) -> None:
    """Piece by piece, what comes in goes out."""
    content = random.Random(seed).randbytes(3 << 20)
    assert (await read(file_part(content) + END, 60_000))[1] == content


async def test_an_empty_file_is_a_file() -> None:
    """Zero bytes."""
    assert (await read(file_part(b"") + END))[1] == b""


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"garbage",
        END,
        part("other", b"x", '; filename="f"') + END,
        part("file", b"no file name") + END,
        file_part(b"x"),
        file_part(b"x") + b"--bound",
        file_part(b"x") + file_part(b"y") + END,
        b"--bound\r\nX: " + b"h" * 100_000,
    ],
)
@pytest.mark.parametrize("size_bytes", [5, 1 << 20])
async def test_a_form_without_exactly_one_whole_file_is_refused(form, size_bytes) -> None:
    """Also when only its end is wrong: the body then raises instead of ending."""
    with pytest.raises(InvalidRequestError):
        await read(form, size_bytes)


@pytest.mark.parametrize(
    "form",
    [
        part("note", b"x" * MAX_OTHER_BYTES) + file_part(b"x") + END,
        file_part(b"x") + part("note", b"x" * MAX_OTHER_BYTES) + END,
        b"".join(part(f"n{number}", b"") for number in range(10_000)) + file_part(b"x") + END,
    ],
    ids=["before the file", "after it", "ten thousand parts"],
)
@pytest.mark.parametrize("size_bytes", [5, 1 << 20])
async def test_what_stands_around_the_file_is_bounded(form, size_bytes) -> None:
    """In bytes, and so in parts."""
    with pytest.raises(PayloadTooLargeError):
        await read(form, size_bytes)


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "multipart/form-data", "multipart/mixed; boundary=bound"]
)
async def test_another_type_is_refused(content_type) -> None:
    """Before the body is looked at."""
    with pytest.raises(InvalidRequestError):
        await read(file_part(b"x") + END, content_type=content_type)


async def test_a_file_name_that_is_not_utf_8_is_refused() -> None:
    """It becomes a key."""
    with pytest.raises(InvalidRequestError):
        await read(file_part(b"x").replace("ä".encode(), b"\xff") + END)


@pytest.mark.parametrize("coding", ["base64", "Quoted-Printable", "x-uuencode", "gzip", "binary2"])
async def test_a_file_in_a_transfer_coding_is_refused(coding) -> None:
    """It would be stored undecoded, which is another file than was meant."""
    form = part("file", b"aGVsbG8=", f'; filename="k"\r\nContent-Transfer-Encoding: {coding}') + END
    with pytest.raises(InvalidRequestError) as caught:
        await read(form)
    assert caught.value.definite


@pytest.mark.parametrize("coding", ["binary", "8BIT", "7bit "])
async def test_a_transfer_coding_that_changes_nothing_is_taken(coding) -> None:
    """Some clients say so with every part."""
    form = part("file", CONTENT, f'; filename="k"\r\nContent-Transfer-Encoding: {coding}') + END
    assert (await read(form))[1] == CONTENT


async def test_a_transfer_coding_of_another_field_does_not_matter() -> None:
    """Other fields are not kept at all."""
    form = part("note", b"eA==", "\r\nContent-Transfer-Encoding: base64") + file_part(CONTENT) + END
    assert (await read(form))[1] == CONTENT
