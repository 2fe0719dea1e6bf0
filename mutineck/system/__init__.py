"""Files, seeds, locks, signals and downloads; knows no study."""
