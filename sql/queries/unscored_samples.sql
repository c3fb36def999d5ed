-- Purpose: Return the records of one shard whose samples have no score yet, with the byte ranges of their images.
-- Parameters: shard_id bigint, rater_id integer, image_exts text[] (extensions that are images).
-- One row is: a readable location of the shard, in the order of the tar; a sample that the shard contains twice is returned twice.
--   is_withheld: the image was taken down, and a scorer, which may send it to a server, does not get it.
-- Relies on: pk_sample_locations, pk_samples, the rater's partition of pk_scores, pk_heuristic_scores, uq_takedowns_image_hash.
-- Safe to re-run: yes.
SELECT
    sample_locations.ordinal,
    sample_locations.key,
    samples.sample_id,
    samples.caption,
    samples.image_hash,
    picture.byte_offset,
    picture.size_bytes,
    heuristic_scores.clarity IS NOT NULL AS is_measured,
    raters.kind = 'scorer' AND takedowns.image_hash IS NOT NULL AS is_withheld
FROM alchemist.sample_locations
INNER JOIN alchemist.samples ON sample_locations.sample_id = samples.sample_id
INNER JOIN alchemist.raters ON raters.rater_id = :rater_id
LEFT JOIN alchemist.takedowns ON samples.image_hash = takedowns.image_hash
LEFT JOIN alchemist.scores
    ON samples.sample_id = scores.sample_id AND scores.rater_id = :rater_id
LEFT JOIN alchemist.heuristic_scores ON samples.sample_id = heuristic_scores.sample_id
LEFT JOIN LATERAL (
    SELECT
        member.byte_offset,
        member.size_bytes
    FROM
        unnest(sample_locations.file_exts, sample_locations.file_offsets, sample_locations.file_sizes)
            AS member (ext, byte_offset, size_bytes)
    WHERE member.ext = ANY(CAST(:image_exts AS text[]))
    ORDER BY member.byte_offset
    LIMIT 1
) AS picture ON TRUE
WHERE sample_locations.shard_id = :shard_id AND scores.sample_id IS NULL
ORDER BY sample_locations.ordinal
