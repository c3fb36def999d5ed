"""One file per stage: `run(config) -> Report`, one screen of prose each."""
