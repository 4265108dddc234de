"""Profiles: what jobs cost on a kind of worker, measured or estimated, and what it costs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.capacity.fleet import Kind, Pace

_SHIPPED: Final = "profiles.json"


class Profile(BaseModel):
    """A kind of worker under a mix of jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    source: str = Field(description="Where the step times come from.")
    kinds: tuple[Kind, ...] = Field(min_length=1)
    slots: int = Field(ge=1)
    together: float = Field(ge=0, le=1)
    crowding: float = Field(ge=0)
    start_s: float = Field(ge=0, description="From the decision to a loaded model.")
    price_per_h: float = Field(ge=0, description="Of one worker, in any currency; assumed.")

    @property
    def pace(self) -> Pace:
        """How its workers step."""
        return Pace(self.slots, self.together, self.crowding)


_PROFILES: Final = TypeAdapter(dict[str, Profile])


def shipped() -> dict[str, Profile]:
    """The profiles that come with the package, by name."""
    text = (files("service.capacity") / _SHIPPED).read_text(encoding="utf-8")
    return _PROFILES.validate_json(text)


def profile(name: str) -> Profile:
    """A shipped profile by name, or the one in a file. Raises ValueError."""
    known = shipped()
    if name in known:
        return known[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"gpu is {name!r}, neither a file nor one of: {', '.join(known)}")
    try:
        return Profile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{name}: {place}: {first['msg']}") from error
