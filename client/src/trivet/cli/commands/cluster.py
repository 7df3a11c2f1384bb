"""`trivet cluster`: its state, and which nodes it has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

import click

from trivet.cli import words
from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure
from trivet.cli.lazy import Group, asynchronous
from trivet.cli.output import Column, Output
from trivet.cli.parameters import NODE
from trivet.cli.session import Session

if TYPE_CHECKING:
    from trivet import models

STATES: Final = {"active": "good", "joining": "warn", "draining": "warn", "suspect": "warn", "inactive": "bad"}
NODES: Final = (
    Column("id", title="node"),
    Column("state", colour=STATES.get),
    Column("used_bytes", "bytes", "used"),
    Column("capacity_bytes", "bytes", "of", is_minor=True),
    Column("full", colour=lambda full: "bad" if full == "FULL" else None),
    Column("missing_chunks", "count", "missing"),
    Column("zone", is_minor=True),
    Column("url", is_minor=True),
    Column("reason", is_minor=True),
)
MEMBERS: Final = (
    Column("id", title="member"),
    Column("role", colour=lambda role: "good" if role == "leader" else None),
    Column("url", is_minor=True),
)
_POLL_S: Final = 1.0

cluster = Group("cluster", help="Look at the cluster and change which nodes it has.")


@cluster.command("status")
@click.option("-w", "--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@asynchronous
async def status(session: Session, *, watch: bool) -> None:
    """Show the cluster: whether all is well, its members and its nodes.

    With --json the document of GET /v1/cluster, and is_well. Ends with 1 if something is missing.
    """
    async with session.client() as client:
        while True:
            found = await client.cluster()
            if watch and session.output.is_terminal:
                click.clear()
            show_status(session.output, found)
            if not watch:
                break
            session.output.flush()
            await asyncio.sleep(2 * _POLL_S)
    if not is_well(found):
        raise click.exceptions.Exit(int(ExitCode.FAILED))


@cluster.command("nodes")
@asynchronous
async def nodes(session: Session) -> None:
    """List the storage nodes.

    With --json each line is a node as GET /v1/cluster has it.
    """
    async with session.client() as client:
        found = await client.cluster()
    table = session.output.table(_node_columns(found.nodes) if session.output.is_terminal else NODES)
    for node in found.nodes:
        table.add(_builtins(node) if session.output.is_json else node_record(node))
    table.finish()


@cluster.command("add")
@click.argument("node")
@asynchronous
async def add(session: Session, node: str) -> None:
    """Let a storage node in that dials in under this id.

    Start its process with the same id; it fetches what it should hold by itself.
    """
    async with session.client() as client:
        admitted = await client.operations.add_node(node)
    if session.output.is_json:
        session.output.document(admitted)
        return
    session.output.say(
        f"{node} may join{'' if admitted.created else ', and might before'}. trivet cluster status shows it."
    )


@cluster.command("drain")
@click.argument("node", type=NODE)
@click.option("--cancel", is_flag=True, help="Use the node again that is being emptied.")
@click.option("--wait", is_flag=True, help="Until it is empty and has left.")
@asynchronous
async def drain(session: Session, node: str, *, cancel: bool, wait: bool) -> None:
    """Empty a storage node, which then leaves by itself.

    With --json: id, state and chunks_left; with --wait a line each time that these change.
    """
    async with session.client() as client:
        if cancel:
            await client.operations.cancel_drain(node)
            session.output.say(f"{node} is used again.")
            return
        draining = _still(await client.operations.drain_node(node))
        session.interrupted = (
            f"{node} goes on draining. trivet cluster drain {node} --wait follows it, --cancel uses it again."
        )
        last: object = ()
        while draining:
            if (draining.state, draining.chunks_left) != last:
                last = (draining.state, draining.chunks_left)
                _tell_draining(session.output, draining)
            if not wait:
                return
            await asyncio.sleep(_POLL_S)
            draining = await _still_draining(client, node)
    session.output.say(f"{node} is empty and has left; its process can be ended.")


@cluster.command("remove")
@click.argument("node", type=NODE)
@click.option("--replace-by", metavar="NODE", help="Let this node in for it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@asynchronous
async def remove(session: Session, node: str, *, replace_by: str | None, yes: bool) -> None:
    """Remove a storage node that will never come back.

    What it alone held is lost. A node that works is drained instead (trivet cluster drain). With --json: id and chunks_at_risk.
    """
    if not yes:
        session.confirm(f"Remove {node} for good? Its replicas are made anew from those of other nodes.")
    async with session.client() as client:
        if replace_by:
            removed = await client.operations.replace_node(node, replace_by)
        else:
            removed = await client.operations.remove_lost_node(node)
    if session.output.is_json:
        session.output.document(removed)
        return
    risk = removed.chunks_at_risk
    known = (
        "It is not known whether other nodes had all of it"
        if risk is None
        else f"Chunks that no other node may have: {risk}"
    )
    session.output.say(f"{node} is removed. {known}. trivet cluster verify compares everything.")


@cluster.command("verify")
@click.option("--wait", is_flag=True, help="Until it has ended; 1 if anything is missing or bad.")
@click.option("--show", is_flag=True, help="Only say how far it is.")
@click.option("--cancel", is_flag=True, help="Stop it.")
@asynchronous
async def verify(session: Session, *, wait: bool, show: bool, cancel: bool) -> None:
    """Read every replica on every node and compare it with the log.

    With --json the document of GET /v1/cluster/verify.
    """
    output = session.output
    async with session.client() as client:
        operations = client.operations
        if cancel:
            found = await operations.cancel_verify()
        elif show:
            found = await operations.verification()
        else:
            found = await operations.start_verify()
            session.interrupted = (
                "The verify goes on. trivet cluster verify --show says how far it is, --cancel stops it."
            )
        if wait:
            while found.state == "running" or (found.state == "finished" and found.is_clean is None):
                if output.shows_progress:
                    click.echo(f"\r{found.progress:4.0%}  {words.size(found.checked_bytes)} read ", nl=False, err=True)
                await asyncio.sleep(_POLL_S)
                found = await operations.verification()
            if output.shows_progress:
                click.echo("\r" + " " * 32 + "\r", nl=False, err=True)
    _show_verification(output, found)
    if found.is_clean is False:
        raise click.exceptions.Exit(int(ExitCode.FAILED))


def is_well(found: models.Cluster) -> bool:
    """Whether nothing is missing anywhere."""
    return bool(found.leader) and not found.degraded and not found.under_replicated_chunks


def show_status(output: Output, found: models.Cluster) -> None:
    """The whole cluster on one screen."""
    if output.is_json:
        output.document(_builtins(found) | {"is_well": is_well(found)})
        return
    if not output.is_terminal:
        _show_plainly(output, found)
        return
    sign, colour = ("● all is well", "good") if is_well(found) else ("● not all is well", "warn")
    name = words.visible((found.cluster_id or "-")[:16])
    output.result(f"{output.paint(sign, colour)}  {output.paint('cluster ' + name, 'dim')}")
    for sentence in found.degraded:
        output.paragraph(" ", sentence)
    if found.remaining_bytes:
        eta = f", about {words.duration(found.eta_s)} to go" if found.eta_s else ""
        output.paragraph(" ", f"{words.size(found.remaining_bytes)} of replicas are being restored{eta}")
    output.result("")
    rows = [node_record(node) for node in found.nodes]
    output.records(rows, _node_columns(found.nodes))
    output.result("")
    output.records([member_record(member, found.leader) for member in found.members], MEMBERS)
    output.flush()


def node_record(node: models.StorageNode) -> dict[str, Any]:
    """A node as a row."""
    return {
        "id": node.id,
        "state": node.state,
        "used_bytes": node.used_bytes,
        "capacity_bytes": node.capacity_bytes,
        "full": "FULL" if node.is_full else "no" if node.is_full is False else None,
        "missing_chunks": node.reconcile.missing_chunks if node.reconcile else None,
        "zone": node.zone or None,
        "url": node.url or None,
        "reason": node.reason,
    }


def member_record(member: models.ConsensusMember, leader: str | None) -> dict[str, Any]:
    """A consensus member as a row."""
    role = "leader" if member.id == leader else "voter" if member.is_voter else "learner"
    return {"id": member.id, "role": role, "url": member.url}


def _node_columns(found: list[models.StorageNode]) -> list[Column]:
    """On a terminal without the columns that say the same of every node, or nothing."""
    idle = {
        "full": not any(node.is_full for node in found),
        "zone": len({node.zone for node in found}) < 2,
        "reason": not any(node.reason for node in found),
    }
    return [column for column in NODES if not idle.get(column.field)]


def _show_plainly(output: Output, found: models.Cluster) -> None:
    output.fields("cluster", found.cluster_id or "-", "well" if is_well(found) else "degraded")
    for sentence in found.degraded:
        output.fields("degraded", sentence)
    for node in found.nodes:
        used = "-" if node.used_bytes is None else node.used_bytes
        output.fields("node", node.id, node.state, used, node.capacity_bytes)
    for member in found.members:
        record = member_record(member, found.leader)
        output.fields("member", record["id"], record["role"])


async def _still_draining(client: Any, node: str) -> models.NodeDraining | None:
    from trivet.errors import NotFound

    # Asked by what the cluster says, and not by draining again: a drain that somebody cancelled must not begin anew.
    found = next((row for row in (await client.cluster()).nodes if row.id == node), None)
    if found is None:
        return None
    if found.state != "draining":
        raise Failure(f"{node} is {found.state} and not draining any more: somebody cancelled it.", ExitCode.REFUSED)
    try:
        return _still(await client.operations.drain_node(node))
    except NotFound:
        return None


def _still(answer: models.NodeDraining | models.NodeRemoved) -> models.NodeDraining | None:
    """None where it had nothing to be emptied of, and is removed already."""
    return cast("models.NodeDraining", answer) if hasattr(answer, "draining_since") else None


def _tell_draining(output: Output, draining: models.NodeDraining) -> None:
    if output.is_json:
        output.document({"id": draining.id, "state": draining.state, "chunks_left": draining.chunks_left})
        return
    left = "" if draining.chunks_left is None else f": {words.count(draining.chunks_left, 'chunk')} left"
    output.say(f"{draining.id} is {draining.state}{left}.")


def _show_verification(output: Output, found: models.Verification) -> None:
    if output.is_json:
        output.document(_builtins(found))
        return
    verdict = {True: "clean", False: "NOT CLEAN", None: "no verdict yet"}[found.is_clean]
    output.fields(
        f"{found.state}, {found.progress:.0%}, {verdict}: {words.count(found.checked_chunks, 'chunk')} "
        f"({words.size(found.checked_bytes)}) read, {found.missing_chunks} missing, {found.bad_chunks} bad"
    )
    if (objects := found.objects) is not None:
        output.fields(
            f"  the log has {words.count(objects.versions, 'version')}, {words.count(objects.markers, 'delete marker')}, "
            f"{words.count(objects.parts, 'part')} of {words.count(objects.uploads, 'upload')} under way"
        )
    for node in found.nodes:
        report = node.report
        said = (
            node.problem
            if report is None
            else f"{report.state}, {report.missing_chunks} missing, {report.bad_chunks} bad"
        )
        output.fields(f"  {node.id}", said)


def _builtins(model: Any) -> dict[str, Any]:
    import msgspec

    built: dict[str, Any] = msgspec.to_builtins(model)
    return built
