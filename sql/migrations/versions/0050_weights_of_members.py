"""How often an epoch reads a member: repeats and weights of a subset version."""

from alembic import op

revision = "0050"
down_revision = "0049"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.subsets ADD COLUMN epoch_size bigint;
    -- NOT VALID: the new column is null in every row, so nothing has to be read.
    ALTER TABLE alchemist.subsets ADD CONSTRAINT ck_subsets_epoch_size CHECK (epoch_size >= n_samples) NOT VALID;
    ALTER TABLE alchemist.subsets VALIDATE CONSTRAINT ck_subsets_epoch_size;
    ALTER TABLE alchemist.subset_samples ADD COLUMN weight double precision;
    COMMENT ON COLUMN alchemist.subsets.epoch_size IS
    'Number of samples that an epoch reads if members are repeated or weighted; null: each member once';
    COMMENT ON COLUMN alchemist.subsets.manifest_sha256 IS
    'sha256 over the members'' pair hashes in order, and their weights if any: equal hashes mean equal members';
    COMMENT ON COLUMN alchemist.subset_samples.weight IS 'How often an epoch reads the member on average; null: once';
    COMMENT ON COLUMN alchemist.models.arm IS
    'What it was trained on: subset, random, planted (the arm oracle), full, minus_loss, validation or subset+validation';
    """)


def downgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.subset_samples DROP COLUMN weight;
    ALTER TABLE alchemist.subsets DROP COLUMN epoch_size;
    COMMENT ON COLUMN alchemist.subsets.manifest_sha256 IS
    'sha256 over the members'' pair hashes in order: equal hashes mean equal members';
    COMMENT ON COLUMN alchemist.models.arm IS
    'What it was trained on: subset, random, planted (the arm oracle), full or minus_loss';
    """)
