-- Purpose: Return the label of each dataset in metrics, so that labels stay few: the five newest training datasets by name, the
--   rest as 'other'; removed datasets are left out.
-- One row is: a training dataset and its label.
-- Relies on: pk_datasets; a handful of rows.
CREATE VIEW alchemist.labelled_datasets AS
SELECT
    dataset_id,
    name,
    CASE WHEN row_number() OVER (ORDER BY dataset_id DESC) <= 5 THEN name ELSE 'other' END AS label
FROM alchemist.datasets
WHERE role = 'train' AND removed_at IS NULL;

COMMENT ON VIEW alchemist.labelled_datasets IS 'Label of each training dataset in metrics: its name for the five newest, otherwise other, so that labels stay few';
COMMENT ON COLUMN alchemist.labelled_datasets.dataset_id IS 'Key of the dataset';
COMMENT ON COLUMN alchemist.labelled_datasets.name IS 'Name of the dataset';
COMMENT ON COLUMN alchemist.labelled_datasets.label IS 'Label in metrics';
