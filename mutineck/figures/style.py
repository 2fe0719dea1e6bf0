"""How every figure of this project looks, and the one way in which a figure reaches the disk."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.figure import Figure

from mutineck.study.arms import ALONE
from mutineck.study.stage import Study
from mutineck.system.files import atomic_path, read_json, write_json, write_text
from mutineck.system.processes import one_after_another

if TYPE_CHECKING:
    import pandas as pd

COLUMN = 3.4
"""Width of a figure in one column of a two-column page, inches."""
TWO_COLUMNS = 7.0
"""Width of a figure across both columns, inches."""
DPI = 200
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*")
DASHES: tuple[Any, ...] = ("--", ":", "-.", (0, (6, 2)), (0, (1, 3)), (0, (4, 2, 1, 2, 1, 2)))

# Okabe & Ito, https://jfly.uni-koeln.de/color: told apart under every common colour blindness. Yellow comes
# late, being faint on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
GREY = "#6E6E6E"
MATCHED, FALSE, MISSED = "#0072B2", "#D55E00", "#F0E442"

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so it is the same on every machine
    "text.parse_math": False,  # a category may hold a dollar sign
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": False,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "image.interpolation": "auto",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # text stays text in the PDF
    "ps.fonttype": 42,
    "savefig.bbox": None,  # a tight box would change the printed width
}

# Deuteranopia and protanopia at full severity in linear RGB: Machado, Oliveira & Fernandes 2009, table 1.
_VISIONS = np.array(
    [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    ]
)


class StudyFigure(Figure):
    """A matplotlib figure that shows itself in a notebook once, without pyplot's list of open figures."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with missing_letters("this figure"):
            self.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        return buffer.getvalue()


@dataclass(frozen=True)
class Drawing:
    """A figure with what it shows: the rows it is drawn from, title, caption, and a text for those who do not
    see it.
    """

    figure: Figure
    data: pd.DataFrame
    title: str
    caption: str
    alt: str


FALLBACKS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Sans", "FreeSans", "Unifont")
"""Fonts for letters that DejaVu lacks, as far as the machine has them: Chinese, Japanese, Korean and others."""
FONTS_REMEDY = "apt-get install fonts-noto-cjk"


@lru_cache
def fonts() -> list[str]:
    """Return the names of the fonts to write with, the first that has a letter wins."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in there)]


def use_style() -> None:
    """Set matplotlib's defaults to this project's style; harmless to repeat."""
    matplotlib.rcParams.update(STYLE | {"font.family": fonts()})  # type: ignore[arg-type]


@contextlib.contextmanager
def missing_letters(name: str, *, say: bool = True) -> Iterator[None]:
    """Say once, or not at all, which letters of a figure no font here has, instead of matplotlib's warning for each."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    letters = ""
    for each in told:
        if found := re.match(r"Glyph (\d+) .* missing from", str(each.message)):
            letters += chr(int(found[1]))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if letters and say:
        unique = "".join(dict.fromkeys(letters))
        print(f"{name}: no font here has {unique!r}, so they are drawn as boxes; type: {FONTS_REMEDY}")


def new_figure(width: float = TWO_COLUMNS, height: float = 3.0) -> StudyFigure:
    """Return an empty figure in the project's style; ``width`` and ``height`` in inches as printed."""
    use_style()
    return StudyFigure(figsize=(width, height), dpi=DPI, layout="constrained")


def category_colours(categories: Iterable[str]) -> dict[str, str]:
    """Return a fixed ``#RRGGBB`` for each category, by its place in the data set's order.

    The first eight are Okabe and Ito's; further ones keep as far as possible from all before them for normal,
    deuteranopic and protanopic eyes.
    """
    names = list(categories)
    return dict(zip(names, distinct_colours(len(names)), strict=True))


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """Return a fixed colour for each arm: grey for the student alone, strong ones for the taught."""
    names = list(arms)
    taught = [name for name in names if name != ALONE]
    # Black is kept for teachers.
    colours = [colour for colour in distinct_colours(len(taught) + 1) if colour != "#000000"]
    return {ALONE: GREY} | dict(zip(taught, colours, strict=False))


@lru_cache
def distinct_colours(count: int) -> tuple[str, ...]:
    """Return ``count`` colours as ``#RRGGBB``; those of a smaller count are a prefix of those of a larger
    one.
    """
    chosen = list(OKABE_ITO[:count])
    if count > len(chosen):
        steps = np.linspace(0, 1, 15)
        grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
        lightness = _perceived(grid)[:, 0, 0]
        # Neither too faint on white paper nor to be mistaken for black.
        grid = grid[(lightness > 0.35) & (lightness < 0.85)]
        candidates = _perceived(grid)
        taken = _perceived(np.array([matplotlib.colors.to_rgb(colour) for colour in chosen]))
        distance = np.linalg.norm(candidates[:, None] - taken[None], axis=-1).min(axis=(1, 2))
        while len(chosen) < count:
            best = int(distance.argmax())
            chosen.append(matplotlib.colors.to_hex(grid[best]).upper())
            distance = np.minimum(distance, np.linalg.norm(candidates - candidates[best], axis=-1).min(axis=1))
    return tuple(chosen)


def _perceived(rgb: np.ndarray) -> np.ndarray:
    """Return OKLab coordinates ``(N, 3 visions, 3)`` of sRGB colours ``(N, 3)``;
    https://bottosson.github.io/posts/oklab.
    """
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.einsum("vij,nj->nvi", _VISIONS, linear), 0, 1)
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(seen @ to_lms.T) @ to_lab.T


def save_figure(
    study: Study, name: str, figure: Figure, data: pd.DataFrame, *, title: str, caption: str, alt: str
) -> Path:
    """Write ``figures/NAME.png``, ``.pdf`` and ``.csv`` and enter them in ``figures/index.json``; return the
    PNG's path.

    The same figure gives the same bytes: no date, no software version, text as text.
    """
    use_style()
    folder = study.path("figures")
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with atomic_path(folder / f"{name}{suffix}") as temporary, missing_letters(name, say=suffix == ".png"):
            figure.savefig(temporary, format=suffix[1:], dpi=DPI, metadata=metadata)
    write_text(folder / f"{name}.csv", data.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    files = {kind: f"{name}.{kind}" for kind in ("png", "pdf", "csv")}
    entry = {"name": name, "title": title, "caption": caption, "alt": alt, "files": files}
    # Notebooks of several arms may save a figure at once; none may lose another's entry.
    with one_after_another(folder):
        kept = [item for item in read_index(study) if item["name"] != name]
        write_json(folder / "index.json", sorted([*kept, entry], key=lambda item: item["name"]))
    return folder / f"{name}.png"


def read_index(study: Study) -> list[dict[str, Any]]:
    """Return the entries of ``figures/index.json``; none if no figure was drawn yet."""
    path = study.path("figures", "index.json")
    return read_json(path) if path.is_file() else []


def hide_axes(axes: Iterable[Any]) -> None:
    """Take ticks and frames off axes that show pictures."""
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)


def in_words(names: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
