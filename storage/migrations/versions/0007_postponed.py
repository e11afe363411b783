"""How many attempts at a delivery ended with its postponement: those did not end with a death."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "deliveries", sa.Column("postponed", sa.Integer, nullable=False, server_default="0")
    )


def downgrade() -> None:
    """Take back."""
    op.drop_column("deliveries", "postponed")
