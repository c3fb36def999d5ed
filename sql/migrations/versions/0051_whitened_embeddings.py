"""Embeddings are whitened before they are compared, by a map in the file of the centroids; those of earlier centroids are not."""

from alembic import op

revision = "0051"
down_revision = "0050"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.cluster_centroids ADD COLUMN is_whitened boolean NOT NULL DEFAULT false;
    COMMENT ON COLUMN alchemist.cluster_centroids.is_whitened IS
    'Whether embeddings are whitened before they are compared; the map is in the file of the centroids';
    COMMENT ON COLUMN alchemist.semantic_duplicates.similarity IS
    'Cosine of the two embeddings, whitened if those of cluster_centroids are';
    """)


def downgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.cluster_centroids DROP COLUMN is_whitened;
    COMMENT ON COLUMN alchemist.semantic_duplicates.similarity IS 'Cosine of the two embeddings';
    """)
