"""The published document against what is answered."""

import json
from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

# A file that is not there, or an architecture that makes no sense, fits every schema.
NOT_CHECKED = [positive_data_acceptance]


@pytest.fixture
def document(shared):
    return shared.anyone().get("/openapi.json").json()


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_every_operation_tells_its_errors_in_one_shape(document):
    assert document["openapi"].startswith("3.1")
    tags = {tag["name"] for tag in document["tags"]}
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    for name, operation in operations(document):
        told = operation["responses"]
        assert set(operation["tags"]) <= tags, name
        assert operation["description"], name
        assert {"400", "401", "403", "429", "500", "503"} <= set(told), name
        problem = "V2Problem" if name.split()[1].startswith("/v2") else "Problem"
        for status, response in told.items():
            if status >= "400":
                assert problem in json.dumps(response["content"]), (name, status)
                assert response["description"].startswith("`"), (name, status)
    assert "HTTPValidationError" not in json.dumps(document)


def test_every_reference_leads_somewhere(document):
    text = json.dumps(document)
    named = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert named == set(document["components"]["schemas"])
    assert "workspace" not in document["components"]["schemas"]["JobSpec"]["properties"]


def test_examples_in_the_document_are_accepted_as_far_as_they_can_be(shared, document, error_of):
    client = shared.may("submit")
    bodies = {
        name: operation["requestBody"]["content"]["application/json"]["examples"]
        for name, operation in operations(document)
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    (job,) = bodies["POST /v1/jobs"].values()
    found = error_of(client.post("/v1/jobs", json=job["value"]))
    assert found[:2] == (404, "upload_not_found")  # all but the data makes sense
    (upload,) = bodies["POST /v1/uploads"].values()
    assert client.post("/v1/uploads", json=upload["value"]).status_code == 201


def test_whatever_is_asked_is_answered_as_the_document_says(shared):
    async def application(scope, receive, send):
        if scope["type"] != "lifespan":  # jobs that are made up are not run
            await shared.app(scope, receive, send)

    schema = schemathesis.openapi.from_asgi("/openapi.json", application)
    headers = {"Authorization": f"Bearer {shared.tokens['admin']}"}
    asked = 0
    for found in schema.get_all_operations():
        for mode in GenerationMode:
            operation = found.ok()

            @settings(
                max_examples=4,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=mode))
            def ask(case):
                nonlocal asked
                asked += 1
                case.call_and_validate(headers=headers, excluded_checks=NOT_CHECKED)

            with suppress(Unsatisfiable):  # nothing about it can be wrong
                ask()
    assert asked > 100
