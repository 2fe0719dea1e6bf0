"""How a study is run: Snakemake, papermill, profiles, progress and status."""
