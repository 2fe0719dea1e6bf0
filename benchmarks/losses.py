"""FGD's loss and its masks at the size of COCO, against the loop over boxes that its formulas suggest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.table import Row, Target, peak_bytes, side_by_side
from mutineck.detection.cells import pad_boxes
from mutineck.distillation.losses.fgd import FGDLoss, fgd_masks
from mutineck.distillation.weights import term_weights
from mutineck.study.experiment import DistillationSpec

STRIDES = (4, 8, 16, 32, 64)
IMAGE = (800, 1333)
PADDED = (800, 1344)
CHANNELS = 256
BATCH = 2
BOXES = (5, 20, 100)


def random_boxes(count: int) -> list[Tensor]:
    """Return `(count, 4)` boxes for each image, sides from 16 to 512 pixels, evenly by their logarithm."""
    generator = torch.Generator().manual_seed(count)
    limit = torch.tensor([IMAGE[1], IMAGE[0]], dtype=torch.float32)  # width, height
    found = []
    for _ in range(BATCH):
        octaves = torch.rand(count, 2, generator=generator) * 5
        sides = 16 * 2**octaves
        corner = torch.rand(count, 2, generator=generator) * (limit - sides)
        found.append(torch.cat([corner, corner + sides], dim=1))
    return found


def whole_masks(boxes: Sequence[Tensor], stride: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return FGD's foreground and background `(N, H, W)`, of all boxes at once."""
    return fgd_masks(*pad_boxes(boxes), stride, size)


def looped_masks(boxes: Sequence[Tensor], stride: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return FGD's foreground and background `(N, H, W)`, one box after another."""
    height, width = size
    foreground = boxes[0].new_zeros(len(boxes), height, width)
    background = boxes[0].new_ones(len(boxes), height, width)
    for image, (front, back) in enumerate(zip(foreground, background, strict=True)):
        for left, top, right, bottom in (boxes[image] / stride).tolist():
            rows = slice(max(0, math.floor(top)), min(height - 1, math.ceil(bottom)) + 1)
            columns = slice(max(0, math.floor(left)), min(width - 1, math.ceil(right)) + 1)
            cells = front[rows, columns]
            if cells.numel():
                front[rows, columns] = torch.maximum(cells, cells.new_tensor(1 / cells.numel()))
        back[front > 0] = 0
        if back.sum() > 0:
            back /= back.sum()
    return {"foreground": foreground, "background": background}


def looped_fgd(loss: FGDLoss, student: Tensor, teacher: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return FGD's terms as its formulas stand: attended maps, masked maps, rebuilt maps, and their distances."""
    n, c, height, width = student.shape
    temperature = loss.temperature

    def attentions(features: Tensor) -> tuple[Tensor, Tensor]:
        strength = features.abs()
        places = (strength.mean(dim=1) / temperature).flatten(1).softmax(dim=1)
        channels = (strength.mean(dim=(2, 3)) / temperature).softmax(dim=1)
        return (height * width * places).view(n, 1, height, width), (c * channels)[..., None, None]

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return functional.mse_loss(a, b, reduction="sum") / n

    spatial, channel = attentions(teacher)
    own_spatial, own_channel = attentions(student)
    terms = {}
    for name, mask in masks.items():
        root = mask[:, None].sqrt() * spatial.sqrt() * channel.sqrt()
        terms[name] = distance(student * root, teacher * root)
    gaps = (spatial - own_spatial).abs().sum() + (channel - own_channel).abs().sum()
    rebuilt = loss.student_context(student), loss.teacher_context(teacher)
    return terms | {"attention": gaps / n, "global": distance(*rebuilt)}


def rows() -> list[Row]:
    """Measure masks, and the loss with its backward pass, over all levels of a batch of 1333x800."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    boxes = {count: [b.to(device) for b in random_boxes(count)] for count in BOXES}
    masks, looped = partial(every_level, whole_masks), partial(every_level, looped_masks)
    found = _compared("FGD masks", masks, looped, boxes, rounds=15)
    generator = torch.Generator().manual_seed(0)
    pairs = {s: torch.randn(2, BATCH, CHANNELS, *size, generator=generator).to(device) for s, size in sizes().items()}
    losses = {s: FGDLoss(CHANNELS).to(device) for s in STRIDES}
    ours = partial(train, FGDLoss.forward, whole_masks, losses, pairs)
    theirs = partial(train, looped_fgd, looped_masks, losses, pairs)
    found += _compared("FGD loss", ours, theirs, boxes, rounds=5)
    most, reference = (peak_bytes(partial(run, boxes[100])) / 2**20 for run in (ours, theirs))
    name = f"FGD loss, {BOXES[-1]} boxes: peak memory beside the maps"
    note = f"the student's gradient alone is {sum(p[0].nbytes for p in pairs.values()) / 2**20:.0f} MiB"
    target = Target("at most", 1.0)
    return [*found, Row(name, most, "MiB", f"loop over {BOXES[-1]} boxes", reference, most / reference, target, note)]


def sizes() -> dict[int, tuple[int, int]]:
    """Return stride to `(H, W)`."""
    return {s: (math.ceil(PADDED[0] / s), math.ceil(PADDED[1] / s)) for s in STRIDES}


def every_level(build: Callable[..., object], boxes: Sequence[Tensor]) -> None:
    """Build the masks of every level."""
    for stride, size in sizes().items():
        build(boxes, stride, size)


def train(
    evaluate: Callable[..., dict[str, Tensor]],
    draw: Callable[..., dict[str, Tensor]],
    losses: Mapping[int, FGDLoss],
    pairs: Mapping[int, Tensor],
    boxes: Sequence[Tensor],
) -> None:
    """Go forward and backward over every level, from maps that are there."""
    terms: list[Tensor] = []
    weights = term_weights(DistillationSpec(), "fgd", two_stage=True)
    for stride, (student, teacher) in pairs.items():
        losses[stride].zero_grad()
        masks = draw(boxes, stride, sizes()[stride])
        found = evaluate(losses[stride], student.detach().requires_grad_(), teacher, masks)
        terms += [weights[name] * value for name, value in found.items()]
    torch.stack(terms).sum().backward()


def _compared(
    name: str,
    ours: Callable[[Sequence[Tensor]], None],
    loop: Callable[[Sequence[Tensor]], None],
    boxes: Mapping[int, list[Tensor]],
    *,
    rounds: int,
) -> list[Row]:
    """Return a row for each number of boxes, and one for the growth from the fewest to the most."""
    labels = {count: f"{name}, {count} boxes an image" for count in boxes}
    loops = {count: f"loop over {count} boxes" for count in boxes}
    runs = {label: partial(ours, boxes[count]) for count, label in labels.items()}
    runs |= {label: partial(loop, boxes[count]) for count, label in loops.items()}
    measured = side_by_side(runs, rounds=rounds)
    few, *_, many = boxes
    least = {many: 5.0}
    return [
        *(measured.faster(labels[count], labels[count], loops[count], least.get(count)) for count in boxes),
        measured.longer(f"{name}, {many} boxes against {few}", labels[many], labels[few], 1.3),
    ]
