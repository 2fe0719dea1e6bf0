"""The one door to mmdet and mmcv: building, loading, training and measuring detectors, their maps and proposals."""
