"""Every setting: where and when things happen. What changes an answer is in params.yaml."""

import base64
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import SettingsError
from core.types import Provider

PREFIX = "PIGEONHOLE_"
SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets of Standard Webhooks begin with
_PASSWORD = re.compile(r"(://[^:/@]*:)[^/]*@")  # of postgresql://user:password@host/name
SECRETS = ("api_key", "webhook_secret")  # each may lie in a file: NAME_FILE
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
    allowed_hosts: str = Field(
        "",
        description="names, with commas, by which clients may call a loopback API besides its own",
    )
    cors_origins: str = Field(
        "", description="web pages, with commas, that may use the API: https://pictures.example.org"
    )
    ignore: str = Field(
        "",
        description="more file names to ignore, as patterns with commas between: *.bak, raw/*",
    )
    done_suffix: str = Field(
        "", description="take FILE only when FILE and this suffix is there too, such as .done"
    )
    webhook_url: str = Field("", description="told of every result, by a signed POST")
    webhook_secret: SecretStr | None = Field(
        None, description="signs what the webhook is told: whsec_ and base64 of 24 to 64 bytes"
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
        "cpu", description="what the model runs on: cpu or cuda (docs/performance.md)"
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
    def _secrets_from_files(cls, values: dict[str, object]) -> dict[str, object]:
        for name in SECRETS:
            # `values` has it from `.env`, the environment from a container's secrets.
            variable = f"{PREFIX}{name.upper()}_FILE"
            file = os.environ.get(variable) or values.get(f"{name}_file")
            if file and not values.get(name):
                values[name] = _content(variable, Path(str(file)))
        return values

    @model_validator(mode="after")
    def _signed_webhook(self) -> Self:
        if not self.webhook_url:
            return self
        if not _is_web_address(self.webhook_url):
            raise ValueError(f"{PREFIX}WEBHOOK_URL: write https://host/path, with no user in it")
        if not self.webhook_secrets or not all(map(_is_secret, self.webhook_secrets)):
            raise ValueError(
                f"{PREFIX}WEBHOOK_SECRET: the receiver must be able to tell us from others. Make "
                'one with: echo "whsec_$(openssl rand -base64 32)"'
            )
        return self

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

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """One secret, or two with a space between while one takes the place of the other."""
        return tuple(self.webhook_secret.get_secret_value().split()) if self.webhook_secret else ()

    @property
    def ignore_patterns(self) -> tuple[str, ...]:
        """The patterns of `ignore`, one by one."""
        return tuple(filter(None, (pattern.strip() for pattern in self.ignore.split(","))))

    @property
    def is_loopback(self) -> bool:
        """Whether the API is reachable from this machine alone."""
        return self.host in LOOPBACK


def _content(variable: str, file: Path) -> str:
    try:
        content = file.read_text("utf-8").strip()
    except OSError as error:
        raise ValueError(f"{variable}: {error}") from None
    if not content:
        raise ValueError(f"{variable}: {file} is empty; put the secret into it")
    return content


def _is_web_address(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port  # raises where it is none
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.hostname) and not url.username


def _is_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        return False
    return text.startswith(SECRET_PREFIX) and 24 <= len(key) <= 64


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
        named = (variable, f"{variable}_FILE") if name in SECRETS else (variable,)
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
