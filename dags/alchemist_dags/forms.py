"""The forms of the DAGs. Written by `make generate` from the config models; a test compares: do not edit."""

FORMS = {
    "nightly_rescore": {
        "dataset": {'type': ['string', 'null'], 'default': None, 'title': 'Dataset', 'description': 'Dataset to ingest; default: all registered training datasets'},
        "root": {'type': ['string', 'null'], 'default': None, 'title': 'Root', 'description': 'Folder or s3:// address of the shards; required when the dataset is new'},
        "crawl_date": {'type': ['string', 'null'], 'default': None, 'title': 'Crawl date', 'format': 'date', 'description': "Ingest only shards of this crawl date (YYYY-MM-DD): the dated folder in a shard's path, or this date if there is none"},
    },
    "train_rater": {
        "preset": {'type': ['string', 'null'], 'default': None, 'title': 'Preset', 'description': 'Size of the networks; empty: as the project file says, which must then name one', 'enum': [None, 'tiny', 'gpu24', 'gpu80', 'paper']},
        "recipe": {'type': ['string', 'null'], 'default': None, 'title': 'Recipe', 'description': 'Scoring rule and rank window; empty: ours, rule alignment', 'enum': [None, 'ours', 'paper', 'paper_exact', 'learnability']},
        "dataset": {'type': 'string', 'title': 'Dataset', 'description': 'Training dataset that the rater learns to rate', 'minLength': 1},
        "validation": {'type': 'string', 'title': 'Validation', 'description': 'Validation dataset: samples like those that downstream models should be good at', 'minLength': 1},
        "rule": {'type': ['string', 'null'], 'default': None, 'title': 'Rule', 'description': "Scoring rule. alignment: how much lower a sample's loss is under the proxy that also trains on validation data (Eq. 6). loss: a low loss under that proxy (Eq. 9). learnability: how much further training on validation data alone lowers a proxy's loss; it trains no rater network; empty: the value of the preset", 'enum': [None, 'alignment', 'loss', 'learnability']},
        "seed": {'default': None, 'title': 'Seed', 'description': 'Seed of the initial weights and of the data order; empty: the value of the preset', 'if': {'type': 'string'}, 'then': {'allowed': 'at least 0, below 2147483648', 'pattern': '^\\s*[0-9]{1,10}\\s*$'}, 'else': {'type': ['integer', 'null'], 'minimum': 0, 'exclusiveMaximum': 2147483648}},
        "max_train_steps": {'default': None, 'title': 'Steps', 'description': "Training steps after the proxy's warm-up; early stopping may end the run before; empty: the value of the preset", 'if': {'type': 'string'}, 'then': {'allowed': 'at least 1, at most 10000000', 'pattern': '^\\s*[0-9]{1,8}\\s*$'}, 'else': {'type': ['integer', 'null'], 'minimum': 1, 'maximum': 10000000}},
        "max_samples": {'default': None, 'title': 'Max samples', 'description': 'Use at most this many samples of each dataset (those with the smallest hashes); default: as many as the training steps need', 'if': {'type': 'string'}, 'then': {'allowed': 'at least 64', 'pattern': '^\\s*[0-9]{1,10}\\s*$'}, 'else': {'type': ['integer', 'null'], 'minimum': 64}},
    },
    "build_subset": {
        "dataset": {'type': 'string', 'title': 'Dataset', 'description': 'Training datasets to select from, separated by commas', 'minLength': 1},
        "retention": {'default': '0.2', 'title': 'Retention', 'description': 'Fraction of the eligible samples to keep, such as 0.2 or 20%', 'if': {'type': 'string'}, 'then': {'allowed': 'above 0, at most 1; such as 0.2 or 20%', 'pattern': '^\\s*(?![0.\\s%]*$)(0*\\.[0-9]+|0+\\.?|0*1\\.?0*|([0-9]{1,2}(\\.[0-9]+)?|100(\\.0+)?)\\s*%)\\s*$'}, 'else': {'type': 'number', 'exclusiveMinimum': 0, 'maximum': 1}},
        "name": {'type': ['string', 'null'], 'default': None, 'title': 'Name', 'pattern': '^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$', 'description': 'Name of the subset; default: <dataset>-<strategy>-r<percent>'},
        "strategy": {'type': 'string', 'default': 'auto', 'title': 'Strategy', 'description': 'How samples are chosen by rank. auto: the rank window that tune-selection found for this rater; if there is none, shift_gsample for scoring rule loss, otherwise head_gsample. shift_gsample: sampled with a normal density around --mean-rank; the highest ranks (--drop-top-ratio) are never selected (Eq. 11). gsample: sampled with a normal density around --mean-rank. head_gsample: sampled with a density that is highest at rank 0 (the best score) and falls off with --std-rank. top_k: the highest scores. block: all samples from --start-rank on, until the subset is full. random: all samples with the same probability', 'enum': ['auto', 'shift_gsample', 'gsample', 'head_gsample', 'top_k', 'block', 'random']},
        "drop_top_ratio": {'default': None, 'title': 'Drop top ratio', 'description': 'Fraction of the highest ranks that is never kept; empty: 0.25 for shift_gsample', 'if': {'type': 'string'}, 'then': {'allowed': 'at least 0, below 1; such as 0.2 or 20%', 'pattern': '^\\s*(?!0*1\\.?0*\\s*$|0*100)(0*\\.[0-9]+|0+\\.?|0*1\\.?0*|([0-9]{1,2}(\\.[0-9]+)?|100(\\.0+)?)\\s*%)\\s*$'}, 'else': {'type': ['number', 'null'], 'minimum': 0, 'exclusiveMaximum': 1}},
        "mean_rank": {'default': None, 'title': 'Mean rank', 'description': 'Rank that is kept most often, 0 = highest score; empty: 0.625 for shift_gsample, 0.5 for gsample', 'if': {'type': 'string'}, 'then': {'allowed': 'at least 0, at most 1; such as 0.2 or 20%', 'pattern': '^\\s*(0*\\.[0-9]+|0+\\.?|0*1\\.?0*|([0-9]{1,2}(\\.[0-9]+)?|100(\\.0+)?)\\s*%)\\s*$'}, 'else': {'type': ['number', 'null'], 'minimum': 0, 'maximum': 1}},
        "std_rank": {'default': None, 'title': 'Std rank', 'description': 'Standard deviation of the density, in ranks; empty: 0.125 for shift_gsample, 0.1667 for gsample, 0.15 for head_gsample', 'if': {'type': 'string'}, 'then': {'allowed': 'at least 0.001, at most 10', 'pattern': '^\\s*([0-9]{1,2}(\\.[0-9]*)?|\\.[0-9]+)\\s*$'}, 'else': {'type': ['number', 'null'], 'minimum': 0.001, 'maximum': 10}},
        "start_rank": {'default': None, 'title': 'Start rank', 'description': 'First rank of strategy block, 0 = highest score; empty: 0.4', 'if': {'type': 'string'}, 'then': {'allowed': 'at least 0, below 1; such as 0.2 or 20%', 'pattern': '^\\s*(?!0*1\\.?0*\\s*$|0*100)(0*\\.[0-9]+|0+\\.?|0*1\\.?0*|([0-9]{1,2}(\\.[0-9]+)?|100(\\.0+)?)\\s*%)\\s*$'}, 'else': {'type': ['number', 'null'], 'minimum': 0, 'exclusiveMaximum': 1}},
        "seed": {'default': '0', 'title': 'Seed', 'description': 'Seed of the sampling', 'if': {'type': 'string'}, 'then': {'allowed': 'at least 0, below 9007199254740992', 'pattern': '^\\s*[0-9]{1,16}\\s*$'}, 'else': {'type': 'integer', 'minimum': 0, 'exclusiveMaximum': 9007199254740992}},
        "rater": {'type': 'string', 'default': 'production', 'title': 'Rater', 'description': 'Rater whose scores rank the samples: its name, or production, or newest'},
        "dedup": {'type': 'string', 'default': 'exact', 'title': 'Dedup', 'description': 'Which duplicates are removed; the sample that was ingested first is kept. exact: same image bytes. near: also perceptual hashes within 2 bits. off: keep all', 'enum': ['exact', 'near', 'off']},
        "rescale": {'type': 'boolean', 'default': False, 'title': 'Rescale', 'description': 'Compute the ranks from the current scores instead of the stored rank scale; members may then leave the subset because their ranks changed'},
        "materialize": {'type': 'boolean', 'default': False, 'title': 'Materialize', 'description': 'Write the members as tar shards with a verified manifest'},
        "dry_run": {'type': 'boolean', 'default': False, 'title': 'Dry run', 'description': 'Only preview what would be selected'},
        "approve": {'type': 'boolean', 'default': False, 'title': 'Approve', 'description': 'Ask a person before the version is published'},
    },
    "evaluate_subset": {
        "preset": {'type': ['string', 'null'], 'default': None, 'title': 'Preset', 'description': 'Size of the networks; empty: as the project file says, which must then name one', 'enum': [None, 'tiny', 'gpu24', 'gpu80', 'paper', 'flux_mini']},
        "arms": {'type': 'string', 'default': 'subset,random', 'title': 'Arms', 'description': 'Arms, separated by commas: subset, random (same size), minus_loss (ranked without a rater, by a low loss under a model that is trained on the validation dataset), oracle (samples known to be good), full'},
        "seeds": {'type': 'string', 'default': '0,1,2', 'title': 'Seeds', 'description': 'Seeds, separated by commas; all arms of a seed start from the same weights. Several seeds give an interval'},
        "truth": {'type': ['string', 'null'], 'default': None, 'title': 'Truth', 'description': 'truth.parquet of a synthetic corpus, with the kind of each sample; required by arm oracle'},
        "evaluation": {'type': ['string', 'null'], 'default': None, 'title': 'Evaluation', 'description': 'Evaluation dataset; default: the one set by alchemist dataset set-default'},
        "dataset": {'type': ['string', 'null'], 'default': None, 'title': 'Dataset', 'description': 'Training dataset; default: all'},
    },
}

# Current names of renamed fields, by their former names.
RENAMED = {
    "nightly_rescore": {},
    "train_rater": {'n_steps': 'max_train_steps', 'max_pairs': 'max_samples'},
    "build_subset": {'duplicates': 'dedup'},
    "evaluate_subset": {},
}
