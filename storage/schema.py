"""The tables, valid on SQLite and on PostgreSQL.

`deliveries` is the queue: one row per file that is in the inbox and being worked on (or that policy
`keep` has left there). `results` is what users ask for: one row per image, for ever. `outbox` holds
the results that a webhook is still to be told of.
"""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps it as naive text that sorts, PostgreSQL as timestamptz."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; SQLite's driver writes no zone."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From what the driver read to aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_Counter = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts only in INTEGER

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("path", LargeBinary, nullable=False),  # relative to the inbox, as the file system has it
    Column("device", BigInteger, nullable=False),
    Column("inode", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),  # claimed | waiting | classified | kept
    Column("owner", String(255), nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),  # for `waiting`: not before this time
    Column("attempts", Integer, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("error_code", String(64)),
    Column("error_detail", Text),
    Column("postponed", Integer, nullable=False, server_default="0"),  # so many of the attempts
    UniqueConstraint(
        "path", "device", "inode", "size_bytes", "mtime_ns", name="uq_deliveries_stamp"
    ),
    Index("ix_deliveries_state", "state", "lease_until"),
)

watchers = Table(
    "watchers",
    metadata,
    Column("owner", String(255), primary_key=True),  # as in deliveries
    Column("seen_at", UtcDateTime, nullable=False),
    Column("pause", Text),  # why it takes no file
    Column("mode", String(16), nullable=False),  # native | polling
    Column("deafness", Text),  # why it polls
    Column("inbox_files", Integer, nullable=False),
    Column("oldest_at", UtcDateTime),
    Column("heartbeat_at", UtcDateTime),
)

results = Table(
    "results",
    metadata,
    Column("seq", _Counter, primary_key=True, autoincrement=True),  # order of commit, for cursors
    Column("id", String(36), nullable=False, unique=True),
    Column("delivery_id", String(36), unique=True),
    Column("filename", Text, nullable=False),
    Column("source", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("label", Text),
    Column("confidence", Double),
    Column("scores", JSON, nullable=False),  # [[label, score], ...], best first
    Column("needs_review", Boolean, nullable=False),
    Column("corrected_label", Text),
    Column("reviewed_at", UtcDateTime),
    Column("error_code", String(64)),
    Column("error_detail", Text),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("width_px", Integer),
    Column("height_px", Integer),
    Column("format", String(16)),
    Column("path", Text),
    Column("duplicate_of", String(36)),
    Column("model_name", Text, nullable=False),
    Column("model_version", String(64), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("classified_at", UtcDateTime, nullable=False),
    Column("latency_ms", Double, nullable=False),
    # What the model was shown, 0..1, for drift (see `core.types.InputStatistics`); null where
    # nothing was shown, and in rows of before it was kept.
    Column("brightness", Double),
    Column("contrast", Double),
    Column("sharpness", Double),
    Index("ix_results_answer", "sha256", "model_name", "model_version", "status"),
    Index("ix_results_label_seq", "label", "seq"),
    Index("ix_results_status_seq", "status", "seq"),
    Index("ix_results_classified_at", "classified_at"),
    # What waits for people, the least sure first or the newest; and what they said. All small.
    Index(
        "ix_results_to_review",
        "needs_review",
        "confidence",
        sqlite_where=text("needs_review = 1"),
        postgresql_where=text("needs_review"),
    ),
    Index(
        "ix_results_needs_review_seq",
        "needs_review",
        "seq",
        sqlite_where=text("needs_review = 1"),
        postgresql_where=text("needs_review"),
    ),
    Index(
        "ix_results_reviewed",
        "reviewed_at",
        "label",
        "corrected_label",
        sqlite_where=text("reviewed_at IS NOT NULL"),
        postgresql_where=text("reviewed_at IS NOT NULL"),
    ),
    sqlite_autoincrement=True,  # a number is never used twice, whatever is deleted
)

outbox = Table(
    "outbox",
    metadata,
    Column("seq", _Counter, primary_key=True, autoincrement=True),
    Column("result_id", String(36), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", UtcDateTime),  # held or waiting until then; null: given up
    Column("error", Text),
    Index("ix_outbox_due_at_seq", "due_at", "seq"),
)

# Results counted per period, so that statistics need not read them (see `storage.statistics`).
# `period` is the start of a day, an hour or a minute: 2026-11-22, 2026-11-22T09, 2026-11-22T09:30.
counts = Table(
    "counts",
    metadata,
    Column("resolution", String(6), primary_key=True),  # day | hour | minute
    Column("period", String(16), primary_key=True),
    Column("status", String(16), primary_key=True),
    Column("label", Text, primary_key=True),  # empty where there is none
    Column("images", BigInteger, nullable=False),
)
latencies = Table(
    "latencies",
    metadata,
    Column("resolution", String(6), primary_key=True),
    Column("period", String(16), primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("images", BigInteger, nullable=False),
)
counted = Table(
    "counted",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1: there is one row
    Column("seq", BigInteger, nullable=False),  # the last result that is in `counts`
)

# Keys of the API: only their hashes.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("scopes", String(64), nullable=False),  # with commas
    Column("sha256", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
)

# What every process of this Pigeonhole must know and nobody else: what cursors are signed with.
secrets = Table(
    "secrets",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# Answers that are given again when a client repeats its request with the same Idempotency-Key.
repeatable = Table(
    "repeatable",
    metadata,
    Column("sha256", String(64), primary_key=True),  # of the key, and of whose it is
    Column("request_sha256", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("answer", JSON(none_as_null=True)),  # null while it is being worked on
    Index("ix_repeatable_created_at", "created_at"),
)
