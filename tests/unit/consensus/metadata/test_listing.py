"""Pages of a list: order, prefixes, limits, and the cost of a common prefix."""

import pytest

from services.consensus.metadata.listing import list_page
from services.consensus.metadata.rows import FileRow
from shared.contracts.files import FileContent
from shared.contracts.metadata import DeleteFile, ListFiles
from tests.unit.consensus.metadata.builders import publish, stamp

KEYS = ["a", "a/", "a/b", "a/b/c", "a/b/d", "a0", "b/x", "b/y", "é", "😀", "\uffee"]


class Scanner:
    """A scan over given keys that counts what it does."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = sorted(key.encode() for key in keys)
        self.scans = 0
        self.rows = 0

    def __call__(self, lower: bytes, upper: bytes):
        self.scans += 1
        for key in self.keys:
            if lower <= key < upper:
                self.rows += 1
                yield FileRow(key, 1, 1, "e", "t", 1)


def page(keys: list[str], **query):
    scanner = Scanner(keys)
    return list_page(ListFiles(bucket="default", **query), 9, scanner), scanner


def names(found) -> list[str]:
    return [file.key for file in found.files]


def test_keys_come_in_utf8_byte_order():
    """Not in the order of UTF-16 or of a locale: an emoji comes after U+FFEE."""
    found, _ = page(KEYS)
    assert names(found) == ["a", "a/", "a/b", "a/b/c", "a/b/d", "a0", "b/x", "b/y", "é", "\uffee", "😀"]
    assert (found.has_more, found.at_index, found.has_bucket) == (False, 9, True)


@pytest.mark.parametrize(
    ("query", "files", "prefixes"),
    [
        ({"delimiter": "/"}, ["a", "a0", "é", "\uffee", "😀"], ["a/", "b/"]),
        ({"delimiter": "/", "prefix": "a"}, ["a", "a0"], ["a/"]),
        ({"delimiter": "/", "prefix": "a/"}, ["a/", "a/b"], ["a/b/"]),
        ({"delimiter": "/", "prefix": "a/b/"}, ["a/b/c", "a/b/d"], []),
        ({"delimiter": "b"}, ["a", "a/", "a0", "é", "\uffee", "😀"], ["a/b", "b"]),
        ({"delimiter": "/b/"}, ["a", "a/", "a/b", "a0", "b/x", "b/y", "é", "\uffee", "😀"], ["a/b/"]),
        ({"delimiter": "é"}, [key for key in sorted(KEYS, key=str.encode) if key != "é"], ["é"]),
        ({"delimiter": ""}, sorted(KEYS, key=str.encode), []),
        ({"prefix": "a/b"}, ["a/b", "a/b/c", "a/b/d"], []),
        ({"prefix": "zzz"}, [], []),
        ({"prefix": "é"}, ["é"], []),
        ({"after_key": "a/b"}, ["a/b/c", "a/b/d", "a0", "b/x", "b/y", "é", "\uffee", "😀"], []),
        ({"after_key": "a/b", "prefix": "a/b"}, ["a/b/c", "a/b/d"], []),
        ({"after_prefix": "a/", "delimiter": "/"}, ["a0", "é", "\uffee", "😀"], ["b/"]),
        ({"after_key": "\uffef", "prefix": "a"}, [], []),
    ],
)
def test_what_a_page_shows(query, files, prefixes):
    """Prefix, delimiter and where the page starts, one case each."""
    found, _ = page(KEYS, **query)
    assert (names(found), found.prefixes, found.has_more) == (files, prefixes, False)


@pytest.mark.parametrize("limit", range(1, 8))
@pytest.mark.parametrize("delimiter", [None, "/"])
def test_pages_together_are_the_whole_list(limit, delimiter):
    """Going on from where each page ended shows everything once, and the last page says that it is the last."""
    whole, _ = page(KEYS, delimiter=delimiter)
    files, prefixes, position, pages = [], [], {}, 0
    while True:
        found, _ = page(KEYS, delimiter=delimiter, limit=limit, **position)
        files += names(found)
        prefixes += found.prefixes
        pages += 1
        assert len(found.files) + len(found.prefixes) <= limit
        if not found.has_more:
            break
        assert len(found.files) + len(found.prefixes) == limit
        assert (found.last_key is None) != (found.last_prefix is None)
        position = {"after_key": found.last_key, "after_prefix": found.last_prefix}
    assert (files, prefixes) == (names(whole), whole.prefixes)
    assert pages == -(-(len(files) + len(prefixes)) // limit)


def test_a_common_prefix_costs_a_seek_and_not_its_rows():
    """Three folders of a thousand files are three rows read, plus the files beside them."""
    keys = [f"{folder}/{n:04}" for folder in "abc" for n in range(1000)] + ["z"]
    found, scanner = page(keys, delimiter="/")
    assert (found.prefixes, names(found)) == (["a/", "b/", "c/"], ["z"])
    assert (scanner.rows, scanner.scans) == (4, 4)


def test_a_page_reads_one_row_more_than_it_shows():
    """That row is how it knows that there is more."""
    found, scanner = page([f"{n:04}" for n in range(1000)], limit=10)
    assert (len(found.files), found.has_more, found.last_key) == (10, True, "0009")
    assert scanner.rows == 11


def test_the_store_scans_as_lazily_as_the_list_asks(log):
    """Ten thousand files in a folder, and a row beside it: a page with delimiter runs few SQLite steps."""
    empty = FileContent(size_bytes=0, chunk_size_bytes=1, chunk_digests=b"", digest="ab" * 32)
    for n in range(300):
        log.apply(publish(f"folder/{n:05}", content=empty))
    log.apply(publish("beside", content=empty))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def cost(query: ListFiles) -> int:
        nonlocal steps
        steps = 0
        log.ask(query)
        return steps

    connection = log.store._reader.database.connection
    connection.set_progress_handler(count, 10)
    try:
        whole = cost(ListFiles(bucket="default"))
        folded = cost(ListFiles(bucket="default", delimiter="/"))
        pinned = cost(ListFiles(bucket="default", delimiter="/", at_index=log.store.last_applied - 1))
    finally:
        connection.set_progress_handler(None, 10)
    assert whole > 10 * folded
    assert whole > 10 * pinned


def test_deleted_rows_do_not_slow_the_list_of_the_present(log):
    """A queue-like bucket through which hundreds of keys went lists as if it were new."""
    empty = FileContent(size_bytes=0, chunk_size_bytes=1, chunk_digests=b"", digest="ab" * 32)
    for n in range(200):
        log.apply(publish(f"{n:05}", content=empty))
        log.apply(DeleteFile(bucket="default", key=f"{n:05}", stamp=stamp()))
    log.apply(publish("last", content=empty))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection = log.store._reader.database.connection
    connection.set_progress_handler(count, 1)
    try:
        assert names(log.ask(ListFiles(bucket="default"))) == ["last"]
    finally:
        connection.set_progress_handler(None, 1)
    assert steps < 200


@pytest.mark.parametrize(
    ("after_key", "after_prefix", "expected"), [("a0", "a/", "b/x"), ("a/", "a/", "a0"), ("b/x", "a/", "b/y")]
)
def test_of_two_positions_the_later_one_counts(after_key, after_prefix, expected):
    """A page never shows again what either of them has passed."""
    assert names(page(KEYS, after_key=after_key, after_prefix=after_prefix)[0])[0] == expected
