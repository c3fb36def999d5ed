# Written by `make generate` from the config models; a test compares. Do not edit.
# ruff: noqa
FORMS = {
    "nightly_rescore": {
        "dataset": {"default": "", "type": "string", "title": "Dataset", "description": "Training dataset; empty: every registered one", "pattern": "^[^{}]*$"},
        "root": {"default": "", "type": "string", "title": "Root", "description": "Folder or s3:// address of the shards; empty: the registered one", "pattern": "^[^{}]*$"},
        "crawl_date": {"default": "", "type": "string", "title": "Crawl date", "description": "Night as YYYY-MM-DD; empty: the partition key, else the day of the run", "pattern": "^([0-9]{4}-[0-9]{2}-[0-9]{2})?$"},
    },
    "train_rater": {
        "preset": {"default": "tiny", "type": "string", "title": "Preset", "description": "Defaults by name", "pattern": "^[^{}]*$"},
        "dataset": {"type": "string", "title": "Dataset", "description": "Training dataset whose pairs are to be valued", "minLength": 1, "pattern": "^[^{}]*$"},
        "validation": {"type": "string", "title": "Validation", "description": "Validation dataset: what the model shall be good at", "minLength": 1, "pattern": "^[^{}]*$"},
        "rule": {"default": "alignment", "type": "string", "title": "Rule", "description": "What makes a pair valuable", "enum": ["alignment", "loss"]},
        "seed": {"default": 0, "type": "integer", "title": "Seed", "description": "Seed of initialisation and order", "minimum": 0},
    },
    "build_subset": {
        "name": {"default": "", "type": "string", "title": "Name", "description": "Name of the subset; empty: <dataset>-<strategy>-r<percent>", "pattern": "^[A-Za-z0-9._-]*$"},
        "dataset": {"type": "string", "title": "Dataset", "description": "Training dataset to draw from", "minLength": 1, "pattern": "^[^{}]*$"},
        "retention": {"default": 0.5, "type": "number", "title": "Retention", "description": "Share of the eligible pairs to keep", "exclusiveMinimum": 0, "maximum": 1},
        "strategy": {"default": "auto", "type": "string", "title": "Strategy", "description": "How pairs are drawn from their ranks", "enum": ["auto", "shift_gsample", "gsample", "top_k", "block", "random"]},
        "drop_top_ratio": {"default": None, "type": ["number", "null"], "title": "Drop top ratio", "description": "Share of highest-ranked pairs never drawn; empty: the strategy's own", "minimum": 0, "exclusiveMaximum": 1},
        "mean_rank": {"default": None, "type": ["number", "null"], "title": "Mean rank", "description": "Centre of the draw, 0 = highest rated; empty: the strategy's own", "minimum": 0, "maximum": 1},
        "std_rank": {"default": None, "type": ["number", "null"], "title": "Spread of ranks", "description": "Spread of the draw; empty: the strategy's own", "exclusiveMinimum": 0, "maximum": 1},
        "seed": {"default": 0, "type": "integer", "title": "Seed", "description": "Seed of the draw", "minimum": 0},
        "materialize": {"default": False, "type": "boolean", "title": "Materialize", "description": "Write the members as tar shards"},
        "dry_run": {"default": False, "type": "boolean", "title": "Dry run", "description": "Only preview what would be drawn"},
    },
    "evaluate_subset": {
        "dataset": {"default": "", "type": "string", "title": "Dataset", "description": "Training dataset; empty: every one", "pattern": "^[^{}]*$"},
        "arms": {"default": "subset,random", "type": "string", "title": "Arms", "description": "Arms to train: subset, random, planted, full", "pattern": "^(subset|random|planted|full)(,(subset|random|planted|full))*$"},
        "seeds": {"default": "0,1", "type": "string", "title": "Seeds", "description": "Seeds of each arm", "pattern": "^[0-9]+(,[0-9]+)*$"},
        "truth": {"default": "", "type": "string", "title": "Truth", "description": "Table of planted truth, for the planted arm", "pattern": "^[^{}]*$"},
        "evaluation": {"default": "", "type": "string", "title": "Evaluation", "description": "Evaluation dataset; empty: the registered one", "pattern": "^[^{}]*$"},
    },
}
