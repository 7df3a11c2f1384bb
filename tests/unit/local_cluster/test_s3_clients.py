"""What clients of S3 are given to find a local cluster."""

from __future__ import annotations

import configparser
import stat
from pathlib import Path
from urllib.parse import urlsplit

import botocore.session
import pytest

from local_cluster.layout import Layout
from local_cluster.s3_clients import write_s3_configs
from shared.access_keys import PlainKey, draw_credential

URL = "http://127.0.0.1:9123"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.make()
    return layout


def test_each_client_reads_the_address_and_the_key(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the client itself reads it, whatever the user has at home."""
    key = PlainKey.parse(draw_credential())
    commands = write_s3_configs(layout, URL, "eu-north-1", key.line())
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(layout.s3_config("aws")))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(layout.root / "none"))
    session = botocore.session.Session()
    credentials = session.get_credentials()
    assert credentials is not None
    assert (credentials.access_key, credentials.secret_key) == (key.id, key.secret)
    client = session.create_client("s3")
    assert (client.meta.endpoint_url, client.meta.region_name) == (URL, "eu-north-1")
    rclone = configparser.ConfigParser()
    rclone.read(layout.s3_config("rclone"))
    assert dict(rclone["trivet"]) == {
        "type": "s3",
        "provider": "Other",
        "access_key_id": key.id,
        "secret_access_key": key.secret,
        "region": "eu-north-1",
        "endpoint": URL,
        "force_path_style": "true",
    }
    mc = urlsplit(layout.s3_config("mc").read_text().strip())
    assert (mc.username, mc.password, mc.hostname, mc.port) == (key.id, key.secret, "127.0.0.1", 9123)
    assert list(commands) == ["aws", "rclone", "mc"]


def test_nobody_else_reads_the_key(layout: Layout) -> None:
    """It stands in files of their owner alone, and in no command."""
    key = PlainKey.parse(draw_credential())
    commands = write_s3_configs(layout, URL, "us-east-1", key.line())
    for client, command in commands.items():
        path = layout.s3_config(client)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert str(path) in command
        assert key.secret not in command


def test_another_key_is_written_anew(layout: Layout) -> None:
    """As after a rotation."""
    for _ in range(2):
        key = PlainKey.parse(draw_credential())
        write_s3_configs(layout, URL, "us-east-1", key.line())
        for client in ("aws", "rclone", "mc"):
            assert key.secret in layout.s3_config(client).read_text()
