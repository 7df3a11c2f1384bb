"""The rows of chunk lists that files share, of what files are composed of, and of who refers to what.

    version ─ composition_refs ─> composition ─ manifest_refs ─> manifest ─ chunk_refs ─> chunk
    upload  ─────────────────────────────────── manifest_refs ─> manifest

An upload and the composition that it becomes have one number, so completing it moves no row of `manifest_refs`. A manifest is
known by the log index that logged it: one that has lost its last reference can never get another, because nothing but what is
alive leads to it, and the same chunks logged again are another manifest. What loses its last reference is doomed, and drops
its own references a few at a time (`retention`).
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from itertools import chain
from typing import Final

from services.consensus.metadata.database import RowDamagedError, checked
from services.consensus.metadata.pieces import ChunkList, PieceList
from services.consensus.metadata.tables import Tables, distinct_chunks
from shared.contracts.files import FileContent

_SELECT: Final = "SELECT manifest, size_bytes, chunk_size_bytes, chunk_digests, manifests.checksum"
_BETWEEN: Final = (
    f"{_SELECT}, doomed.next_chunk, doomed.checksum FROM manifests LEFT JOIN doomed ON version=manifest "
    "WHERE manifest>? AND manifest<=? ORDER BY manifest"
)
_ARE_MANIFESTS: Final = "SELECT manifest FROM manifests WHERE manifest IN (VALUES {values})"
_ARE_COMPOSED: Final = "SELECT composition FROM compositions WHERE composition IN (VALUES {values})"
_VALUES_MAX: Final = 500
_REFS: Final = "SELECT owner, manifest, checksum FROM manifest_refs WHERE "


class Manifests:
    """On the same connection as `tables`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._database = tables.database
        self._execute = tables.database.execute
        self._one = tables.database.one

    # --- manifests ------------------------------------------------------------------------------------------------

    def manifest(self, manifest: int) -> ChunkList | None:
        """The chunk list that the entry of that index logged for a part."""
        row = self._one(f"{_SELECT} FROM manifests WHERE manifest=?", (manifest,))
        return None if row is None else ChunkList(*checked("manifests", row)[1:])

    def known_manifest(self, manifest: int) -> ChunkList:
        """The same of one that something refers to. Raises RowDamagedError."""
        if (found := self.manifest(manifest)) is None:
            raise RowDamagedError(f"manifest {manifest} is not in the table `manifests`")
        return found

    def insert(self, manifest: int, chunks: ChunkList) -> None:
        """A chunk list of this entry, which refers to its chunks from here on."""
        self._database.insert("manifests", manifest, *chunks)
        self._tables.insert_refs(manifest, distinct_chunks(content_of(chunks)))

    def remove(self, manifest: int, chunks: ChunkList) -> None:
        """Forget a list whose references were dropped."""
        self._database.remove("manifests", manifest, *chunks)

    def between(self, after_index: int, end: int) -> Generator[tuple[int, FileContent | None, int], None, None]:
        """(manifest, content, number of its chunk references dropped already), as `Tables.versions_between`."""
        rows = self._execute(_BETWEEN, (after_index, end))
        try:
            for *columns, dropped, doomed_checksum in rows:
                manifest, *chunks = checked("manifests", tuple(columns))
                if dropped is not None:
                    checked("doomed", (manifest, dropped, doomed_checksum))
                yield manifest, content_of(ChunkList(*chunks)), dropped or 0
        finally:
            rows.close()

    def named(self, numbers: Sequence[int]) -> set[int]:
        """Those of the numbers that are a manifest's or a composition's."""
        rows = chain(self._database.matching(_ARE_MANIFESTS, numbers), self._database.matching(_ARE_COMPOSED, numbers))
        return {number for (number,) in rows}

    # --- who refers to manifests ----------------------------------------------------------------------------------

    def refer(self, owner: int, manifests: Collection[int]) -> None:
        """The upload `owner` refers to these manifests, perhaps not for the first time."""
        if not manifests:
            return
        asked, known = sorted(set(manifests)), set()
        for at in range(0, len(asked), _VALUES_MAX):
            some = asked[at : at + _VALUES_MAX]
            places = ", ".join("?" * len(some))
            rows = self._execute(f"{_REFS} owner=? AND manifest IN ({places})", (owner, *some))
            known |= {checked("manifest_refs", row)[1] for row in rows}
        self._database.insert_many("manifest_refs", ((owner, manifest) for manifest in asked if manifest not in known))

    def refs_after(self, owner: int, after: int, limit: int) -> list[int]:
        """The first manifests after `after` that `owner` refers to."""
        rows = self._execute(f"{_REFS} owner=? AND manifest>? ORDER BY manifest LIMIT ?", (owner, after, limit))
        return [checked("manifest_refs", row)[1] for row in rows.fetchall()]

    def drop_ref(self, owner: int, manifest: int) -> bool:
        """`owner` refers to it no more; whether nothing does now."""
        self._database.remove("manifest_refs", owner, manifest)
        return self._one("SELECT 1 FROM manifest_refs WHERE manifest=? LIMIT 1", (manifest,)) is None

    # --- compositions ---------------------------------------------------------------------------------------------

    def composition(self, composition: int) -> PieceList | None:
        """What a file is made of, in order."""
        row = self._one("SELECT composition, body, checksum FROM compositions WHERE composition=?", (composition,))
        return None if row is None else PieceList.decode(checked("compositions", row)[1])

    def known_composition(self, composition: int) -> PieceList:
        """The same of one that a version shows. Raises RowDamagedError."""
        if (found := self.composition(composition)) is None:
            raise RowDamagedError(f"composition {composition} is not in the table `compositions`")
        return found

    def insert_composition(self, composition: int, pieces: PieceList) -> None:
        """Of an upload, which refers to all the manifests already."""
        self._database.insert("compositions", composition, pieces.encode())

    def remove_composition(self, composition: int, pieces: PieceList) -> None:
        """No version shows it any more, and it refers to nothing."""
        self._database.remove("compositions", composition, pieces.encode())

    def drop_composition_ref(self, composition: int, version: int) -> bool:
        """The version shows it no more; whether none does now."""
        self._database.remove("composition_refs", composition, version)
        return self._one("SELECT 1 FROM composition_refs WHERE composition=? LIMIT 1", (composition,)) is None


def content_of(chunks: ChunkList) -> FileContent:
    """A chunk list as the content of a file. Not checked again: it was, when it was logged."""
    return FileContent.model_construct(
        size_bytes=chunks.size_bytes,
        chunk_size_bytes=chunks.chunk_size_bytes,
        chunk_digests=chunks.chunk_digests,
        digest=None,
        composition=None,
        composed_chunks=None,
    )
