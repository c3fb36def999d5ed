"""Pictures that look alike: the first pair of each group, indexed by the bands of its perceptual hash, and the pairs that came later."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    # Two hashes that differ in at most 2 of 64 bits agree in one of 3 bands of 22, 21 and 21: an index each finds it.
    op.execute("""
    CREATE TABLE alchemist.distinct_images (
        sample_id bigint NOT NULL,
        perceptual_hash bigint,
        band_0 integer GENERATED ALWAYS AS ((perceptual_hash >> 42) & 4194303) STORED,
        band_1 integer GENERATED ALWAYS AS ((perceptual_hash >> 21) & 2097151) STORED,
        band_2 integer GENERATED ALWAYS AS (perceptual_hash & 2097151) STORED,
        CONSTRAINT pk_distinct_images PRIMARY KEY (sample_id),
        CONSTRAINT fk_distinct_images_sample_id FOREIGN KEY (sample_id) REFERENCES alchemist.samples (sample_id)
    );
    CREATE INDEX ix_distinct_images_band_0_perceptual_hash ON alchemist.distinct_images (band_0, perceptual_hash);
    CREATE INDEX ix_distinct_images_band_1_perceptual_hash ON alchemist.distinct_images (band_1, perceptual_hash);
    CREATE INDEX ix_distinct_images_band_2_perceptual_hash ON alchemist.distinct_images (band_2, perceptual_hash);
    CREATE TABLE alchemist.duplicate_samples (
        sample_id bigint NOT NULL,
        first_sample_id bigint NOT NULL,
        distance smallint,
        is_same_image boolean NOT NULL,
        CONSTRAINT pk_duplicate_samples PRIMARY KEY (sample_id),
        CONSTRAINT ck_duplicate_samples_other CHECK (sample_id <> first_sample_id),
        CONSTRAINT ck_duplicate_samples_distance CHECK (distance BETWEEN 0 AND 2 OR is_same_image),
        CONSTRAINT fk_duplicate_samples_sample_id FOREIGN KEY (sample_id) REFERENCES alchemist.samples (sample_id),
        CONSTRAINT fk_duplicate_samples_first_sample_id FOREIGN KEY (first_sample_id)
            REFERENCES alchemist.distinct_images (sample_id)
    );
    CREATE INDEX ix_duplicate_samples_first_sample_id ON alchemist.duplicate_samples (first_sample_id);
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.duplicate_samples;
    DROP TABLE alchemist.distinct_images;
    """)
