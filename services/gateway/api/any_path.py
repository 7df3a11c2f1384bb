"""The rest of a path, whatever is in it, as the parameter of a route: `{key:any}`."""

from __future__ import annotations

from starlette.convertors import PathConvertor, register_url_convertor


def register_any() -> None:
    """Have routes understand it. The framework keeps what it knows for the whole process."""
    register_url_convertor("any", _AnyConvertor())


class _AnyConvertor(PathConvertor):
    """A path with line ends in it, too: the framework's own ends there, and the name would be 404 instead of refused."""

    regex = r"[\s\S]*"
