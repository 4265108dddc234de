"""Every setting of the service, read from the environment once and passed on as a value.

The only module that looks at `os.environ`. Names carry their unit; `INSTANTIR_SLOTS=8` sets
`slots`, and `REDIS_URL` is understood as well as `INSTANTIR_REDIS_URL`.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "INSTANTIR_"
ENGINE = "engines:load"
SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 24


def _default_data_dir() -> Path:
    return Path.home() / ".local" / "share" / "instantir"


class ClientSettings(BaseSettings):
    """Where a client finds its service, and as whom it calls."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="ignore"
    )

    url: str = Field(default="http://127.0.0.1:8000", description="Address of the service.")
    api_key: str = Field(default="", description="Key of the caller, where the service asks.")


class Settings(BaseSettings):
    """Settings of one process; frozen, and an unknown key (argument or variable) is an error."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
    )

    redis_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("INSTANTIR_REDIS_URL", "REDIS_URL"),
        description="redis://, rediss:// or unix:// address; None starts the embedded server.",
    )
    redis_cluster: bool = Field(
        default=False, description="REDIS_URL is the address of a node of a Redis Cluster."
    )
    data_dir: Path = Field(default_factory=_default_data_dir)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    model: str = "nano"
    engine: str = Field(default=ENGINE, pattern=r"^[\w.]+:\w+$")
    backend: Literal["auto", "torch", "openvino", "tensorrt"] = Field(
        default="auto",
        description="What runs the networks; auto is the fastest for this machine.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where the networks run; auto is a GPU where there is one.",
    )
    memory: Literal["auto", "resident", "begin", "difference", "tiles", "fp8"] = Field(
        default="auto",
        description="What is given up to need less memory; auto is the first that fits a GPU.",
    )
    engine_cache: Path | None = Field(
        default=None, description="Folder of compiled engines; by default within DATA_DIR."
    )
    slots: int = Field(default=4, ge=1, description="Restorations one worker steps together.")
    threads: int = Field(default=0, ge=0, description="CPU threads of the engine; 0 = all cores.")
    lease_s: float = Field(
        default=15.0,
        gt=0,
        description="A worker silent for this long loses its jobs. Must exceed a server failover.",
    )
    max_attempts: int = Field(default=3, ge=1)
    retention_s: int = Field(default=3600, ge=1, description="A finished job is kept this long.")
    queue_limit: int = Field(default=200, ge=1, description="Waiting jobs before submit refuses.")
    step_timeout_s: float = Field(default=300.0, gt=0)
    max_upload_bytes: int = Field(default=20 * 2**20, ge=1)
    max_pixels: int = Field(default=4_194_304, ge=1)
    max_side_px: int = Field(default=8192, ge=1)
    min_side_px: int = Field(default=16, ge=1)
    blob_store: str = Field(
        default="redis",
        pattern=r"^(redis|folder:.+|s3://.+)$",
        description="Where pictures live: redis, folder:PATH or s3://BUCKET/PREFIX?endpoint=URL.",
    )
    result_cache: bool = Field(
        default=True, description="Answer a repeated request with the result of the first."
    )
    api_keys: dict[str, str] = Field(
        repr=False,
        default_factory=dict[str, str],
        description="Caller names by API key, as JSON; empty leaves the service open to everyone.",
    )
    operator_key: str | None = Field(
        default=None,
        min_length=8,
        repr=False,
        description="API key that opens /ops; None closes it.",
    )
    webhook_secret: str | None = Field(
        default=None,
        repr=False,
        description="Signs webhooks: whsec_ and the base64 of 24 bytes or more; None: no webhooks.",
    )
    fetch_private_networks: bool = Field(
        default=False, description="Fetch pictures and call webhooks inside private networks too."
    )
    max_streams: int = Field(default=10_000, ge=1, description="Followers of one API process.")
    max_wait_s: float = Field(
        default=60.0, gt=0, le=600, description="Longest time a request waits for its result."
    )
    disconnect_grace_s: float = Field(
        default=10.0, ge=0, description="To come back, before on_disconnect=cancel cancels."
    )
    previews_per_s: float = Field(default=4.0, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def engine_options(self) -> dict[str, Any]:
        """What our own engine is told beside the model's name; another one is told nothing."""
        if self.engine != ENGINE:
            return {}
        return {
            "backend": self.backend,
            "cache": self.engine_folder,
            "device": self.device,
            "memory": self.memory,
        }

    @property
    def engine_folder(self) -> Path:
        """Where compiled engines are kept."""
        return self.engine_cache or self.data_dir / "engines"

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_variables(cls, values: Any) -> Any:
        # pydantic-settings only reads the variables it knows, so a typo would pass in silence.
        fields = (*cls.model_fields, *ClientSettings.model_fields)
        known = {ENV_PREFIX + name.upper() for name in fields}
        unknown = sorted(
            name
            for name in os.environ
            if name.upper().startswith(ENV_PREFIX) and name.upper() not in known
        )
        if unknown:
            raise ValueError(f"unknown environment variables: {', '.join(unknown)}")
        return values

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, secret: str | None) -> str | None:
        if secret is None:
            return None
        prefix, key = secret[: len(SECRET_PREFIX)], secret[len(SECRET_PREFIX) :]
        try:
            length = len(base64.b64decode(key, validate=True))
        except ValueError:
            length = 0
        if prefix != SECRET_PREFIX or length < _SECRET_BYTES:
            raise ValueError(f"must be {SECRET_PREFIX} and base64 of {_SECRET_BYTES} bytes or more")
        return secret

    @model_validator(mode="after")
    def _check_cluster(self) -> Self:
        scheme = (self.redis_url or "none").partition(":")[0]  # what follows may hold a password
        if self.redis_cluster and scheme not in ("redis", "rediss"):
            raise ValueError(f"redis_cluster needs a redis:// or rediss:// address, not {scheme}")
        return self

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.min_side_px > self.max_side_px:
            raise ValueError(f"min_side_px {self.min_side_px} > max_side_px {self.max_side_px}")
        return self
