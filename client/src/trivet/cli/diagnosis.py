"""What `doctor` looks at, one thing after the other, and what each finding means. Every sentence says what to do.

The order is that of causes: without a connection nothing else can be asked, and a wrong key hides what the cluster would say.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trivet.cli import words
from trivet.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from trivet import AsyncClient
    from trivet.models import Cluster, StorageNode

GOOD: Final = "good"
NOTE: Final = "note"
WARNING: Final = "warning"
ERROR: Final = "error"
CLOCK_LIMIT_S: Final = 5.0
"""S3 refuses signatures that are fifteen minutes off, and links end too early or too late: a difference worth a word."""

_ALMOST_FULL: Final = 0.9
_SLOW_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what it is about, a word that scripts may read.
        level: good, note (worth knowing), warning (it works, and something should be done) or error (it does not work).
        said: what was found.
        advice: what to do; empty when nothing.
        code: what the program ends with because of it.
    """

    check: str
    level: str
    said: str
    advice: str = ""
    code: ExitCode = ExitCode.DONE


async def diagnose(client: AsyncClient) -> AsyncIterator[Finding]:
    """All findings; ends early where the rest cannot be asked."""
    from trivet import errors

    started = time.monotonic()
    try:
        now = await client.time()
    except errors.ConnectionFailed as error:
        yield _no_connection(client.url, error)
        return
    except errors.ProblemError as error:
        yield Finding("connection", GOOD, f"{client.url} answers")
        yield _refused(error)
        async for finding in _operations(client):
            yield finding
        return
    took_s = time.monotonic() - started
    slow = took_s > _SLOW_S
    yield Finding(
        "connection",
        WARNING if slow else GOOD,
        f"{client.url} answers in {took_s * 1000:.0f} ms",
        "That is long: look at the network and at the load of the gateway." if slow else "",
        ExitCode.FAILED if slow else ExitCode.DONE,
    )
    yield await _caller(client)
    for finding in clock_findings(now, time.time()):
        yield finding
    try:
        cluster = await client.cluster()
    except errors.TrivetError as error:
        yield Finding("cluster", ERROR, str(error), "Look at the logs of the consensus members.", ExitCode.UNAVAILABLE)
    else:
        for finding in cluster_findings(cluster):
            yield finding
    async for finding in _operations(client):
        yield finding


def clock_findings(now: Any, here_s: float) -> list[Finding]:
    """Of this machine's clock and of the cluster's. `now` is the answer of `time()`, taken at `here_s`."""
    stamp = now.timestamp
    findings = []
    if stamp.earliest is not None and stamp.latest is not None:
        off_s = max(stamp.earliest.timestamp() - here_s, here_s - stamp.latest.timestamp(), 0.0)
        if off_s > CLOCK_LIMIT_S:
            side = "behind" if stamp.earliest.timestamp() > here_s else "ahead of"
            findings.append(
                Finding(
                    "clock",
                    WARNING,
                    f"this machine's clock is {words.duration(off_s)} {side} the cluster's",
                    "Set it, best by NTP: links that are made here end at the wrong time, and S3 refuses signatures.",
                    ExitCode.FAILED,
                )
            )
        else:
            findings.append(Finding("clock", GOOD, "this machine's clock agrees with the cluster's"))
    state = str(stamp.state)
    if state == "SYNCED":
        findings.append(Finding("cluster-time", GOOD, "the cluster's time is synchronised"))
    else:
        meaning = {
            "HOLDOVER": "its time servers are out of reach, and its time drifts",
            "LOGICAL": "it has no time server, so times order changes and may be off",
            "INIT": "it has just begun",
        }.get(state, "")
        findings.append(
            Finding(
                "cluster-time",
                NOTE,
                f"the cluster's time is {state}: {meaning}",
                "Files are safe. For times that are right, let the clock service reach its time servers (TRIVET_NTP_SERVERS).",
            )
        )
    return findings


def cluster_findings(found: Cluster) -> list[Finding]:
    """Of members, nodes, replicas and room."""
    findings = []
    if not found.leader:
        findings.append(
            Finding(
                "consensus",
                ERROR,
                "no consensus member leads",
                "Start members until a majority runs: nothing can be read or written before.",
                ExitCode.UNAVAILABLE,
            )
        )
    else:
        count = words.count(len(found.members), "member")
        findings.append(Finding("consensus", GOOD, f"{found.leader} leads {count}"))
    findings += [finding for node in found.nodes if (finding := _node(node))]
    if not any(finding.check.startswith("node ") for finding in findings):
        findings.append(Finding("nodes", GOOD, f"{words.count(len(found.nodes), 'storage node')}, all active"))
    if found.under_replicated_chunks:
        eta = f", in about {words.duration(found.eta_s)}" if found.eta_s else ""
        findings.append(
            Finding(
                "replicas",
                WARNING,
                f"{words.count(found.under_replicated_chunks, 'replica')} missing"
                + (f" ({words.size(found.remaining_bytes)} to copy)" if found.remaining_bytes else ""),
                f"They are made anew by themselves{eta}, if enough nodes are active and have room.",
                ExitCode.FAILED,
            )
        )
    elif found.under_replicated_chunks == 0:
        findings.append(Finding("replicas", GOOD, "every chunk has all of its replicas"))
    else:
        findings.append(
            Finding(
                "replicas",
                NOTE,
                "it is not known yet whether all replicas are there",
                "Nodes report some seconds after a change; ask again.",
            )
        )
    told = " ".join(finding.check.removeprefix("node ") for finding in findings if finding.check.startswith("node "))
    for sentence in found.degraded:
        # Nodes and replicas have had their own finding.
        if sentence.split(" ", 1)[0] not in told.split() and "replicas are missing" not in sentence:
            findings.append(
                Finding("cluster", WARNING, words.visible(sentence), _advice_for(sentence), ExitCode.FAILED)
            )
    return findings


def worst(findings: list[Finding]) -> ExitCode:
    """What the program ends with: the code of the first error, else of the first warning."""
    for level in (ERROR, WARNING):
        for finding in findings:
            if finding.level == level:
                return finding.code
    return ExitCode.DONE


def _node(node: StorageNode) -> Finding | None:
    reason = f": {node.reason}" if node.reason else ""
    gone = f"Start it, or look at its log. If it never comes back: trivet cluster remove {node.id}"
    room = "Delete files, or add a node: trivet cluster add NAME"
    # Its state first; one that is active may still be short of room, or not well.
    by_state = {
        "suspect": (f"is suspect{reason}", gone),
        "inactive": (f"is inactive{reason}", gone),
        "draining": (
            f"is draining{reason}",
            f"trivet cluster drain {node.id} --wait follows it, --cancel uses it again.",
        ),
        "joining": (f"may join and has not yet{reason}", f"Start its process with TRIVET_NODE_ID={node.id}."),
    }
    is_tight = bool(node.used_bytes and node.used_bytes > _ALMOST_FULL * node.capacity_bytes)
    if node.state in by_state:
        said, advice = by_state[node.state]
    elif node.is_full:
        said, advice = "is full", room
    elif is_tight:
        said, advice = f"is almost full: {words.size(node.used_bytes or 0)} of {words.size(node.capacity_bytes)}", room
    elif node.reason:
        said, advice = f"is not well{reason}", "Look at its log."
    else:
        return None
    return Finding(f"node {node.id}", WARNING, f"{node.id} {said}", advice, ExitCode.FAILED)


def _advice_for(sentence: str) -> str:
    if "no spare node" in sentence:
        return "Start the nodes that are missing, or add one: trivet cluster add NAME"
    if "short of disk space" in sentence:
        return "Make room on the disks of the consensus members."
    return "docs/operations.md says what it means."


def _no_connection(url: str, error: Exception) -> Finding:
    return Finding(
        "connection",
        ERROR,
        str(error),
        f"{url} comes from --url, TRIVET_URL or a profile (trivet profile list); without them it is the cluster of `make run`.",
        ExitCode.UNAVAILABLE,
    )


def _refused(error: Any) -> Finding:
    from trivet.cli.exit_codes import exit_code_of

    code = exit_code_of(error)
    if code is ExitCode.NOT_ALLOWED:
        return _wrong_key(error)
    return Finding("gateway", ERROR, str(error), "Look at the log of the gateway.", code)


def _wrong_key(error: Any) -> Finding:
    return Finding(
        "key",
        ERROR,
        f"the key is not accepted: {error}",
        "Set --key or TRIVET_KEY to a key, or to a file that holds one. It may be of another cluster, disabled, or at its end.",
        ExitCode.NOT_ALLOWED,
    )


async def _caller(client: AsyncClient) -> Finding:
    from trivet import errors

    try:
        caller = await client.identity()
    except (errors.Unauthorized, errors.Forbidden) as error:
        return _wrong_key(error)
    except errors.TrivetError as error:
        return _refused(error)
    if not caller.is_root and not caller.scopes:
        return Finding(
            "key",
            WARNING,
            f"the key is of {caller.name}, which may do nothing",
            "Ask whoever runs the cluster for a key with rights.",
            ExitCode.NOT_ALLOWED,
        )
    return Finding("key", GOOD, f"the key is of {words.visible(caller.name)}")


async def _operations(client: AsyncClient) -> AsyncIterator[Finding]:
    """Of the gateway itself, where its operations port can be reached."""
    from trivet import errors

    try:
        ready = await client.operations.readiness()
    except errors.ConfigError:
        return
    except errors.TrivetError as error:
        yield Finding(
            "operations",
            WARNING,
            f"the operations port does not answer: {error}",
            "Only trivet cluster and trivet keys need it: --operations-url, TRIVET_OPERATIONS_URL.",
            ExitCode.FAILED,
        )
        return
    if not ready.is_ready:
        yield Finding(
            "readiness",
            ERROR,
            f"the gateway is not ready: {'; '.join(reasons_of(ready.answer)) or 'it does not say why'}",
            "Wait some seconds; then start what is missing.",
            ExitCode.UNAVAILABLE,
        )
        return
    degraded = ready.answer.get("degraded") or []
    for sentence in degraded:
        is_full = str(sentence).startswith("full")
        yield Finding(
            "readiness",
            ERROR if is_full else WARNING,
            words.visible(str(sentence)),
            "Delete files, or add a node: trivet cluster add NAME"
            if is_full
            else "docs/operations.md says what it means.",
            ExitCode.FULL if is_full else ExitCode.FAILED,
        )
    if not degraded:
        yield Finding("readiness", GOOD, "the gateway is ready")


def reasons_of(answer: dict[str, Any]) -> list[str]:
    """Why a gateway is not ready, from the answer of `/readyz`."""
    reasons = answer.get("reasons") or [answer.get("detail") or ""]
    return [words.visible(str(reason)) for reason in reasons if reason]
