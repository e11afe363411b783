"""What a webhook is still to be told of."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_counter = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "outbox",
        sa.Column("seq", _counter, nullable=False, autoincrement=True),
        sa.Column("result_id", sa.String(36), nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", _moment),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_outbox"),
        sa.UniqueConstraint("result_id", name="uq_outbox_result_id"),
    )
    op.create_index("ix_outbox_due_at_seq", "outbox", ["due_at", "seq"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("outbox")
