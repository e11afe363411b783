"""The queue and the results."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_counter = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("path", sa.LargeBinary, nullable=False),
        sa.Column("device", sa.BigInteger, nullable=False),
        sa.Column("inode", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("lease_until", _moment, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("received_at", _moment, nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_detail", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint(
            "path", "device", "inode", "size_bytes", "mtime_ns", name="uq_deliveries_stamp"
        ),
    )
    op.create_index("ix_deliveries_state", "deliveries", ["state", "lease_until"])
    op.create_table(
        "results",
        sa.Column("seq", _counter, nullable=False, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("delivery_id", sa.String(36)),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("label", sa.Text),
        sa.Column("confidence", sa.Double),
        sa.Column("scores", sa.JSON, nullable=False),
        sa.Column("needs_review", sa.Boolean, nullable=False),
        sa.Column("corrected_label", sa.Text),
        sa.Column("reviewed_at", _moment),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_detail", sa.Text),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("width_px", sa.Integer),
        sa.Column("height_px", sa.Integer),
        sa.Column("format", sa.String(16)),
        sa.Column("path", sa.Text),
        sa.Column("duplicate_of", sa.String(36)),
        sa.Column("model_name", sa.Text, nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("received_at", _moment, nullable=False),
        sa.Column("classified_at", _moment, nullable=False),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_results"),
        sa.UniqueConstraint("id", name="uq_results_id"),
        sa.UniqueConstraint("delivery_id", name="uq_results_delivery_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_results_answer", "results", ["sha256", "model_name", "model_version", "status"]
    )
    op.create_index("ix_results_label_seq", "results", ["label", "seq"])
    op.create_index("ix_results_status_seq", "results", ["status", "seq"])
    op.create_index("ix_results_classified_at", "results", ["classified_at"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("results")
    op.drop_table("deliveries")
