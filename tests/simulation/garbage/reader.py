"""A slow reader: of a list of chunks, or of pieces that it asks for page by page, and what it repairs on its way.

Whatever happens to the version meanwhile, for as long as a download may last its pages are answered and its chunks exist. A
record that the gateway knows is not sent again while neither the version nor its tags have changed. Readers count what nodes
said earlier: a confirmation counts for an expected holder of the incarnation that the node map of this read names, and while
it is young. Writers count no such thing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from shared.contracts.cluster import NodeMap
from shared.contracts.files import FileVersion
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.uploads import ListPieces, PiecePage
from shared.errors import ChunkNotFoundError, TrivetError, VersionGoneError
from shared.placement import expected_holders, live_nodes, read_order
from tests.simulation.garbage.gateway import Gateway, Record
from tests.simulation.garbage.kernel import Call, MessageLostError, Pause, Steps, Wait
from tests.simulation.garbage.log import REPLICA_COUNT
from tests.simulation.garbage.objects import HALF_BYTES, Content, Name, whole
from tests.simulation.garbage.oracle import LookedUp

if TYPE_CHECKING:
    from tests.simulation.garbage.world import World

_PAGE_CHUNKS: Final = 2
_SLOW_STEPS: Final = 150


class Reader:
    """One download through a gateway. `is_slow`: it takes its time between two pages or chunks."""

    def __init__(self, world: World, gateway: Gateway, name: Name, version: int | None, *, is_slow: bool) -> None:
        self._world = world
        self._gateway = gateway
        self._memory = gateway.memory
        self._name = name
        self._version = version
        self._is_slow = is_slow

    def read(self) -> Steps:
        """Read the file; put back what expected holders lack."""
        known = None if self._version is not None else self._memory.records.get(self._name)
        looked_up: LookedUp = yield self._question(known)
        if self._memory.see_cluster(looked_up.cluster.cluster_id) and looked_up.is_unchanged:
            # The number is that of an entry in the log of another cluster.
            known = None
            looked_up = yield self._question(None)
        self._world.oracle.found(looked_up)
        if looked_up.file is not None:
            yield from self._read_new(looked_up, looked_up.file)
        elif known is not None and looked_up.is_unchanged:
            self._world.counts["read from the record"] += 1
            yield from self._read_list(looked_up, known)

    def _question(self, known: Record | None) -> Call:
        return Call(self._world.log_party, lambda: self._world.look_up(self._name, self._version, known))

    def _read_new(self, looked_up: LookedUp, file: FileVersion) -> Steps:
        if file.content.composition is not None:
            yield from self._read_pages(looked_up, file)
            return
        raw = file.content.chunk_digests
        content = whole(raw[at : at + DIGEST_BYTES].hex() for at in range(0, len(raw), DIGEST_BYTES))
        record = Record(file.version, file.patch_index, content, file.tags)
        if self._version is None:
            self._memory.records[self._name] = record
        yield from self._read_list(looked_up, record)

    def _read_list(self, looked_up: LookedUp, record: Record) -> Steps:
        self._world.oracle.served(looked_up, record.content, record.tags)
        yield from self._take(looked_up, record.content)
        self._count_removal(looked_up, "lists read while they were removed")

    def _read_pages(self, looked_up: LookedUp, file: FileVersion) -> Steps:
        """As they are come to; every one of them must be there as long as the download may last."""
        content: Content = ()
        offset: int | None = 0
        while offset is not None:
            page: PiecePage | None = yield from self._page(looked_up, file.version, offset)
            if page is None:
                return
            some = _content_of(page)
            content += some
            yield from self._take(looked_up, some)
            offset = page.next_offset
        self._world.counts["read by pages"] += 1
        self._world.oracle.served(looked_up, content, file.tags)
        self._count_removal(looked_up, "pieces read while they were removed")

    def _count_removal(self, looked_up: LookedUp, what: str) -> None:
        assert looked_up.written is not None
        now = self._world.oracle.written(self._name, looked_up.written.number)
        self._world.counts[what] += now is None

    def _page(self, looked_up: LookedUp, version: int, offset: int) -> Steps:
        """None where the reader is too late, or the log does not answer."""
        if (known := self._memory.pages.get((version, offset))) is not None:
            return known
        question = ListPieces(version=version, offset_bytes=offset, limit_chunks=_PAGE_CHUNKS)
        try:
            _, (page,) = yield Call(self._world.log_party, lambda: self._world.read_page(looked_up, question))
        except (MessageLostError, VersionGoneError):
            return None
        self._memory.pages[version, offset] = page
        return page

    def _take(self, looked_up: LookedUp, content: Content) -> Steps:
        for digest in dict.fromkeys(digest for digest, _ in content):
            yield from self._take_chunk(looked_up, digest)
            yield self._rest() if self._is_slow else Pause()

    def _rest(self) -> Wait:
        kernel = self._world.kernel
        until = kernel.step_count + self._world.chance.randrange(_SLOW_STEPS)
        return Wait(lambda: kernel.step_count >= until)

    def _take_chunk(self, looked_up: LookedUp, digest: str) -> Steps:
        cluster = looked_up.cluster
        expected = expected_holders(digest, live_nodes(cluster.node_map), REPLICA_COUNT)
        remembered = self._memory.confirmations.holders(digest, expected)
        counted = {known.node.id: self._memory.answers[digest, known.node.id][1] for known in remembered}
        self._world.counts["remembered confirmations"] += len(counted)
        self._world.oracle.counted(looked_up, digest, counted)
        source, lacking = yield from self._find(digest, cluster.node_map)
        others = [node.id for node in expected if node.id not in {source, *lacking, *counted}]
        lacking += yield from self._ask(digest, others)
        for node_id in sorted(set(lacking) & {node.id for node in expected}) if source else ():
            node = self._world.nodes[node_id]
            try:
                yield Call(node.party, lambda node=node: node.put(digest, looked_up.index))
            except (MessageLostError, TrivetError):
                continue

    def _find(self, digest: str, node_map: NodeMap) -> Steps:
        """A node that gave the bytes, or None, and those that have none."""
        lacking: list[str] = []
        for holder in read_order(digest, node_map):
            node = self._world.nodes[holder.id]
            try:
                _, fence, ack = yield Call(node.party, lambda node=node: node.read(digest))
            except ChunkNotFoundError:
                self._memory.confirmations.refute(holder.id, digest)
                lacking.append(holder.id)
            except MessageLostError:
                continue
            else:
                self._memory.confirm(digest, holder.id, fence, ack)
                return holder.id, lacking
        return None, lacking

    def _ask(self, digest: str, node_ids: Collection[str]) -> Steps:
        """Ask nodes whether they hold a chunk: those that do not."""
        lacking = []
        for node_id in node_ids:
            node = self._world.nodes[node_id]
            try:
                is_held, fence, ack = yield Call(node.party, lambda node=node: node.has(digest))
            except MessageLostError:
                continue
            if is_held:
                self._memory.confirm(digest, node_id, fence, ack)
            else:
                self._memory.confirmations.refute(node_id, digest)
                lacking.append(node_id)
        return lacking


def _content_of(page: PiecePage) -> Content:
    content: Content = ()
    for piece in page.pieces:
        raw = piece.chunk_digests
        chunks = whole(raw[at : at + DIGEST_BYTES].hex() for at in range(0, len(raw), DIGEST_BYTES))
        first = piece.skip_bytes // HALF_BYTES
        content += chunks[first : first + piece.size_bytes // HALF_BYTES]
    return content
