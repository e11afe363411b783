"""What waits for review, in the order of commit: the newest page of it is found without sorting."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "ix_results_needs_review_seq",
        "results",
        ["needs_review", "seq"],
        sqlite_where=sa.text("needs_review = 1"),
        postgresql_where=sa.text("needs_review"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_results_needs_review_seq", "results")
