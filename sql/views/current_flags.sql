-- Purpose: Return the flags of samples that are set now.
-- One row is: a sample and a label whose newest row in sample_flags sets the flag; who set it last, and when.
-- Relies on: ix_sample_flags_label_sample_id_flag_id, ix_sample_flags_sample_id.
CREATE VIEW alchemist.current_flags AS
SELECT
    newest.sample_id,
    newest.label,
    newest.comment,
    newest.flagged_by,
    newest.flagged_at,
    newest.flag_id
FROM (
    SELECT DISTINCT ON (sample_flags.sample_id, sample_flags.label) sample_flags.*
    FROM alchemist.sample_flags
    ORDER BY sample_flags.sample_id ASC, sample_flags.label ASC, sample_flags.flag_id DESC
) AS newest
WHERE newest.is_set;

COMMENT ON VIEW alchemist.current_flags IS 'Flags of samples that are set now; sample_flags has their history';
COMMENT ON COLUMN alchemist.current_flags.sample_id IS 'Sample that is flagged';
COMMENT ON COLUMN alchemist.current_flags.label IS 'good, bad, wrong_caption, unsafe, or a word that people chose';
COMMENT ON COLUMN alchemist.current_flags.comment IS 'Comment of the person who set the flag last; null without one';
COMMENT ON COLUMN alchemist.current_flags.flagged_by IS 'Person who set the flag last';
COMMENT ON COLUMN alchemist.current_flags.flagged_at IS 'When the flag was set last';
COMMENT ON COLUMN alchemist.current_flags.flag_id IS 'Key of the row in sample_flags that set it last';
