"""What S3's lists and uploads are known by: sealed, and good for one list or one object."""

from __future__ import annotations

import pytest

from services.gateway.cursors import CURSOR_KEY_BYTES, CursorSealer
from services.gateway.s3.errors import S3Error
from services.gateway.s3.list_tokens import ListName, ListPosition, open_token, seal_token
from services.gateway.s3.upload_ids import open_upload_id, seal_upload_id
from services.gateway.transfers.part_publication import UploadId

OLD, NEW = b"o" * CURSOR_KEY_BYTES, b"n" * CURSOR_KEY_BYTES
SEALER = CursorSealer([OLD], "here")
LIST = ListName("photos", "a/", "/")
UPLOAD = UploadId(4711, "0f" * 16)


@pytest.mark.parametrize(
    "position",
    [ListPosition(after_key="a/\x01é\U0001f600"), ListPosition(after_prefix="a/b/"), ListPosition(after_key="")],
)
def test_a_token_comes_back_as_it_went(position: ListPosition) -> None:
    """After a rotation of the key, too; and it is short, whatever the prefix is."""
    token = seal_token(SEALER, LIST, position, 1 << 40)
    assert open_token(CursorSealer([NEW, OLD], "here"), LIST, token) == (position, 1 << 40)
    longest = seal_token(SEALER, ListName("photos", "p" * 1024, None), ListPosition(after_key="\x01" * 1024), 1)
    assert len(longest) < 1500


@pytest.mark.parametrize(
    "name",
    [
        ListName("others", "a/", "/"),
        ListName("photos", "a", "/"),
        ListName("photos", "a/", None),
        ListName("photos", "", "a/"),
    ],
)
def test_a_token_opens_for_its_list_alone(name: ListName) -> None:
    """Everything else is 400: another list, another cluster, another key, and what is made up."""
    token = seal_token(SEALER, LIST, ListPosition(after_key="a/b"), 7)
    for sealer, asked, text in (
        (SEALER, name, token),
        (CursorSealer([OLD], "there"), LIST, token),
        (CursorSealer([NEW], "here"), LIST, token),
        (SEALER, LIST, token[:-1]),
        (SEALER, LIST, f"{token}é"),
        (SEALER, LIST, "x"),
    ):
        with pytest.raises(S3Error) as caught:
            open_token(sealer, asked, text)
        assert (caught.value.code, caught.value.status) == ("InvalidArgument", 400)


@pytest.mark.parametrize(("bucket", "key"), [("photos", "b"), ("others", "a"), ("photos", ""), ("photo", "sa")])
def test_an_upload_id_opens_for_its_object_alone(bucket: str, key: str) -> None:
    """Under another name it is none, and it shows nothing of the log."""
    text = seal_upload_id(SEALER, "photos", "a", UPLOAD)
    assert open_upload_id(SEALER, "photos", "a", text) == UPLOAD
    assert len(text) == 54
    with pytest.raises(S3Error) as caught:
        open_upload_id(SEALER, bucket, key, text)
    assert (caught.value.code, caught.value.status) == ("NoSuchUpload", 404)
    token = seal_token(SEALER, LIST, ListPosition(after_key="a"), 1)
    with pytest.raises(S3Error):
        open_upload_id(SEALER, "photos", "a", token)
