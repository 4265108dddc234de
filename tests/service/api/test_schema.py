"""The OpenAPI document: complete, in agreement with the models, and without loose ends."""

import re

import httpx
import pytest

from service.api import schema
from service.api.submission import MULTIPART
from service.jobs import RestoreOptions


@pytest.fixture
async def document(api: httpx.AsyncClient) -> dict:
    return (await api.get("/openapi.json")).json()


def submission(document: dict, media_type: str) -> dict:
    return document["paths"]["/restore"]["post"]["requestBody"]["content"][media_type]["schema"]


async def test_every_public_path_is_described(document: dict) -> None:
    operations = {
        f"{method} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }

    assert set(operations) == {
        "post /restore",
        "get /restore",
        "post /restore/estimate",
        "get /restore/{job_id}",
        "put /restore/{job_id}",
        "delete /restore/{job_id}",
        "post /restore/{job_id}/cancel",
        "get /restore/{job_id}/result",
        "get /restore/{job_id}/events",
        "get /restore/{job_id}/webhook/deliveries",
        "post /restore/{job_id}/webhook/redeliver",
        "post /webhooks/test",
        "post /v1/images/edits",
        "get /v1/models",
        "get /v1/models/{model}",
        "post /sdapi/v1/extra-single-image",
        "get /sdapi/v1/progress",
        "get /ops/dead",
        "post /ops/dead/{job_id}/requeue",
        "delete /ops/dead/{job_id}",
        "get /livez",
        "get /readyz",
        "get /metrics",
    }
    assert all(operation["description"] for operation in operations.values())


@pytest.mark.parametrize("media_type", ["multipart/form-data", "application/json"])
async def test_both_forms_of_a_submission_describe_every_option(
    document: dict, media_type: str
) -> None:
    form = submission(document, media_type)

    address = {"image_url"} if media_type == MULTIPART else set()
    assert set(form["properties"]) == {"image", *address, *RestoreOptions.model_fields}
    assert form["additionalProperties"] is False
    if address:
        assert form["oneOf"] == [{"required": ["image"]}, {"required": ["image_url"]}]
    else:
        assert form["required"] == ["image"]
    for name in RestoreOptions.model_fields:
        field = form["properties"][name]
        assert len(field["description"]) > 15
        assert len(field["examples"]) == 1
        assert "anyOf" not in field


async def test_ranges_are_those_that_are_checked(document: dict) -> None:
    fields = submission(document, "multipart/form-data")["properties"]

    def of(name: str) -> tuple:
        return fields[name]["minimum"], fields[name]["maximum"]

    assert of("steps") == (1, 100)
    assert of("guidance_scale") == (1.0, 20.0)
    assert of("seed") == (0, 2**32 - 1)
    assert of("output_quality") == (1, 100)
    assert of("preview_start") == of("creative_start") == (0.0, 1.0)
    assert fields["preset"]["enum"] == ["faithful", "balanced", "fast"]
    assert fields["output_quality"]["default"] == 90
    assert "default" not in fields["steps"]


def test_the_examples_are_valid_options() -> None:
    examples = {name: example for name, (_, example) in schema.PARAMETERS.items()}

    assert RestoreOptions(**examples).steps == examples["steps"]


async def test_the_json_example_can_be_sent_as_it_is(
    api: httpx.AsyncClient, document: dict
) -> None:
    body = document["paths"]["/restore"]["post"]["requestBody"]["content"]["application/json"]

    answer = await api.post("/restore", json=body["example"])

    assert answer.status_code == 202, answer.text


async def test_errors_are_described_as_problems(document: dict) -> None:
    answers = document["paths"]["/restore"]["post"]["responses"]

    statuses = "200 202 400 401 406 408 413 415 422 429 500 503 default"
    assert set(answers) == set(statuses.split())
    assert "unsupported_image" in answers["415"]["description"]
    assert "unsupported_media_type" in answers["415"]["description"]
    for status, answer in answers.items():
        if status not in {"200", "202"}:
            assert set(answer["content"]) == {"application/problem+json"}


async def test_no_reference_leads_nowhere(document: dict) -> None:
    schemas = document["components"]["schemas"]
    names = set(re.findall(r"#/components/schemas/(\w+)", str(document)))

    assert {"Problem", "WrongField", "JobView"} <= names
    assert names <= set(schemas)
    assert "HTTPValidationError" not in schemas
