"""A backup on disk: a copy of the tables, the list of chunks that it needs, and a manifest that proves both.

    metadata.sqlite   the state machine at one log index
    chunks.txt        one line per chunk: digest in hex, size in bytes; in the order of the digests
    manifest.json     version, cluster, index, sizes and digests; written last, so that a backup without one is no backup

The manifest is sealed with a key that operators alone have: who can write where backups lie can neither change one nor make one
up. A version 1 manifest had no seal.

The list is for whoever copies the chunks: metadata alone brings no file back.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from blake3 import blake3
from pydantic import ValidationError

from services.consensus.metadata.database import RowDamagedError, UnknownTablesError
from services.consensus.metadata.rows import State
from services.consensus.metadata.schema import OLDEST_TABLE_VERSION, TABLE_VERSION
from services.consensus.metadata.tables import READER_CACHE_BYTES, Tables
from services.consensus.metadata.verification import verify
from services.consensus.persistence.file_digest import hash_file
from shared.cluster_keys import KeyRing, SigningKey
from shared.contracts.base import WireModel
from shared.contracts.time import ClockState, Stamp, rfc3339
from shared.disk.durable_files import replace_file, sync_directory, sync_file

METADATA_NAME: Final = "metadata.sqlite"
CHUNKS_NAME: Final = "chunks.txt"
MANIFEST_NAME: Final = "manifest.json"
_KEY_CONTEXT: Final = "trivet 2026 backup manifest"


class BackupDamagedError(Exception):
    """The backup is not what its manifest says, or not complete. Never crosses the wire."""


class BackupUnsealedError(BackupDamagedError):
    """Nothing proves that this cluster made the backup: no seal, or none by a known secret. Never crosses the wire."""


class FileProof(WireModel):
    """Size in bytes and BLAKE3-256 of one file of the backup."""

    size_bytes: int
    digest: str


class Seal(WireModel):
    """HMAC-SHA256 over the rest of the manifest, in hex, and the id of the key that it was derived from."""

    key_id: str
    mac: str


class Manifest(WireModel):
    """What the backup is.

    Attributes:
        as_of: the highest timestamp that was applied, in UTC: when the last change was made, by the cluster's own clock.
        chunk_count, chunk_bytes: what the list adds up to, each chunk once.
        seal: of everything else; None in a backup that was made without a key.
    """

    format_version: Literal[1, 2] = 2
    cluster_id: str
    log_index: int
    log_term: int
    table_version: int
    entry_version: int
    state_hash: str
    as_of: str
    metadata: FileProof
    chunks: FileProof
    chunk_count: int
    chunk_bytes: int
    seal: Seal | None = None


def complete_backup(folder: Path, keys: KeyRing | None) -> Manifest:
    """Make a backup of the copy of the tables at `folder`: check it, write the list, then the manifest. Durable on return.

    Without `keys` it has no seal.

    Raises:
        BackupDamagedError: the copy is damaged, or of a cluster that was never initialised.
        OSError: it could not be written.
    """
    tables = folder / METADATA_NAME
    state = _verified(tables)
    # It may have come over the network; a manifest must not outlive what it describes.
    sync_file(tables)
    if state.cluster_id is None:
        raise BackupDamagedError("there is nothing to back up: no cluster was made yet")
    chunk_count, chunk_bytes = _write_chunks(tables, folder / CHUNKS_NAME)
    stamp = Stamp(hlc=state.highest_hlc, state=ClockState.LOGICAL)
    manifest = Manifest(
        cluster_id=state.cluster_id,
        log_index=state.last_applied,
        log_term=state.last_term,
        table_version=TABLE_VERSION,
        entry_version=state.entry_version,
        state_hash=state.digest(),
        as_of=rfc3339(stamp.approximate_ns),
        metadata=prove(tables),
        chunks=prove(folder / CHUNKS_NAME),
        chunk_count=chunk_count,
        chunk_bytes=chunk_bytes,
    )
    if keys is not None:
        manifest = manifest.model_copy(update={"seal": Seal(key_id=keys.signing.id, mac=_mac(manifest, keys.signing))})
    replace_file(folder / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())
    return manifest


def check_backup(folder: Path, keys: KeyRing | None) -> Manifest:
    """The manifest of a backup that is whole, every row included, and sealed by one of `keys`; None takes it without proof.

    Raises:
        BackupUnsealedError: nothing proves that it is one of this cluster.
        BackupDamagedError: it is not whole; says what.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_NAME).read_bytes())
    except FileNotFoundError as error:
        raise BackupDamagedError(f"{folder} holds no finished backup: {MANIFEST_NAME} is missing") from error
    except ValidationError as error:
        raise BackupDamagedError(
            f"{folder / MANIFEST_NAME} is damaged, or of a version that is not known here"
        ) from error
    if keys is not None:
        _check_seal(manifest, keys)
    if not OLDEST_TABLE_VERSION <= manifest.table_version <= TABLE_VERSION:
        raise BackupDamagedError(
            f"its tables have version {manifest.table_version}; this version reads {OLDEST_TABLE_VERSION} to {TABLE_VERSION}"
        )
    for name, expected in ((METADATA_NAME, manifest.metadata), (CHUNKS_NAME, manifest.chunks)):
        try:
            found = prove(folder / name)
        except FileNotFoundError as error:
            raise BackupDamagedError(f"{folder / name} is missing") from error
        if found != expected:
            raise BackupDamagedError(f"{folder / name} is not the file that the manifest describes")
    state = _verified(folder / METADATA_NAME)
    if state.digest() != manifest.state_hash:
        raise BackupDamagedError("the tables are not at the state that the manifest names")
    return manifest


def _check_seal(manifest: Manifest, keys: KeyRing) -> None:
    if manifest.seal is None:
        raise BackupUnsealedError("the backup has no seal: nothing proves that this cluster made it")
    key = keys.find(manifest.seal.key_id)
    if key is None:
        raise BackupUnsealedError(f"the backup is sealed with the key {manifest.seal.key_id}, which is not given here")
    if not hmac.compare_digest(_mac(manifest, key).encode(), manifest.seal.mac.encode()):
        raise BackupUnsealedError("the seal does not fit the manifest: somebody has changed the backup")


def _mac(manifest: Manifest, key: SigningKey) -> str:
    derived = blake3(key.secret, derive_key_context=_KEY_CONTEXT).digest()
    return hmac.new(derived, manifest.model_dump_json(exclude={"seal"}).encode(), hashlib.sha256).hexdigest()


def prove(path: Path) -> FileProof:
    """Size and digest of a file."""
    digest, size_bytes = hash_file(path)
    return FileProof(size_bytes=size_bytes, digest=digest.hex())


def _verified(tables: Path) -> State:
    try:
        return verify(tables)
    except (RowDamagedError, UnknownTablesError) as error:
        raise BackupDamagedError(f"{tables}: {error}") from error


def _write_chunks(source: Path, target: Path) -> tuple[int, int]:
    count = total_bytes = 0
    tables = Tables.open(source, cache_bytes=READER_CACHE_BYTES)
    try:
        with target.open("xb") as file:
            for digest, size_bytes in _distinct(tables.chunks()):
                file.write(f"{digest.hex()} {size_bytes}\n".encode())
                count += 1
                total_bytes += size_bytes
    finally:
        tables.database.close()
    sync_file(target)
    sync_directory(target.parent)
    return count, total_bytes


def _distinct(chunks: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    last = None
    for digest, size_bytes in chunks:
        if digest != last:
            yield digest, size_bytes
        last = digest
