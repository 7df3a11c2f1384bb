"""XML of S3, both ways."""

from __future__ import annotations

import pytest
from lxml import etree

from services.gateway.s3.errors import S3Error
from services.gateway.s3.xml_documents import (
    LIMIT_BYTES,
    MAX_DEPTH,
    MAX_ELEMENTS,
    NAMESPACE,
    document,
    element,
    escape,
    group,
    parse,
    text_of,
)


def test_text_comes_back_as_it_was_written() -> None:
    """All that XML knows, line ends included."""
    text = "<a & b> \"c\" 'd' é 😀 \t\n\r\x85"
    written = document("Root", (group("Row", (element("Text", text), element("Number", 7), element("Flag", True))),))
    root = etree.fromstring(written)
    namespaces = {"s": NAMESPACE}
    assert root.findtext("s:Row/s:Text", namespaces=namespaces) == text
    assert root.findtext("s:Row/s:Number", namespaces=namespaces) == "7"
    assert root.findtext("s:Row/s:Flag", namespaces=namespaces) == "true"


def test_what_xml_does_not_know_is_written_as_its_number() -> None:
    """As S3 does it, for clients that read it so."""
    assert escape("a\x00b\x1fc\ufffe") == "a&#x0;b&#x1f;c&#xfffe;"


@pytest.mark.parametrize("text", ["<Root/>", f'<Root xmlns="{NAMESPACE}"/>', f'<s:Root xmlns:s="{NAMESPACE}"/>'])
def test_the_namespace_may_be_there_or_not(text: str) -> None:
    """Clients do both."""
    assert parse(text.encode(), "Root").tag == "Root"


_BILLION = "<!DOCTYPE Root [<!ENTITY a 'x'><!ENTITY b '&a;&a;'>]><Root>&b;</Root>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "<Root>",
        "<Root/><Root/>",
        "<Other/>",
        '<Root xmlns="urn:other"/>',
        "<x:Root/>",
        "<Root><x:y/></Root>",
        "<x:y xm10001='urn:x'/><Root/>",
        "<!DOCTYPE Root><Root/>",
        '<!DOCTYPE Root SYSTEM "file:///etc/passwd"><Root/>',
        '<!DOCTYPE Root [<!ENTITY a SYSTEM "file:///etc/passwd">]><Root>&a;</Root>',
        _BILLION,
        "<Root>&undefined;</Root>",
        "<Root>" + "<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH + "</Root>",
        "<Root>" + "<a/>" * MAX_ELEMENTS + "</Root>",
        "<Root>" + " " * LIMIT_BYTES + "</Root>",
    ],
    ids=range(17),
)
def test_a_document_that_is_no_document_is_refused(text: str) -> None:
    """In whatever coding it comes."""
    for coding in ("utf-8", "utf-16"):
        with pytest.raises(S3Error, match="MalformedXML"):
            parse(text.encode(coding), "Root")


def test_a_document_may_be_as_deep_and_as_long_as_the_bounds() -> None:
    """One element less than is refused."""
    parse(("<Root>" + "<a>" * (MAX_DEPTH - 1) + "</a>" * (MAX_DEPTH - 1) + "</Root>").encode(), "Root")
    parse(("<Root>" + "<a/>" * (MAX_ELEMENTS - 1) + "</Root>").encode(), "Root")
    parse(b"<Root>" + b" " * (LIMIT_BYTES - 13) + b"</Root>", "Root")


def test_a_child_is_there_once_or_not() -> None:
    """Which of two was meant is not for us to say."""
    root = parse(b"<Root><a>1</a><b/><c/><c/><d><e/></d></Root>", "Root")
    assert (text_of(root, "a"), text_of(root, "b"), text_of(root, "z")) == ("1", "", None)
    for name in ("c", "d"):
        with pytest.raises(S3Error, match="MalformedXML"):
            text_of(root, name)
