"""What a person may choose about a cluster on one machine: where its state lies and which ports it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT_ROOT: Final = Path(__file__).resolve().parent.parent


class LocalSettings(BaseSettings):
    """Read from the environment with the prefix `TRIVET_`; an empty value means the default.

    Attributes:
        local_dir: everything that the cluster writes; relative to the working directory.
        port_offset: added to every port, so that two clusters can stand side by side.
    """

    model_config = SettingsConfigDict(env_prefix="TRIVET_", env_ignore_empty=True, extra="ignore", frozen=True)

    local_dir: Path = PROJECT_ROOT / ".local"
    port_offset: int = Field(default=0, ge=0, le=56000)
