"""What a shell offers at an address: buckets, folders and keys of the store, and paths of this machine where they may stand.

A shell waits while this runs: there is one short try, and whatever fails offers nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from trivet.cli.addresses import SCHEME
from trivet.cli.session import Session

if TYPE_CHECKING:
    from trivet import AsyncClient

_LIMIT_S: Final = 3.0
_OFFERED: Final = 200


def complete_remote(ctx: click.Context, text: str) -> list[CompletionItem]:
    """Addresses of the store that begin with `text`."""
    # bash takes the colon for the end of a word, and asks for what follows it.
    scheme = next((start for start in (SCHEME, SCHEME.partition(":")[2]) if text.startswith(start)), "")
    bucket, slash, key = text.removeprefix(scheme).partition("/")
    names = _ask(ctx, lambda client: _names(client, bucket, key if slash else None))
    return [CompletionItem(f"{scheme}{name}") for name in names]


def complete_address(ctx: click.Context, text: str) -> list[CompletionItem]:
    """As `complete_remote`, and paths of this machine, which the shell itself knows best."""
    paths = [] if text.startswith((SCHEME, "//")) else [CompletionItem(text, type="file")]
    return [
        *([] if text.startswith(("/", ".", "~")) and not text.startswith("//") else complete_remote(ctx, text)),
        *paths,
    ]


def complete_node(ctx: click.Context, text: str) -> list[CompletionItem]:
    """Storage nodes whose id begins with `text`."""

    async def ids(client: AsyncClient) -> list[str]:
        return [node.id for node in (await client.cluster()).nodes]

    return [CompletionItem(name) for name in _ask(ctx, ids) if name.startswith(text)]


def complete_profile(ctx: click.Context, text: str) -> list[CompletionItem]:
    """Profiles whose name begins with `text`."""
    from trivet.config import config_path, read_config
    from trivet.errors import ConfigError

    _ = ctx
    try:
        return [CompletionItem(name) for name in read_config(config_path()).profiles if name.startswith(text)]
    except ConfigError:
        return []


def _ask(ctx: click.Context, question: Callable[[AsyncClient], Awaitable[list[str]]]) -> list[str]:
    from trivet.errors import TrivetError

    async def run() -> list[str]:
        async with asyncio.timeout(_LIMIT_S), ctx.ensure_object(Session).client() as client:
            return await question(client)

    try:
        return asyncio.run(run())
    except (TrivetError, TimeoutError, OSError):
        return []


async def _names(client: AsyncClient, bucket: str, key: str | None) -> list[str]:
    if key is None:
        return [f"{found.name}/" async for found in client.buckets() if found.name.startswith(bucket)]
    names: list[str] = []
    async for page in client.list_pages(bucket, key, "/", limit=_OFFERED):
        names += [f"{bucket}/{name}" for name in [*page.prefixes, *(file.key for file in page.files)]]
        if len(names) >= _OFFERED:
            break
    return [name for name in names if name.isprintable()]
