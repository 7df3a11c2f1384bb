"""The description of the public API is complete and true to how Swagger UI uses it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from services.gateway.api.identity_models import (
    CallerInfo,
    IdentityChange,
    IdentityDetails,
    IdentityInfo,
    IdentityList,
    IdentityRequest,
    KeyChange,
    KeyCreated,
    KeyInfo,
    KeyList,
    KeyRequest,
    LinkMade,
    LinkRequest,
)
from services.gateway.api.models import (
    BackupBegin,
    BackupInfo,
    BackupList,
    BackupRenewal,
    BucketCreated,
    BucketList,
    ClusterInfo,
    ClusterVerification,
    FileList,
    NodeAdmission,
    NodeAdmitted,
    NodeDraining,
    NodeRemoved,
    Receipt,
    TimeNow,
)
from services.gateway.api.object_models import (
    BatchDeleted,
    BatchDeleteRequest,
    CopyReceipt,
    CopyRequest,
    RenameRequest,
    RestoreRequest,
    SettingsAnswer,
    SettingsRequest,
    TagsAnswer,
    TagsRequest,
    VersionList,
)
from services.gateway.main import build_app
from shared.web.service_app import ServiceApp
from tests.unit.gateway.conftest import make_settings

REPOSITORY = Path(__file__).parents[3]
BINARY = {"type": "string", "format": "binary"}


@pytest.fixture(scope="module")
def app() -> ServiceApp:
    """Nothing is asked of it but its description, which it makes once."""
    return build_app(make_settings())


def test_every_operation_says_what_it_does_and_how_it_ends(app: ServiceApp) -> None:
    """Summary, description, a success and at least one error each, and no answer that never comes."""
    schema = app.openapi()
    for path, operations in schema["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            statuses = {int(status) for status in operation["responses"]}
            assert any(status < 300 for status in statuses), where
            assert "application/json" not in operation["responses"].get("422", {}).get("content", {}), where
            if path != "/v1/time":
                assert any(status >= 400 for status in statuses), where
            for name in ("bucket", "key"):
                if f"{{{name}}}" in path:
                    assert any(parameter["name"] == name for parameter in operation["parameters"]), where


def test_swagger_ui_offers_a_file_to_choose_and_one_to_download(app: ServiceApp) -> None:
    """A binary body in, binary content out."""
    file_path = app.openapi()["paths"]["/v1/files/{bucket}/{key}"]
    assert file_path["put"]["requestBody"]["content"]["application/octet-stream"]["schema"] == BINARY
    assert file_path["get"]["responses"]["200"]["content"]["application/octet-stream"]["schema"] == BINARY


def test_problems_are_described_once(app: ServiceApp) -> None:
    """References resolve."""
    assert app.operations is not None
    schema = app.operations.openapi()
    assert {"type", "title", "status", "detail", "code", "definite"} <= schema["components"]["schemas"]["Problem"][
        "properties"
    ].keys()


def test_every_call_of_both_listeners_names_the_access_key(app: ServiceApp) -> None:
    """So Swagger UI has a button Authorize, and sends the key with every request; probes need none."""
    assert app.operations is not None
    for schema in (app.openapi(), app.operations.openapi()):
        assert schema["components"]["securitySchemes"]["AccessKey"]["scheme"] == "bearer"
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                assert operation.get("security") == ([{"AccessKey": []}] if path.startswith("/v1/") else None), path
                assert {"401", "403"} <= operation["responses"].keys() or not path.startswith("/v1/"), (method, path)


def test_the_text_stands_alone_and_every_json_document_has_an_example(app: ServiceApp) -> None:
    """Who reads it has no other page of ours. Parameters that are optional have none: Swagger UI would send them."""
    schema = app.openapi()
    assert not re.search(r"\w\.md\b|section \d", json.dumps(schema))
    models = schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            for parameter in operation.get("parameters", []):
                assert ("example" in parameter) <= parameter.get("required", False), (where, parameter["name"])
            contents = [answer.get("content", {}) for answer in operation["responses"].values()]
            contents.append(operation.get("requestBody", {}).get("content", {}))
            for content in contents:
                for kind, document in content.items():
                    if kind.endswith("json"):
                        model = models.get(document["schema"].get("$ref", "").rpartition("/")[2], document["schema"])
                        assert {"example", "examples"} & (document.keys() | model.keys()), (where, document)


@pytest.mark.parametrize(
    "model",
    [
        CallerInfo,
        IdentityChange,
        IdentityDetails,
        IdentityInfo,
        IdentityList,
        IdentityRequest,
        KeyChange,
        KeyCreated,
        KeyInfo,
        KeyList,
        KeyRequest,
        LinkMade,
        LinkRequest,
        BackupBegin,
        BackupInfo,
        BackupList,
        BackupRenewal,
        BatchDeleted,
        BatchDeleteRequest,
        BucketCreated,
        BucketList,
        ClusterInfo,
        ClusterVerification,
        CopyReceipt,
        CopyRequest,
        FileList,
        NodeAdmission,
        NodeAdmitted,
        NodeDraining,
        NodeRemoved,
        Receipt,
        RenameRequest,
        RestoreRequest,
        SettingsAnswer,
        SettingsRequest,
        TagsAnswer,
        TagsRequest,
        TimeNow,
        VersionList,
    ],
)
def test_the_examples_are_such_documents(model) -> None:
    """They are read as what they stand for."""
    for example in model.model_json_schema()["examples"]:
        model.model_validate(example)


@pytest.mark.parametrize("name", ["clock", "consensus", "gateway", "gateway-operations", "storage"])
def test_every_operation_says_what_the_http_edge_may_answer(name) -> None:
    """A path or a head that is too long never reaches a route."""
    schema = json.loads((REPOSITORY / f"docs/openapi/{name}.json").read_text())
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert {"414", "431"} <= operation["responses"].keys(), f"{method} {path}"
            for status in ("414", "431"):
                described = schema["components"]["responses"][operation["responses"][status]["$ref"].rpartition("/")[2]]
                example = described["content"]["application/problem+json"]["examples"]
                assert [each["value"]["status"] for each in example.values()] == [int(status)]
