"""What each image looked like to the model, for drift."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KINDS = ("brightness", "contrast", "sharpness")


def upgrade() -> None:
    """Apply: at once, however many rows there are; those of before have none."""
    for kind in _KINDS:
        op.add_column("results", sa.Column(kind, sa.Double))


def downgrade() -> None:
    """Take back."""
    for kind in _KINDS:
        op.drop_column("results", kind)
