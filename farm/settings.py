"""Everything read from the environment, once: where things live, never what to measure."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where things live. Each field is an environment variable: `FARM_` and the name, or the alias."""

    model_config = SettingsConfigDict(env_prefix="FARM_", frozen=True, populate_by_name=True)

    #: The farm's own files: database, artifacts, logs.
    data_dir: Path = Path(".farm")
    #: `sqlite:///…` or `postgresql://…`; None is a SQLite file in `data_dir`.
    database_url: str | None = None
    #: `redis://…` of the broker; None where there is none.
    broker_url: str | None = Field(default=None, validation_alias="CELERY_BROKER_URL")
    #: One directory per host, shared by every farm on it, whoever runs it.
    lock_dir: Path = Path(tempfile.gettempdir()) / "benchmark-farm-locks"
    #: The user's own datasets; None is `datasets` in `data_dir`.
    datasets_dir: Path | None = None
    #: `user:password` of Flower; None leaves it open, which only a loopback address may be.
    flower_basic_auth: str | None = Field(default=None, validation_alias="FLOWER_BASIC_AUTH")
    #: A job's claim lasts so long without renewal, and is renewed so often.
    lease_s: float = Field(default=30.0, gt=0)
    renew_s: float = Field(default=5.0, gt=0)
    #: The GPU this process may use, as CUDA understands it; None where all are visible.
    visible_gpu: str | None = Field(default=None, validation_alias="CUDA_VISIBLE_DEVICES")
    #: How often the reconciler looks.
    reconcile_s: float = Field(default=10.0, gt=0)

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'farm.db'}"

    @property
    def artifacts(self) -> Path:
        """Where builds are cached by content."""
        return self.data_dir.resolve() / "artifacts"

    @property
    def datasets(self) -> Path:
        """Where the user's own datasets lie."""
        return (self.datasets_dir or self.data_dir / "datasets").resolve()

    def variables(self) -> dict[str, str]:
        """These settings as environment variables, for a child process."""
        values = {
            "FARM_DATA_DIR": str(self.data_dir.resolve()),
            "FARM_DATABASE_URL": self.database,
            "FARM_LOCK_DIR": str(self.lock_dir),
            "FARM_DATASETS_DIR": str(self.datasets),
            "FARM_LEASE_S": str(self.lease_s),
            "FARM_RENEW_S": str(self.renew_s),
            "FARM_RECONCILE_S": str(self.reconcile_s),
            "CELERY_BROKER_URL": self.broker_url,
            "FLOWER_BASIC_AUTH": self.flower_basic_auth,
        }
        return {name: value for name, value in values.items() if value is not None}
