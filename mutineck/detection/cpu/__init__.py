"""What makes frozen detectors faster on a CPU."""
