"""MutiNeck-KD: several detectors teach one small one."""

__version__ = "0.1.0"
