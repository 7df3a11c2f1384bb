"""What is sent, from whatever a caller has."""

from __future__ import annotations

import gzip
import io

import pytest
from blake3 import blake3

from tests.chance import random_bytes
from trivet.bodies import PIECE_BYTES, BytesBody, FileBody, OpenedBody, StreamBody, body_of
from trivet.errors import SourceChanged, TrivetError

_SIZE_BYTES = 2 * PIECE_BYTES + 17


async def _all(body) -> bytes:
    return b"".join([bytes(piece) async for piece in body.pieces()])


@pytest.fixture
def data() -> bytes:
    """A little more than two pieces."""
    return random_bytes(_SIZE_BYTES)


async def test_every_source_gives_its_bytes_and_their_digest(data, tmp_path) -> None:
    """Bytes, paths, files, iterators of both kinds; known sizes are known."""
    path = tmp_path / "file"
    path.write_bytes(data)
    packed = tmp_path / "file.gz"
    packed.write_bytes(gzip.compress(data, 1))

    async def later():
        yield data[:10]
        yield b""
        yield data[10:]

    with path.open("rb") as file, gzip.open(packed) as unpacked, path.open("rb", buffering=0) as raw:
        for source, size_bytes in (
            (data, _SIZE_BYTES),
            (bytearray(data), _SIZE_BYTES),
            (memoryview(data), _SIZE_BYTES),
            (io.BytesIO(data), _SIZE_BYTES),
            (path, _SIZE_BYTES),
            (file, _SIZE_BYTES),
            (raw, _SIZE_BYTES),
            (unpacked, None),
            ((data[start : start + 1000] for start in range(0, len(data), 1000)), None),
            (later(), None),
        ):
            with OpenedBody(source) as body:
                assert body.size_bytes == size_bytes
                assert await _all(body) == data
                assert body.digest == blake3(data).hexdigest()


async def test_what_is_rewindable_can_be_sent_again_and_a_stream_cannot(data, tmp_path) -> None:
    """The digest is that of the last pass."""
    path = tmp_path / "file"
    path.write_bytes(data)
    for source in (data, path):
        with OpenedBody(source) as body:
            async for _ in body.pieces():
                break
            assert await _all(body) == data
            assert body.digest == blake3(data).hexdigest()
    stream = body_of(iter([data]))
    assert await _all(stream) == data
    with pytest.raises(TrivetError, match="again"):
        await _all(stream)


async def test_a_file_is_sent_from_where_it_stands(data, tmp_path) -> None:
    """And stands there still."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        file.seek(100)
        assert await _all(body_of(file)) == data[100:]
        assert file.tell() == 100
    in_memory = io.BytesIO(data)
    in_memory.seek(7)
    assert await _all(body_of(in_memory)) == data[7:]


async def test_a_file_that_becomes_shorter_is_an_error(data, tmp_path) -> None:
    """Never a body that ends early."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        body = FileBody(file.fileno(), 0, len(data) + 1)
        with pytest.raises(SourceChanged):
            await _all(body)
        assert isinstance(body.error, SourceChanged)


async def test_a_piece_of_a_file_stays_as_it_is_while_it_is_held(tmp_path) -> None:
    """A transport may hold the end of one while it asks for the next ones."""
    data = random_bytes(6 * PIECE_BYTES)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        held = [piece async for piece in body_of(file).pieces()]
    assert b"".join(held) == data


async def test_the_memory_of_pieces_is_used_again(tmp_path) -> None:
    """What is sent, the piece before, and the one that is read: a body takes no more, however long it is."""
    path = tmp_path / "file"
    path.write_bytes(random_bytes(10 * PIECE_BYTES))
    used: list[object] = []
    with path.open("rb") as file:
        async for piece in body_of(file).pieces():
            if not any(piece.obj is memory for memory in used):
                used.append(piece.obj)
    assert len(used) <= 3


async def test_progress_is_told_piece_by_piece(data) -> None:
    """And from the start again when the body is."""
    body = BytesBody(data)
    told: list[int] = []
    body.on_progress = told.append
    await _all(body)
    await _all(body)
    assert told == [PIECE_BYTES, 2 * PIECE_BYTES, _SIZE_BYTES] * 2


async def test_many_small_pieces_go_together_and_a_slow_one_does_not_wait(monkeypatch) -> None:
    """A line is no request of its own; what is there goes on its way."""
    told = [len(piece) async for piece in StreamBody(iter([b"line\n"] * 1000)).pieces()]
    assert sum(told) == 5000
    assert len(told) < 100
    monkeypatch.setattr("trivet.bodies._GATHER_S", 0.0)
    assert [bytes(piece) async for piece in StreamBody(iter([b"", b"one", b"two"])).pieces()] == [b"one", b"two"]


async def test_what_a_source_raises_is_kept() -> None:
    """The transport tells only that sending failed."""

    def pieces():
        yield b"one"
        raise ZeroDivisionError

    body = StreamBody(pieces())
    with pytest.raises(ZeroDivisionError):
        await _all(body)
    assert isinstance(body.error, ZeroDivisionError)


@pytest.mark.parametrize("source", ["text", io.StringIO("text"), 7, None])
def test_text_and_numbers_have_no_bytes(source) -> None:
    """A string might be meant as a path."""
    with pytest.raises(TypeError):
        body_of(source)
