"""The examples in the descriptions of services are what they stand for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from services.clock.api import HlcReport
from shared.contracts import chunks, cluster, metadata, reconcile, time
from shared.web.contract_examples import EXAMPLES

FOLDER = Path(__file__).parents[4] / "docs" / "openapi"


def model_of(name: str):
    models = {"HlcReport": HlcReport} | vars(chunks) | vars(cluster) | vars(metadata) | vars(reconcile) | vars(time)
    return models[name]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_such_a_document(name) -> None:
    """Read by its model, which refuses unknown fields."""
    model_of(name).model_validate_json(json.dumps(EXAMPLES[name]))


@pytest.mark.parametrize("service", ["clock", "consensus", "storage", "gateway"])
def test_every_document_of_a_service_has_an_example_and_the_text_stands_alone(service) -> None:
    """Requests, answers and problems; summaries and descriptions everywhere."""
    text = (FOLDER / f"{service}.json").read_text(encoding="utf-8")
    assert not re.search(r"\w\.md\b", text)
    schema = json.loads(text)
    models = schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            contents = [answer.get("content", {}) for answer in operation["responses"].values()]
            contents.append(operation.get("requestBody", {}).get("content", {}))
            for content in contents:
                for kind, document in content.items():
                    if kind.endswith("json"):
                        model = models.get(document["schema"].get("$ref", "").rpartition("/")[2], document["schema"])
                        assert {"example", "examples"} & (document.keys() | model.keys()), (where, document)
