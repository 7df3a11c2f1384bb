"""`help` of the plain client: what the asynchronous one says of the same call."""

from __future__ import annotations


def document(plain: type, asynchronous: type) -> None:
    """Give calls of `plain` whose docstring is no more than "See `…`" that of the call of `asynchronous` it names."""
    for call in vars(plain).values():
        said = getattr(call, "__doc__", None) or ""
        if said.startswith(f"See `{asynchronous.__name__}."):
            name = said.partition(".")[2].partition("`")[0]
            call.__doc__ = (getattr(asynchronous, name).__doc__ or "").replace("`async ", "`")
