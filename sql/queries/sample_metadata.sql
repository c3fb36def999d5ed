-- Purpose: Return what the crawl says about samples, for scorers that read it.
-- Parameters: sample_ids bigint[].
-- One row is: a sample with its attributes and metadata as one JSON object; an attribute of the sample wins over metadata of its name.
-- Relies on: pk_samples.
-- Safe to re-run: yes.
SELECT
    samples.sample_id,
    coalesce(samples.metadata, '{}') || jsonb_strip_nulls(
        to_jsonb(samples)
        - ARRAY[
            'sample_id', 'pair_hash', 'pair_hash64', 'image_hash', 'caption_hash', 'perceptual_hash', 'caption', 'metadata', 'created_at'
        ]
    ) AS metadata
FROM alchemist.samples
WHERE samples.sample_id = ANY(CAST(:sample_ids AS bigint[]))
