"""Figures, drawn from stored results only, each with its data; and the report that tells the run's story."""

from __future__ import annotations

from mutineck.figures.exploration import explain, explore
from mutineck.figures.registry import Drawn, draw, draw_all, names, show

__all__ = ["Drawn", "draw", "draw_all", "explain", "explore", "names", "show"]
