from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings


def test_defaults_need_no_environment() -> None:
    settings = Settings()
    assert settings.redis_url is None
    assert (settings.host, settings.port, settings.model) == ("127.0.0.1", 8000, "nano")
    assert settings.data_dir == Path.home() / ".local" / "share" / "instantir"


def test_the_environment_sets_fields_by_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTANTIR_SLOTS", "7")
    monkeypatch.setenv("INSTANTIR_LEASE_S", "2.5")
    settings = Settings()
    assert (settings.slots, settings.lease_s) == (7, 2.5)


@pytest.mark.parametrize("name", ["REDIS_URL", "INSTANTIR_REDIS_URL"])
def test_the_address_of_redis_has_two_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "redis://elsewhere:6379/0")
    assert Settings().redis_url == "redis://elsewhere:6379/0"


def test_our_own_name_of_the_address_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://shared:6379/0")
    monkeypatch.setenv("INSTANTIR_REDIS_URL", "redis://ours:6379/0")
    assert Settings().redis_url == "redis://ours:6379/0"


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/0")
    assert Settings(redis_url="redis://here:6379/0").redis_url == "redis://here:6379/0"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "")
    assert Settings().redis_url is None


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="slotz"):
        Settings(slotz=3)  # pyright: ignore[reportCallIssue] - the mistake under test


def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTANTIR_SLOTZ", "3")
    with pytest.raises(ValidationError, match="INSTANTIR_SLOTZ"):
        Settings()


def test_settings_never_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.slots = 9


@pytest.mark.parametrize(
    ("name", "value"),
    [("slots", 0), ("lease_s", 0), ("port", 70_000), ("queue_limit", 0), ("engine", "engines")],
)
def test_a_value_out_of_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})


def test_the_smallest_side_cannot_exceed_the_largest() -> None:
    with pytest.raises(ValidationError, match="min_side_px 64 > max_side_px 32"):
        Settings(min_side_px=64, max_side_px=32)


@pytest.mark.parametrize("address", [None, "unix:///redis.sock"])
def test_a_cluster_needs_the_address_of_a_node(address: str | None) -> None:
    with pytest.raises(ValidationError, match="redis_cluster needs a redis:// or rediss://"):
        Settings(redis_url=address, redis_cluster=True)


@pytest.mark.parametrize(
    "secret", ["whsec_", "whsec_c2hvcnQ=", "whsec_" + "A" * 33, "A" * 32, "whsec_" + "%" * 40]
)
def test_a_secret_that_cannot_sign_is_refused(secret: str) -> None:
    with pytest.raises(ValidationError, match="base64 of 24 bytes"):
        Settings(webhook_secret=secret)


def test_secrets_are_not_shown() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    settings = Settings(webhook_secret=secret, operator_key="operator", api_keys={"key-1": "a"})
    shown = repr(settings)
    assert not any(text in shown for text in (secret, "operator'", "key-1"))
