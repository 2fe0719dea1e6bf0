"""A picture with the boxes that a detector found, at its own size, for who wants to look at many of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from torchvision.utils import draw_bounding_boxes

from mutineck.figures.style import distinct_colours, fonts

KEPT_ENDINGS = (".jpg", ".jpeg", ".png")


def boxed_pictures(
    categories: Sequence[str], least: float
) -> Callable[[Path, Sequence[Mapping[str, Any]], Path], Path]:
    """Return what draws the boxes of a picture into a new file, in their categories' colours.

    Args:
        categories: names in label order; ids count from 1.
        least: boxes that score less are not drawn.

    Returns:
        A function of the picture, its COCO results, and the new file's path (which a format that not every viewer
        opens makes end in `.jpg`); it returns where it wrote.
    """
    colours = distinct_colours(len(categories))
    font = font_of("".join(categories))

    def draw(picture: Path, rows: Sequence[Mapping[str, Any]], to: Path) -> Path:
        # Turned by EXIF, as it was detected on.
        pixels: Any = cv2.imdecode(np.fromfile(picture, dtype=np.uint8), cv2.IMREAD_COLOR)
        longest = max(pixels.shape[:2])
        # The surest last, on top of the others.
        shown = sorted((row for row in rows if row["score"] >= least), key=lambda row: row["score"])
        if shown:
            image = torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).movedim(-1, 0)
            corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in shown)])
            own = [colours[row["category_id"] - 1] for row in shown]
            drawn = draw_bounding_boxes(
                image,
                corners,
                labels=[f"{categories[row['category_id'] - 1]} {row['score']:.2f}" for row in shown],
                colors=own,
                width=max(2, round(longest / 400)),
                font=font,
                font_size=max(11, round(longest / 50)),
                label_colors=[readable_on(colour) for colour in own],
                fill_labels=True,
            )
            pixels = cv2.cvtColor(drawn.movedim(0, -1).numpy(), cv2.COLOR_RGB2BGR)
        to = to if to.suffix.lower() in KEPT_ENDINGS else to.with_name(f"{to.name}.jpg")
        to.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(to), pixels)
        return to

    return draw


def readable_on(colour: str) -> str:
    """Return black or white, whichever is read more easily on a colour."""
    return "black" if np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) > 0.5 else "white"


def font_of(letters: str) -> str:
    """Return the file of the first font here that has all letters, or of the first one."""
    files = [findfont(name) for name in fonts()]
    wanted = {ord(letter) for letter in letters}
    return next((file for file in files if wanted <= FT2Font(file).get_charmap().keys()), files[0])
