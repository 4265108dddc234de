"""Every setting of the service, read from the environment once and passed on as a value.

The only module that looks at `os.environ`. Names carry their unit; `INSTANTIR_SLOTS=8` sets
`slots`, and `REDIS_URL` is understood as well as `INSTANTIR_REDIS_URL`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "INSTANTIR_"


def _default_data_dir() -> Path:
    return Path.home() / ".local" / "share" / "instantir"


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
    data_dir: Path = Field(default_factory=_default_data_dir)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    model: str = "nano"
    engine: str = Field(default="engines:load", pattern=r"^[\w.]+:\w+$")
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
    previews_per_s: float = Field(default=4.0, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_variables(cls, values: Any) -> Any:
        # pydantic-settings only reads the variables it knows, so a typo would pass in silence.
        known = {ENV_PREFIX + name.upper() for name in cls.model_fields}
        unknown = sorted(
            name
            for name in os.environ
            if name.upper().startswith(ENV_PREFIX) and name.upper() not in known
        )
        if unknown:
            raise ValueError(f"unknown environment variables: {', '.join(unknown)}")
        return values

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.min_side_px > self.max_side_px:
            raise ValueError(f"min_side_px {self.min_side_px} > max_side_px {self.max_side_px}")
        return self
