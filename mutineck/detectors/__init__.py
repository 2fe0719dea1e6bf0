"""A study's detectors: their folders, outputs and the cache of both."""
