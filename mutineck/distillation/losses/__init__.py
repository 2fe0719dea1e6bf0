"""Distillation losses on feature maps and instance vectors: pure torch, one method a file."""
