"""Jobs, tokens and uploads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the three tables."""
    moment, plain = sa.DateTime(timezone=True), sa.JSON()
    op.create_table(
        "ntk_dist_jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("spec", plain, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("resumes", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("launcher", sa.String(16), nullable=False),
        sa.Column("run", sa.String(64)),
        sa.Column("handle", plain, nullable=False),
        sa.Column("is_cancelling", sa.Boolean, nullable=False),
        sa.Column("lease_holder", sa.String(200)),
        sa.Column("lease_until", moment),
        sa.Column("created", moment, nullable=False),
        sa.Column("updated", moment, nullable=False),
        sa.Column("started", moment),
        sa.Column("finished", moment),
        sa.Column("failure", plain),
        sa.Column("model_version", sa.Integer),
        sa.Column("score", sa.Float),
        sa.Column("report", plain),
        sa.UniqueConstraint("owner", "idempotency_key", name="ntk_dist_jobs_by_key"),
    )
    op.create_index("ntk_dist_jobs_by_state", "ntk_dist_jobs", ["state", "id"])
    op.create_index("ntk_dist_jobs_by_name", "ntk_dist_jobs", ["name", "id"])
    op.create_table(
        "ntk_dist_tokens",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("scopes", plain, nullable=False),
        sa.Column("created", moment, nullable=False),
        sa.Column("expires", moment),
        sa.Column("revoked", moment),
    )
    op.create_table(
        "ntk_dist_uploads",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("part_bytes", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("created", moment, nullable=False),
        sa.Column("completed", moment),
    )
    op.create_index("ntk_dist_uploads_by_created", "ntk_dist_uploads", ["created"])
