"""May an entry count on the chunks that its upload stored? The same for a file and for a part of one."""

from __future__ import annotations

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.decisions import (
    StoredContent,
    check_acknowledging_nodes,
    check_no_node_drains,
    check_start_index,
)
from services.consensus.metadata.garbage import check_not_condemned


def check_stored(context: ApplyContext, command: StoredContent) -> None:
    """Every node that is counted still counts, and no chunk was condemned since the upload began.

    Raises:
        NodeRemovedError, NodeReplacedError, NodeDrainingError, ChunkCondemnedError: definite.
        InvalidRequestError: it names an index to come.
    """
    check_acknowledging_nodes(command, context.nodes, context.runs)
    if context.knows_garbage:
        check_start_index(command, context.index)
        check_no_node_drains(command, context.nodes)
        check_not_condemned(command, context.garbage)
