"""One file per stage: `run(config) -> Result`, one screen of prose each."""
