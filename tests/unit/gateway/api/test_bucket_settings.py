"""Settings of a bucket over HTTP: PUT replaces all, PATCH what it names."""

from __future__ import annotations

import httpx
import pytest

from tests.unit.gateway.api.local_gateway import make_app

_SETTINGS = "/v1/buckets/default/settings"


@pytest.fixture
def client(serve_app, tmp_path):
    app, gateway = make_app(tmp_path)
    gateway.is_upgraded = True
    with httpx.Client(base_url=serve_app(app)) as client:
        yield client


def test_a_patch_changes_what_it_names_and_null_is_the_default(client) -> None:
    """The answer shows all; a repeat under the same key is the same change, and another one is refused."""
    whole = {"versioning": "enabled", "superseded_retention_s": 60, "quota_bytes": 100, "quota_files": 5}
    assert client.put(_SETTINGS, json=whole).status_code == 200
    named, key = {"quota_bytes": None, "superseded_retention_s": 7}, {"Idempotency-Key": "k"}
    merge_patch = {"Content-Type": "application/merge-patch+json"}
    first = client.patch(_SETTINGS, json=named, headers=key | merge_patch)
    assert first.status_code == 200, first.text
    assert {name: first.json()[name] for name in whole} == whole | named
    client.put(_SETTINGS, json=whole)
    assert client.patch(_SETTINGS, json=named, headers=key).json() == first.json()
    assert {name: client.get(_SETTINGS).json()[name] for name in whole} == whole
    assert client.patch(_SETTINGS, json={"quota_bytes": 1}, headers=key).status_code == 422


@pytest.mark.parametrize(
    "patch", [{"versioning": "sometimes"}, {"quota_bytes": "9"}, {"quota_files": -1}, {"color": "red"}, [], None]
)
def test_a_patch_that_names_what_there_is_not_changes_nothing(client, patch) -> None:
    """It is refused as a whole."""
    assert client.patch(_SETTINGS, json=patch).status_code == 400
    assert client.get(_SETTINGS).json()["log_index"] == 0


def test_a_patch_that_would_switch_versions_off_is_refused(client) -> None:
    """As a PUT is."""
    client.patch(_SETTINGS, json={"versioning": "enabled"})
    refused = client.patch(_SETTINGS, json={"versioning": None})
    assert (refused.status_code, refused.json()["code"]) == (409, "versioning_cannot_be_off")
