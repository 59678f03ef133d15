"""The table of recordings."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "recordings",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("finished", sa.Double),
        sa.Column("expires", sa.Double),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("master", sa.String(16), nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("result", sa.LargeBinary),
        sa.Column("correction", sa.LargeBinary),
        sa.Column("consented", sa.Double),
        sa.Column("progress", sa.Double, nullable=False),
        sa.Column("duration", sa.Double),
        sa.Column("lease", sa.String(32), nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
    )
    op.create_index("ix_recordings_owner_created", "recordings", ["owner", "created"])
    op.create_index("ix_recordings_state_created", "recordings", ["state", "created"])
    op.create_index("ix_recordings_master", "recordings", ["master"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("recordings")
