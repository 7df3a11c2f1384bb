"""XML of S3, both ways: answers as plain text, and bodies of requests by a parser that a hostile document cannot make work.

No DTD, no entities, nothing fetched, and bounds on bytes, depth and elements (docs/security.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from lxml import etree

from services.gateway.s3.errors import S3Error
from shared.contracts.time import rfc3339
from shared.units import KIB, MIB

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
LIMIT_BYTES: Final = MIB
MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 20_000

_PROLOG: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_PIECE_BYTES: Final = 64 * KIB
_ESCAPED: Final = re.compile('[&<>"\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ufffe\\uffff]')
_MALFORMED: Final = "The XML you provided was not well-formed or did not validate against our published schema."
_QUALIFIED: Final = f"{{{NAMESPACE}}}"
_NAMED: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}

Element = etree._Element  # noqa: SLF001 - lxml gives the type no public name


def escape(text: str) -> str:
    """`text` as it stands in a document; of characters that XML 1.0 does not know S3 sends the number all the same."""
    return _ESCAPED.sub(_escaped, text) if _ESCAPED.search(text) else text


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    return _NAMED.get(character) or f"&#x{ord(character):x};"


def element(name: str, value: str | int | bool) -> str:
    """`<name>value</name>`."""
    if isinstance(value, bool):
        return f"<{name}>{'true' if value else 'false'}</{name}>"
    return f"<{name}>{escape(value) if isinstance(value, str) else value}</{name}>"


def group(name: str, children: Iterable[str]) -> str:
    """An element of elements."""
    return f"<{name}>{''.join(children)}</{name}>"


def document(name: str, children: Iterable[str] = (), *, has_namespace: bool = True) -> bytes:
    """A whole answer. Errors alone have no namespace."""
    namespace = f' xmlns="{NAMESPACE}"' if has_namespace else ""
    return f"{_PROLOG}<{name}{namespace}>{''.join(children)}</{name}>".encode("utf-8", "surrogatepass")


def iso_time(unix_ns: int) -> str:
    """A moment as lists have it, with milliseconds: `2026-11-22T17:05:09.123Z`."""
    return rfc3339(unix_ns)[:-4] + "Z"


def parse(body: bytes, root: str, *, limit_bytes: int = LIMIT_BYTES, limit_elements: int = MAX_ELEMENTS) -> Element:
    """The root of a document, whose elements have no namespace, be it that of S3 or none in the text.

    Args:
        root: how its root is called.

    Raises:
        S3Error: MalformedXML.
    """
    if len(body) > limit_bytes:
        raise malformed()
    # What is deep or has many is given up before it takes memory.
    parser = etree.XMLPullParser(
        events=("start", "end"),
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    bounds = _Bounds(limit_elements)
    try:
        for start in range(0, len(body), _PIECE_BYTES):
            parser.feed(body[start : start + _PIECE_BYTES])
            bounds.look(parser)
        top = parser.close()
        bounds.look(parser)
    except etree.XMLSyntaxError as error:
        raise malformed() from error
    # There is one also where a document type is named and declares nothing.
    dtd: object = top.getroottree().docinfo.internalDTD
    if dtd is not None or top.tag != root:
        raise malformed()
    return top


class _Bounds:
    """Of one document."""

    def __init__(self, limit_elements: int) -> None:
        self._limit_elements = limit_elements
        self._depth = 0
        self._elements = 0

    def look(self, parser: etree.XMLPullParser) -> None:
        """Count what came, and take the namespace of S3 away."""
        event: str
        node: Any
        for event, node in parser.read_events():
            if event == "end":
                self._depth -= 1
                continue
            self._depth += 1
            self._elements += 1
            if self._depth > MAX_DEPTH or self._elements > self._limit_elements:
                raise malformed()
            if node.tag.startswith(_QUALIFIED):
                node.tag = node.tag.removeprefix(_QUALIFIED)
            elif ":" in node.tag and not node.tag.startswith("{"):
                raise malformed()  # its prefix is declared nowhere, which the parser lets pass


def text_of(parent: Element, name: str) -> str | None:
    """The text of the only child of that name; None where there is none.

    Raises:
        S3Error: MalformedXML: there are several, or it has elements or an entity.
    """
    found = parent.findall(name)
    if not found:
        return None
    if len(found) > 1 or len(found[0]):
        raise malformed()
    return found[0].text or ""


def texts_of(parent: Element) -> dict[str, str]:
    """The texts of its children by name, in one pass: of one row among thousands.

    Raises:
        S3Error: MalformedXML: there are two of a name, or one has elements or an entity.
    """
    texts: dict[str, str] = {}
    for child in parent:
        if child.tag in texts or len(child):
            raise malformed()
        texts[child.tag] = child.text or ""
    return texts


def malformed(message: str = _MALFORMED) -> S3Error:
    """The error for a document that is not what it should be."""
    return S3Error("MalformedXML", message)
