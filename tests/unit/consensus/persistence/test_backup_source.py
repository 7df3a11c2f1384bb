"""Copies for backups: one at a time, whole, and gone afterwards."""

import pytest
from blake3 import blake3

from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.verification import verify
from services.consensus.persistence.backup_source import COPY_NAME, BackupSource
from shared.errors import OverloadedError
from tests.unit.consensus.metadata.builders import Log, publish


async def test_a_copy_is_whole_and_removed_when_it_is_closed(tmp_path):
    """Its bytes are those that were announced, at the index that was announced."""
    log = Log(tmp_path / "metadata.sqlite")
    log.apply(publish("a"))
    source = BackupSource(log.store, tmp_path)
    copy = await source.open()
    received = b"".join([piece async for piece in copy.pieces()])
    assert (len(received), blake3(received).hexdigest()) == (copy.size_bytes, copy.digest)
    (tmp_path / "received").write_bytes(received)
    assert verify(tmp_path / "received").last_applied == copy.last_applied == 2
    with pytest.raises(OverloadedError):
        await source.open()
    source.close()
    assert not (tmp_path / COPY_NAME).exists()
    await source.open()
    source.close()
    log.store.close()


async def test_a_copy_that_cannot_be_made_leaves_nothing(tmp_path):
    """And the next one is not refused because of it."""
    log = Log(tmp_path / "metadata.sqlite")
    (tmp_path / COPY_NAME).write_bytes(b"of a life before")
    source = BackupSource(log.store, tmp_path)
    assert not (tmp_path / COPY_NAME).exists()
    broken = BackupSource(MetadataStore.open(tmp_path / "other.sqlite"), tmp_path / "nowhere")
    with pytest.raises(OSError, match="nowhere"):
        await broken.open()
    with pytest.raises(OSError, match="nowhere"):
        await broken.open()
    broken._store.close()
    copy = await source.open()
    assert copy.last_applied == 1
    source.close()
    log.store.close()
