"""Every setting: where and when things happen. What changes an answer is in params.yaml."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from dotenv import dotenv_values
from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import SettingsError
from core.types import Provider

PREFIX = "PIGEONHOLE_"
_PASSWORD = re.compile(r"(://[^:/@]*:)[^/]*@")  # of postgresql://user:password@host/name
LOOPBACK = ("127.0.0.1", "::1", "localhost")

After = Literal["sort", "archive", "keep", "delete"]
Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(BaseSettings):
    """Read once, at the front door, from the environment and `.env`; frozen; handed down."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path = Field(Path("var"), description="everything the program writes")
    inbox: Path = Field(Path("inbox"), description="the watched folder, with its sub-folders")
    after: After = Field(
        "sort", description="what becomes of a classified file: sort, archive, keep or delete"
    )
    database_url: str = Field("", description="SQLAlchemy URL of SQLite or PostgreSQL")
    host: str = Field("127.0.0.1", description="address of the API")
    port: Port = Field(8000, description="port of the API")
    watcher_metrics_port: Port = Field(
        9108, description="port of the watcher's /metrics, /livez and /readyz"
    )
    api_key: SecretStr | None = Field(
        None, description="asked for as X-API-Key on every read and write of data"
    )
    ignore: str = Field(
        "",
        description="more file names to ignore, as patterns with commas between: *.bak, raw/*",
    )
    done_suffix: str = Field(
        "", description="take FILE only when FILE and this suffix is there too, such as .done"
    )
    settle_s: float = Field(1.0, ge=0, description="how long size and mtime must stand still")
    reconcile_s: float = Field(15.0, gt=0, description="time between full scans of the inbox")
    order: Literal["oldest", "newest"] = Field(
        "oldest", description="which waiting files go first, by their time: oldest or newest"
    )
    heartbeat_s: float = Field(
        30.0, ge=0, description="time between test pictures through the inbox; 0: none"
    )
    min_free_bytes: ByteSize = Field(
        ByteSize(100 * 1024**2), ge=0, description="with less room on a disk of ours, work pauses"
    )
    batch_size: int = Field(32, ge=1, le=1024, description="images claimed and recorded together")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, le=256, description="decode workers"
    )
    provider: Provider = Field(
        "cpu", description="what the model runs on: cpu, cuda or openvino (docs/performance.md)"
    )
    max_body_bytes: ByteSize = Field(
        ByteSize(20 * 1024**2), gt=0, description="largest upload; 20MiB and 5MB are understood"
    )
    max_pixels: int = Field(100_000_000, ge=1, description="largest image, width times height")
    min_confidence: float = Field(0.5, ge=0, le=1, description="below this a result needs review")
    audit_share: float = Field(
        0.01, ge=0, le=1, description="share of results, drawn at random, that people should review"
    )
    log_format: Literal["console", "json"] = Field("console", description="console or json")

    @field_validator("done_suffix")
    @classmethod
    def _suffix_of_a_name(cls, suffix: str) -> str:
        if "/" in suffix or suffix != suffix.strip():
            raise ValueError(f"{suffix!r} is no end of a file name; write .done")
        return suffix

    @field_validator("home")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @model_validator(mode="before")
    @classmethod
    def _key_from_file(cls, values: dict[str, object]) -> dict[str, object]:
        # `values` has it from `.env`, the environment from a container's secrets.
        file = os.environ.get(f"{PREFIX}API_KEY_FILE") or values.get("api_key_file")
        if file and not values.get("api_key"):
            key = Path(str(file)).read_text("utf-8").strip()
            if not key:
                raise ValueError(f"{PREFIX}API_KEY_FILE: {file} is empty; put the key into it")
            values["api_key"] = key
        return values

    @model_validator(mode="after")
    def _below_home(self) -> Self:
        # The defaults of inbox and database_url follow home. `object.__setattr__`: frozen from here
        # on.
        inbox = self.inbox if "inbox" in self.model_fields_set else self.home / "inbox"
        object.__setattr__(self, "inbox", inbox.expanduser().absolute())
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{self.home / 'pigeonhole.db'}")
        return self

    @classmethod
    def read(cls, **overrides: object) -> Self:
        """The settings of this process; raises `SettingsError` naming setting and remedy."""
        try:
            return cls(**overrides)  # type: ignore[arg-type]
        except ValidationError as error:
            lines = [
                "".join(f"{PREFIX}{str(name).upper()}: " for name in problem["loc"][:1])
                + problem["msg"].removeprefix("Value error, ")
                for problem in error.errors()
            ]
            raise SettingsError("\n".join([*lines, "See docs/settings.md."])) from None
        except OSError as error:
            raise SettingsError(f"{PREFIX}API_KEY_FILE: {error}") from None

    @property
    def ignore_patterns(self) -> tuple[str, ...]:
        """The patterns of `ignore`, one by one."""
        return tuple(filter(None, (pattern.strip() for pattern in self.ignore.split(","))))

    @property
    def is_loopback(self) -> bool:
        """Whether the API is reachable from this machine alone."""
        return self.host in LOOPBACK


class Source(NamedTuple):
    """One setting as `pigeonhole config` prints it."""

    variable: str
    value: str
    origin: str  # "environment", ".env" or "default"
    meaning: str


def sources(settings: Settings, environ: Mapping[str, str] | None = None) -> Iterator[Source]:
    """Every setting, its value and where it came from; passwords are masked."""
    found = _upper(os.environ if environ is None else environ)
    dotenv = _upper(dotenv_values(".env"))
    for name, field in Settings.model_fields.items():
        variable = f"{PREFIX}{name.upper()}"
        named = (variable, f"{variable}_FILE") if name == "api_key" else (variable,)
        if any(found.get(key) for key in named):
            origin = "environment"
        elif any(dotenv.get(key) for key in named):
            origin = ".env"
        else:
            origin = "default"
        value = getattr(settings, name)
        shown = "" if value is None else _PASSWORD.sub(r"\1***@", str(value))
        yield Source(variable, shown, origin, field.description or "")


def _upper(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Variables as pydantic finds them: in any spelling of upper and lower case."""
    return {key.upper(): value for key, value in variables.items()}
