"""XML of other servers."""

from __future__ import annotations

import pytest

from trivet.import_s3 import xml_documents

BOMB = b'<?xml version="1.0"?><!DOCTYPE Error [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><Error>&b;</Error>'


def test_elements_have_no_namespace_whatever_the_server_writes() -> None:
    """Some leave that of S3 out, and some have one of their own."""
    for namespace in ('xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', "", 'xmlns="urn:other"'):
        top = xml_documents.parse(f"<Error {namespace}><Code>NoSuchKey</Code></Error>".encode(), "Error")
        assert top.findtext("Code") == "NoSuchKey"


@pytest.mark.parametrize(
    "body",
    [
        BOMB,
        BOMB.decode().encode("utf-16"),
        b"<Other/>",
        b"<Error>",
        b"",
        b"<Error>" + b" " * xml_documents.LIMIT_BYTES + b"</Error>",
    ],
)
def test_what_is_no_document_of_that_name_is_refused(body) -> None:
    """Entities, other encodings, other roots, and what is too long."""
    with pytest.raises(xml_documents.MalformedError):
        xml_documents.parse(body, "Error")


def test_what_is_sent_is_escaped() -> None:
    sent = xml_documents.document(
        "A", [xml_documents.group("B", [xml_documents.element("C", "<&>"), xml_documents.element("D", 1)])]
    )
    top = xml_documents.parse(sent, "A")
    assert (top.findtext("B/C"), top.findtext("B/D")) == ("<&>", "1")
