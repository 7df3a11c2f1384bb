"""XML of S3 as a client meets it: answers of servers that need not be friendly, and the few documents that are sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

Element = ET.Element

LIMIT_BYTES: Final = 1 << 20
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_FORBIDDEN: Final = (b"<!DOCTYPE", b"<!ENTITY", b"\0")
"""Document types, whose entities can make work without end; and texts of other encodings, which could hide one."""


class MalformedError(Exception):
    """An answer is not the document that it should be."""


def parse(body: bytes, root: str, *, limit_bytes: int = LIMIT_BYTES) -> Element:
    """The root of a document, called `root`; elements have no namespace.

    Raises:
        MalformedError: it is none, too long, or has a document type.
    """
    if len(body) > limit_bytes or any(text in body for text in _FORBIDDEN):
        raise MalformedError(f"an answer is no {root} of S3, or a longer one than is read")
    try:
        top = ET.fromstring(body)  # noqa: S314 - without a document type there are no entities
    except ET.ParseError as error:
        raise MalformedError(f"an answer is no XML: {error}") from error
    for node in top.iter():
        node.tag = node.tag.rpartition("}")[2]
    if top.tag != root:
        raise MalformedError(f"an answer is a {top.tag} where a {root} should be")
    return top


def element(name: str, value: str | int) -> str:
    """`<name>value</name>`."""
    return f"<{name}>{escape(str(value))}</{name}>"


def group(name: str, children: Iterable[str]) -> str:
    """An element of elements."""
    return f"<{name}>{''.join(children)}</{name}>"


def document(name: str, children: Iterable[str] = ()) -> bytes:
    """A whole body."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{_NAMESPACE}">{"".join(children)}</{name}>'.encode()
