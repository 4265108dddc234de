"""The OpenAPI document: complete, in agreement with the models, and without loose ends."""

import re

import httpx
import pytest

from service.api import schema
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
        "get /restore/{job_id}",
        "post /restore/{job_id}/cancel",
        "get /restore/{job_id}/result",
        "get /restore/{job_id}/events",
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

    assert set(form["properties"]) == {"image", *RestoreOptions.model_fields}
    assert (form["required"], form["additionalProperties"]) == (["image"], False)
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

    assert set(answers) == {"202", "400", "408", "413", "415", "422", "429", "503", "default"}
    assert "unsupported_image" in answers["415"]["description"]
    assert "unsupported_media_type" in answers["415"]["description"]
    for status, answer in answers.items():
        if status != "202":
            assert set(answer["content"]) == {"application/problem+json"}


async def test_no_reference_leads_nowhere(document: dict) -> None:
    schemas = document["components"]["schemas"]
    names = set(re.findall(r"#/components/schemas/(\w+)", str(document)))

    assert {"Problem", "WrongField", "JobView"} <= names
    assert names <= set(schemas)
    assert "HTTPValidationError" not in schemas
