"""Searches over an experiment's settings with Optuna."""
