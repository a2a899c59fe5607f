"""Everything read from the environment, once: where things live, never what to measure."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from farm.errors import BadInput

#: Names a folder in which each setting may be a file, called like its variable in lower case.
SECRETS_DIR = "FARM_SECRETS_DIR"

#: Variables with passwords in them.
_SECRETS = ("CELERY_BROKER_URL", "FARM_DATABASE_URL", "FLOWER_BASIC_AUTH")

#: Not where TMPDIR points: all farms of a host share it, whoever started them and from where.
_TEMPORARY = Path("/tmp" if os.name == "posix" else tempfile.gettempdir())


class Settings(BaseSettings):
    """Where things live. Each field is an environment variable: `FARM_` and the name, or the alias.

    Where the variable is not set, the file of that name in the folder `FARM_SECRETS_DIR` stands for it.
    What `repr` leaves out holds a password.
    """

    model_config = SettingsConfigDict(env_prefix="FARM_", frozen=True, populate_by_name=True)

    #: The farm's own files: database, artifacts, logs.
    data_dir: Path = Path(".farm")
    #: `sqlite:///…` or `postgresql://…`; None is a SQLite file in `data_dir`.
    database_url: str | None = Field(default=None, repr=False)
    #: `redis://…` of the broker; None where there is none.
    broker_url: str | None = Field(default=None, validation_alias="CELERY_BROKER_URL", repr=False)
    #: One directory per host, shared by every farm on it, whoever runs it.
    lock_dir: Path = _TEMPORARY / "benchmark-farm-locks"
    #: The user's own datasets; None is `datasets` in `data_dir`.
    datasets_dir: Path | None = None
    #: Files of given weights, named by their digest; None is `weights` in `data_dir`.
    weights_dir: Path | None = None
    #: `user:password` of Flower; None leaves it open, which only a loopback address may be.
    flower_basic_auth: str | None = Field(default=None, validation_alias="FLOWER_BASIC_AUTH", repr=False)
    #: A job's claim lasts so long without renewal, and is renewed so often.
    lease_s: float = Field(default=30.0, gt=0)
    renew_s: float = Field(default=5.0, gt=0)
    #: The GPU this process may use, as CUDA understands it; None where all are visible.
    visible_gpu: str | None = Field(default=None, validation_alias="CUDA_VISIBLE_DEVICES")
    #: How often the reconciler looks, and says that its worker lives: one that was not heard of for 30 s is dead.
    reconcile_s: float = Field(default=10.0, gt=0, le=15)
    #: Memory that one building or measuring process may take, in MiB; None is all that host or container have.
    memory_limit_mb: int | None = Field(default=None, ge=64)
    #: What its temporary files together, and any one file, may take, in MiB.
    disk_limit_mb: int = Field(default=16_384, ge=1)
    #: With less than this free where the data directory is, in MiB, a worker claims nothing.
    disk_free_mb: int = Field(default=512, ge=0)
    #: How often a device that failed is probed.
    probe_s: float = Field(default=60.0, gt=0)
    #: After a request to stop, the job in hand has so long before it is handed back; None lets it end.
    drain_s: float | None = Field(default=None, gt=0)
    #: Touched now and then by a service that lives; None where nobody looks.
    health_file: Path | None = None
    #: How log lines look: `text` for people, `json` for machines.
    log_format: Literal["text", "json"] = "text"
    #: A worker serves `/metrics` for Prometheus on this port; 0 serves none.
    metrics_port: int = Field(default=0, ge=0, le=65535)
    #: The interface of that port; anyone who reaches it may ask.
    metrics_address: str = "127.0.0.1"

    @field_validator("renew_s")
    @classmethod
    def _within_the_lease(cls, renew_s: float, others: ValidationInfo) -> float:
        """Else others would take a job between two renewals, again and again."""
        lease_s = others.data.get("lease_s")
        if lease_s is not None and renew_s >= lease_s:
            text = "It has to be less than FARM_LEASE_S, which is {lease_s}"
            raise PydanticCustomError("lease", text, {"lease_s": lease_s})
        return renew_s

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed in, then the environment, then the folder that the environment names."""
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, _secrets_dir())

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'farm.db'}"

    @property
    def artifacts(self) -> Path:
        """Where builds are cached by content."""
        return self.data_dir.resolve() / "artifacts"

    @property
    def scratch(self) -> Path:
        """Where each building and measuring process has its temporary folder."""
        return self.data_dir.resolve() / "tmp"

    @property
    def datasets(self) -> Path:
        """Where the user's own datasets lie."""
        return (self.datasets_dir or self.data_dir / "datasets").resolve()

    @property
    def weights(self) -> Path:
        """Where files of given weights are kept."""
        return (self.weights_dir or self.data_dir / "weights").resolve()

    def variables(self) -> dict[str, str]:
        """These settings as environment variables, for a child process."""
        values = {
            "FARM_DATA_DIR": str(self.data_dir.resolve()),
            "FARM_DATABASE_URL": self.database,
            "FARM_LOCK_DIR": str(self.lock_dir),
            "FARM_DATASETS_DIR": str(self.datasets),
            "FARM_WEIGHTS_DIR": str(self.weights),
            "FARM_LEASE_S": str(self.lease_s),
            "FARM_RENEW_S": str(self.renew_s),
            "FARM_RECONCILE_S": str(self.reconcile_s),
            "FARM_PROBE_S": str(self.probe_s),
            "FARM_MEMORY_LIMIT_MB": None if self.memory_limit_mb is None else str(self.memory_limit_mb),
            "FARM_DISK_LIMIT_MB": str(self.disk_limit_mb),
            "FARM_DISK_FREE_MB": str(self.disk_free_mb),
            # Workers are children, too: of an embedded farm.
            "FARM_DRAIN_S": None if self.drain_s is None else str(self.drain_s),
            "FARM_HEALTH_FILE": None if self.health_file is None else str(self.health_file.absolute()),
            "FARM_LOG_FORMAT": self.log_format,
            "FARM_METRICS_PORT": str(self.metrics_port),
            "FARM_METRICS_ADDRESS": self.metrics_address,
            "CELERY_BROKER_URL": self.broker_url,
            "FLOWER_BASIC_AUTH": self.flower_basic_auth,
        }
        return {name: value for name, value in values.items() if value is not None}

    def without_secrets(self) -> dict[str, str]:
        """These settings and this process's variables for a process that only measures: it needs no password."""
        every = {**os.environ, **self.variables()}
        return {name: value for name, value in every.items() if name not in (*_SECRETS, SECRETS_DIR)}


def load() -> Settings:
    """The settings of this process: every door begins with them.

    Raises:
        BadInput: naming each variable that cannot be used and what is wrong; never a password.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise BadInput("\n".join(map(_explain, error.errors()))) from None
    except SettingsError as error:
        raise BadInput(f"{SECRETS_DIR}: {_unreadable(error)}. Every file there has to be readable text.") from None


def preloaded() -> str:
    """What the dynamic linker was told to load into this process before everything else."""
    return os.environ.get("LD_PRELOAD", "")


def _secrets_dir() -> Path | None:
    named = os.environ.get(SECRETS_DIR)
    if not named:
        return None
    try:
        found = Path(named).is_dir()
    except OSError:
        found = False
    if not found:
        raise BadInput(f"{SECRETS_DIR} is {named!r}: no such folder. Name one that is there, or unset it.")
    _check_files(Path(named))
    return Path(named)


def _check_files(folder: Path) -> None:
    """An empty secret would silently mean another broker or database."""
    for file in folder.iterdir():
        if file.name.upper() in _SECRETS and not (file.is_file() and file.stat().st_size):
            raise BadInput(f"{SECRETS_DIR}: {file} has to be a file with something in it. Write it, or remove it.")


def _unreadable(error: SettingsError) -> str:
    """Which file, and why; of what it holds, nothing."""
    reason = error.__cause__
    if isinstance(reason, OSError):
        return f"{reason.filename} cannot be read ({reason.strerror})"
    return f"{error} ({type(reason).__name__})"


def _explain(problem: Any) -> str:
    name = str(problem["loc"][0])
    field = Settings.model_fields.get(name)
    # An alias is the variable's whole name already.
    variable = name if field is None else f"FARM_{name.upper()}"
    field = field or next(f for f in Settings.model_fields.values() if f.validation_alias == name)
    value = f"is {problem['input']!r}" if field.repr else "cannot be used"
    return f"{variable} {value}: {problem['msg']}."
