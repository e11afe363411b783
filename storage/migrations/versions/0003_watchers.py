"""What every running watcher says of itself."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "watchers",
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("seen_at", _moment, nullable=False),
        sa.Column("pause", sa.Text),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("deafness", sa.Text),
        sa.Column("inbox_files", sa.Integer, nullable=False),
        sa.Column("oldest_at", _moment),
        sa.Column("heartbeat_at", _moment),
        sa.PrimaryKeyConstraint("owner", name="pk_watchers"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("watchers")
