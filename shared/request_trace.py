"""By which client request the work of the running task is done, from the gateway's door through all services (X-231).

One short text goes along: in a context variable inside a process, in a header between two. It has an entry for each request,
because calls of several requests share one between services: the id that the gateway gave it, and where spans are exported
(`shared.web.tracing`) the span under which the work is done, as `traceparent` has it. Nothing is decided by it, and nobody
signs it: it is shown in logs and spans, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

TRACE_HEADER: Final = "x-trivet-trace"
REQUESTS_MAX: Final = 8
"""Of a call that is shared by more, the others are not named."""

TRACE_MAX: Final = 1024
"""Characters that are taken from a header."""

current_trace: ContextVar[str] = ContextVar("trace", default="")
"""`id` or `id;traceparent` of each request, with commas between; empty in work that no request asked for."""


def joined(traces: Sequence[str]) -> str:
    """The text of a call for all of these."""
    if len(traces) == 1:
        return traces[0]
    found = list(dict.fromkeys(filter(None, traces)))
    return ",".join(found[:REQUESTS_MAX])


def request_ids(trace: str) -> list[str]:
    """The ids in a text, whoever may have written it."""
    return [entry.partition(";")[0] for entry in trace.split(",")] if trace else []


def parents(trace: str) -> list[str]:
    """The `traceparent` of each request that has one."""
    return [parent for entry in trace.split(",") if (parent := entry.partition(";")[2])]
