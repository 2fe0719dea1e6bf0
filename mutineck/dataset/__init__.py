"""Stage 1, dataset: Pascal VOC, COCO, YOLO or generated scenes become COCO documents, split and checked."""

from mutineck.dataset.records import DatasetError, Defect
from mutineck.dataset.stage import DatasetSummary, convert

__all__ = ["DatasetError", "DatasetSummary", "Defect", "convert"]
