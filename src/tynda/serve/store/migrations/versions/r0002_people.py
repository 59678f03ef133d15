"""The table of enrolled people."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "people",
        sa.Column("owner", sa.String(100), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("master", sa.String(16), nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("profiles", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_people_master", "people", ["master"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("people")
