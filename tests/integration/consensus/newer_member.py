"""A member of a version to come: it knows one more kind of command, which came in entries of the next version."""

from typing import Annotated, Literal

from pydantic import Field

from services.consensus import callers
from services.consensus.metadata import audit_rows, commands, entries
from shared.contracts import metadata
from shared.contracts.base import WireModel
from shared.contracts.calls import Command
from shared.contracts.time import Stamp


class Greeted(WireModel):
    """Who was."""

    greeted: str


class Greet(Command[Greeted]):
    """Greet somebody."""

    kind: Literal["greet"] = "greet"
    name: str
    stamp: Stamp


metadata.AnyCommand = Annotated[metadata.AnyCommand | Greet, Field(discriminator="kind")]
for model in (metadata.Proposal, metadata.ProposalBatch):
    model.model_fields[next(iter({"command", "proposals"} & model.model_fields.keys()))].annotation = {
        metadata.Proposal: metadata.AnyCommand,
        metadata.ProposalBatch: list[metadata.Proposal],
    }[model]
    model.model_rebuild(force=True)
NEWEST = entries.KNOWN_ENTRY_VERSION + 1
entries.NEWER_KINDS["greet"] = NEWEST
entries.KNOWN_ENTRY_VERSION = NEWEST
callers.PROPOSERS[Greet] = callers.PROPOSERS[metadata.CreateBucket]
audit_rows.SUBJECTS["greet"] = {}  # type: ignore[index]
commands._HANDLERS[Greet] = lambda _turn, command: Greeted(greeted=command.name)

if __name__ == "__main__":
    # After the patches: these modules take the names as they are now.
    from services.consensus.main import main

    main()
