"""Clusters stage: what is typical of a category, as k-means centroids of its instance vectors."""
