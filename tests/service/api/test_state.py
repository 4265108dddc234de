"""Ids as they come from clients."""

import pytest

from service.api.state import parse_job_id
from service.errors import NotFound

ID = "0b6c1c0e-3f0e-4a51-9d0b-0f6f0c9d2a11"


@pytest.mark.parametrize("text", [ID, ID.upper(), ID.replace("-", ""), f"urn:uuid:{ID}"])
def test_an_id_has_one_canonical_form(text: str) -> None:
    assert parse_job_id(text) == ID


@pytest.mark.parametrize("text", ["", "latest", "../queue", ID + "0", "{instantir}:dead"])
def test_what_cannot_be_an_id_names_no_job(text: str) -> None:
    with pytest.raises(NotFound, match="no job"):
        parse_job_id(text)


def test_a_long_text_is_not_repeated_in_full() -> None:
    with pytest.raises(NotFound) as raised:
        parse_job_id("x" * 5000)

    assert len(raised.value.message) < 100
