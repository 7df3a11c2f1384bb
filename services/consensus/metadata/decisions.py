"""What `apply` decides, as pure functions: may this happen, and which time does it get.

Nothing here looks at a table: the rows come in, the answer or a typed rejection comes out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.consensus.metadata.rows import FileRow, NodeRow, TombstoneRow
from shared.contracts.metadata import FileContent, Preconditions
from shared.contracts.names import DIGEST_BYTES, check_digest
from shared.contracts.time import Stamp
from shared.errors import InvalidRequestError, NodeRemovedError, PreconditionFailedError
from shared.units import NANOSECONDS_PER_SECOND

HLC_MAX: Final = (1 << 64) - 1
STORED_INTEGER_MAX: Final = (1 << 63) - 1


def next_stamp(highest_hlc: int, proposed: Stamp) -> Stamp:
    """The proposer's stamp, moved behind every stamp applied before (DESIGN.md section 12, Time in apply).

    At the very end of the scale it stays where it is: a lying clock can make timestamps useless, never stop the log.
    """
    hlc = min(max(highest_hlc + 1, proposed.hlc), HLC_MAX)
    return proposed if hlc == proposed.hlc else proposed.model_copy(update={"hlc": hlc})


def next_modified_ns(before: FileRow | TombstoneRow | None, stamp: Stamp) -> int:
    """Last-Modified of a new version: the stamp's time, in a later second than the version before it under the same key.

    A later nanosecond would not do: an HTTP date has whole seconds, and If-Modified-Since would hide the change.
    """
    if before is None:
        return stamp.approximate_ns
    next_second_ns = (before.modified_ns // NANOSECONDS_PER_SECOND + 1) * NANOSECONDS_PER_SECOND
    return min(max(next_second_ns, stamp.approximate_ns), STORED_INTEGER_MAX)


def check_preconditions(preconditions: Preconditions, file: FileRow | None, tombstone: TombstoneRow | None) -> None:
    """Hold If-Match, If-Unmodified-Since and If-None-Match (RFC 9110 section 13.1) against what exists.

    Raises:
        PreconditionFailedError: with the facts `version`, the index that last changed the key, and the present `etag`.
    """
    if_match, if_none_match = preconditions.if_match, preconditions.if_none_match
    limit_s = preconditions.unmodified_since_s
    if if_match is not None and not _matches(if_match, file):
        failed = "If-Match"
    elif limit_s is not None and file is not None and file.modified_ns // NANOSECONDS_PER_SECOND > limit_s:
        failed = "If-Unmodified-Since"
    elif if_none_match is not None and _matches(if_none_match, file):
        failed = "If-None-Match"
    else:
        return
    deleted_index = 0 if tombstone is None else tombstone.deleted_index
    raise PreconditionFailedError(
        f"{failed} did not hold.",
        precondition=failed,
        version=deleted_index if file is None else file.version,
        etag=None if file is None else file.etag,
    )


def check_acknowledging_nodes(node_ids: Iterable[str], epoch: int, nodes: dict[str, NodeRow]) -> None:
    """Every node that an upload counts must have belonged to the cluster ever since the upload's epoch.

    Raises:
        NodeRemovedError: one was removed, or was removed and admitted again with who knows what on its disk.
    """
    for node_id in node_ids:
        node = nodes.get(node_id)
        if node is None or node.admitted_epoch > epoch:
            raise NodeRemovedError(
                "A node that acknowledged a chunk has left the cluster since; start the upload again.",
                node_id=node_id,
                epoch=epoch,
            )


def check_content(content: FileContent) -> None:
    """The chunks add up to the size: else readers would be promised bytes that do not exist.

    Raises:
        InvalidRequestError: they do not, or a digest has another length.
    """
    check_digest(content.digest)
    check_stored_integer("size_bytes", content.size_bytes)
    needed = -(-content.size_bytes // content.chunk_size_bytes)
    if len(content.chunk_digests) != needed * DIGEST_BYTES:
        raise InvalidRequestError(
            "The chunk digests do not fit the file's size.",
            size_bytes=content.size_bytes,
            needed_chunks=needed,
            chunk_digests_bytes=len(content.chunk_digests),
        )


def check_stored_integer(name: str, value: int) -> None:
    """`value` fits a column: a number that the table refuses would stop every member at the same entry.

    Raises:
        InvalidRequestError: it is negative or beyond 63 bits.
    """
    if not 0 <= value <= STORED_INTEGER_MAX:
        raise InvalidRequestError(f"{name} is out of range.", name=name)


def _matches(etags: list[str], file: FileRow | None) -> bool:
    return file is not None and ("*" in etags or file.etag in etags)
