"""The JSON that is encoded without models is that of the models which OpenAPI shows."""

from __future__ import annotations

import json
import random

import pytest

from services.gateway.api.models import FileList, Receipt, file_list_json, receipt_json
from services.gateway.listings import Page
from services.gateway.transfers.uploads import UploadResult
from shared.contracts.files import Durability, FileContent, FileVersion
from shared.contracts.metadata import FileEntry, FilePage
from shared.contracts.time import ClockState, Stamp, rfc3339

ODD = 'a "quoted" \\ key, ä \U0001f600 \x7f </script>'


def version(stamp: Stamp) -> FileVersion:
    return FileVersion(
        bucket="default",
        key=ODD,
        version=17,
        term=2,
        etag="e" * 32,
        content=FileContent(size_bytes=10, chunk_size_bytes=4, chunk_digests=bytes(96), digest="d" * 64),
        content_type="text/plain",
        user_metadata={"a": "b"},
        epoch=1,
        durability=Durability(target=3, acknowledged=2, nodes=["storage-1", "storage-3"]),
        stamp=stamp,
        modified_ns=1,
    )


@pytest.mark.parametrize(
    "stamp",
    [
        Stamp(
            earliest_ns=1_795_000_000_123_456_789, latest_ns=1_795_000_000_123_999_001, hlc=9, state=ClockState.SYNCED
        ),
        Stamp(hlc=(1 << 64) - 1, state=ClockState.LOGICAL),
    ],
)
def test_a_receipt_is_the_model_of_the_same_name(stamp) -> None:
    """All of its fields in their order, and the same text as the model would be."""
    text = receipt_json(UploadResult(version(stamp), is_created=True, log_index=18, term=3))
    model = Receipt.model_validate_json(text)
    assert model.model_dump_json().encode() == text
    assert (model.key, model.size_bytes, model.chunk_count, model.log_index, model.term) == (ODD, 10, 3, 18, 3)
    assert model.durability == version(stamp).durability
    assert model.timestamp.hlc == f"{stamp.hlc:016x}"


def test_a_list_is_the_model_of_the_same_name(seed) -> None:
    """Rows, prefixes and the cursor, null on the last page."""
    chance = random.Random(seed)
    entries = [
        FileEntry(
            digest=f"{number:064x}",
            user_metadata={"of": ODD},
            key=f"{ODD}{number}",
            size_bytes=chance.randrange(1 << 50),
            etag=f"{number:032x}",
            version=number,
            content_type="a/b; c=d",
            modified_ns=chance.randrange(1 << 62),
        )
        for number in range(20)
    ]
    for cursor, has_details in (("c", False), (None, True)):
        page = Page(FilePage(has_bucket=True, files=entries, prefixes=[ODD]), cursor, 19, has_details)
        text = file_list_json(page)
        model = FileList.model_validate_json(text)
        assert model.model_dump_json(exclude_unset=True).encode() == text
        assert {(row.digest is None, row.user_metadata is None) for row in model.files} == {(not has_details,) * 2}
        assert [row.key for row in model.files] == [entry.key for entry in entries]
        assert [row.modified for row in model.files] == [rfc3339(entry.modified_ns) for entry in entries]
        assert (model.prefixes, model.cursor, model.log_index) == ([ODD], cursor, 19)
        assert list(json.loads(text)) == list(FileList.model_fields)
