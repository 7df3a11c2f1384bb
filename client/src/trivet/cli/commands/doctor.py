"""`trivet doctor`: what is wrong, and what to do."""

from __future__ import annotations

from typing import Final

import click

from trivet.cli.diagnosis import ERROR, GOOD, NOTE, WARNING, Finding, diagnose, worst
from trivet.cli.exit_codes import ExitCode
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.output import Output
from trivet.cli.session import Session

_SIGNS: Final = {GOOD: ("✓", "good"), NOTE: ("i", "strong"), WARNING: ("!", "warn"), ERROR: ("✗", "bad")}


@click.command(cls=Command)
@asynchronous
async def doctor(session: Session) -> None:
    """Find what is wrong, and say what to do.

    Looks at the connection, the key, clocks, the consensus members, storage nodes, replicas, room and readiness. Ends with 0 when
    all is well, with 1 when something should be done, and with 5, 6 or 7 when nothing works because of the key, the connection or
    the room. With --json one document: is_well, exit_code, and findings with check, level
    (good, note, warning, error), said, advice.
    """
    from trivet.errors import ConfigError

    findings: list[Finding] = []
    try:
        async with session.client() as client:
            async for finding in diagnose(client):
                findings.append(finding)
                if not session.output.is_json:
                    show_finding(session.output, finding)
    except ConfigError as error:
        finding = Finding("configuration", ERROR, str(error), "trivet profile list shows what is set.", ExitCode.USAGE)
        findings.append(finding)
        if not session.output.is_json:
            show_finding(session.output, finding)
    code = worst(findings)
    if session.output.is_json:
        rows = [
            {"check": row.check, "level": row.level, "said": row.said, "advice": row.advice or None} for row in findings
        ]
        session.output.document({"is_well": code == ExitCode.DONE, "exit_code": int(code), "findings": rows})
    elif code == ExitCode.DONE:
        session.output.result(session.output.paint("All is well.", "good"))
    raise click.exceptions.Exit(int(code))


def show_finding(output: Output, finding: Finding) -> None:
    """One sentence, and what to do."""
    sign, colour = _SIGNS[finding.level]
    if not output.is_terminal:
        output.fields(finding.level, finding.check, finding.said, finding.advice or "-")
        return
    if output.is_quiet and finding.level == GOOD:
        return
    output.paragraph(sign, finding.said, colour)
    if finding.advice:
        output.paragraph("  →", finding.advice, "dim")
    output.flush()
