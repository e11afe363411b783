"""Counts per period, keys of the API, secrets, repeatable requests, and what waits for review."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "counts",
        sa.Column("resolution", sa.String(6), nullable=False),
        sa.Column("period", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("images", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("resolution", "period", "status", "label", name="pk_counts"),
    )
    op.create_table(
        "latencies",
        sa.Column("resolution", sa.String(6), nullable=False),
        sa.Column("period", sa.String(16), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("images", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("resolution", "period", "step", name="pk_latencies"),
    )
    op.create_table(
        "counted",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_counted"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("name", name="uq_api_keys_name"),
        sa.UniqueConstraint("sha256", name="uq_api_keys_sha256"),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
    )
    op.create_table(
        "repeatable",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("answer", sa.JSON),
        sa.PrimaryKeyConstraint("sha256", name="pk_repeatable"),
    )
    op.create_index("ix_repeatable_created_at", "repeatable", ["created_at"])
    op.create_index(
        "ix_results_to_review",
        "results",
        ["needs_review", "confidence"],
        sqlite_where=sa.text("needs_review = 1"),
        postgresql_where=sa.text("needs_review"),
    )
    op.create_index(
        "ix_results_reviewed",
        "results",
        ["reviewed_at", "label", "corrected_label"],
        sqlite_where=sa.text("reviewed_at IS NOT NULL"),
        postgresql_where=sa.text("reviewed_at IS NOT NULL"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_results_reviewed", "results")
    op.drop_index("ix_results_to_review", "results")
    for table in ("repeatable", "secrets", "api_keys", "counted", "latencies", "counts"):
        op.drop_table(table)
