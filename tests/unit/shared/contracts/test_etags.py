"""Entity tags and content ids: what they tell apart."""

from __future__ import annotations

from blake3 import blake3

from shared.contracts.etags import content_id_of_list, content_id_of_pieces, etag_of, list_digest
from shared.contracts.files import FileContent


def test_an_etag_differs_with_anything_that_a_reader_could_see() -> None:
    """Digest, type and metadata, and no two of them can be confused by where one ends."""
    etags = {
        etag_of("d", "t", {}),
        etag_of("e", "t", {}),
        etag_of("d", "u", {}),
        etag_of("d", "t", {"a": "b"}),
        etag_of("d", "t", {"ab": ""}),
        etag_of("d", "t", {"a": "", "b": ""}),
        etag_of("d", 't","', {}),
    }
    assert len(etags) == 7
    assert etag_of("d", "t", {"a": "1", "b": "2"}) == etag_of("d", "t", {"b": "2", "a": "1"})


def test_a_content_id_differs_with_every_piece_of_it() -> None:
    """The chunk list, where the piece begins in it, how long it is, and the order of the pieces."""
    one, other = list_digest(b"1" * 32), list_digest(b"2" * 32)
    ids = {
        content_id_of_pieces([]),
        content_id_of_pieces([(one, 0, 5)]),
        content_id_of_pieces([(other, 0, 5)]),
        content_id_of_pieces([(one, 1, 5)]),
        content_id_of_pieces([(one, 0, 6)]),
        content_id_of_pieces([(one, 0, 5), (other, 0, 5)]),
        content_id_of_pieces([(other, 0, 5), (one, 0, 5)]),
    }
    assert len(ids) == 7


def test_a_chunk_list_of_its_own_is_one_piece() -> None:
    """The rule that stands in logs: BLAKE3 over the digest of the list, 0, and the size, in 8 bytes each."""
    content = FileContent(size_bytes=12, chunk_size_bytes=10, chunk_digests=b"12" * 32, digest=None)
    identity = blake3(b"12" * 32).digest() + bytes(8) + bytes(7) + b"\x0c"
    assert content_id_of_list(content) == blake3(identity).hexdigest()
