"""Further URLs of samples: a takedown by URL finds the image under each of them, not only under that of the first crawl."""

from alembic import op

revision = "0053"
down_revision = "0052"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.sample_urls (
        sample_id bigint NOT NULL,
        url_hash bytea NOT NULL,
        source_url varchar NOT NULL,
        CONSTRAINT pk_sample_urls PRIMARY KEY (sample_id, url_hash),
        CONSTRAINT ck_sample_urls_url_hash CHECK (octet_length(url_hash) = 32),
        CONSTRAINT fk_sample_urls_sample_id FOREIGN KEY (sample_id) REFERENCES alchemist.samples (sample_id)
    );
    """)


def downgrade() -> None:
    op.execute("DROP TABLE alchemist.sample_urls")
