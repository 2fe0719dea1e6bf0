"""The sums over a pair of maps that FGD is made of, with a backward pass of their own.

Every term of FGD is a small function of sums over channels or places of F_S, F_T and F_T - F_S. Written out in tensor
operations, each sum makes maps of full size and keeps them for the backward pass: at 1333x800 that, not arithmetic, is
what the time and the memory go to. Here maps are read in pieces that stay in the processor's cache, nothing of their
size is kept, and the only map made is the student's gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mutineck.distillation.losses.attention import Strength
from mutineck.distillation.losses.maps import full_precision, pieces


class Sums(NamedTuple):
    """Sums over a student's map and a teacher's, each `(N, C, H, W)`; D = F_T - F_S.

    Attributes:
        strength: of the student's map.
        error: `(N, H, W)`, `sum_c A^C D^2`.
        squared: `(N,)`, `sum_cij D^2`.
        difference: `(N, C)`, `sum_ij D`.
        student_context: `(N, C)`, `sum_ij softmax_ij(w_S . F_S) F_S`.
        teacher_context: `(N, C)`, the same of F_T under w_T.
    """

    strength: Strength
    error: Tensor
    squared: Tensor
    difference: Tensor
    student_context: Tensor
    teacher_context: Tensor


def compare(student: Tensor, teacher: Tensor, channel: Tensor, student_place: Tensor, teacher_place: Tensor) -> Sums:
    """Return the sums that FGD's terms are made of.

    Args:
        student: `(N, C, H, W)`, float32 or wider.
        teacher: of the same shape and type; takes no gradient.
        channel: `(N, C)`, A^C of the teacher; takes no gradient.
        student_place: `(C,)`, w_S; takes gradient.
        teacher_place: `(C,)`, w_T; takes gradient.
    """
    if not student.is_contiguous(memory_format=torch.channels_last):
        student = student.contiguous()  # the gradient is written by places, and takes the map's layout
    with full_precision(student):
        found = _Compare.apply(student, teacher, channel, student_place, teacher_place)
    places, channels, *rest = found
    return Sums(Strength(places, channels), *rest)


class _Compare(torch.autograd.Function):
    """`compare` on tensors alone; P = HW places."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, channel: Tensor, student_place: Tensor, teacher_place: Tensor
    ) -> tuple[Tensor, ...]:
        n, c, height, width = student.shape
        ours, theirs = student.flatten(2), teacher.flatten(2)  # (N, C, P)
        places, channels = ours.new_empty(n, height * width), ours.new_zeros(n, c)
        difference, errors = ours.new_zeros(n, c), ours.new_empty(n, 2, height * width)
        rows = torch.stack([channel, torch.ones_like(channel)], dim=1)  # (N, 2, C): weighted and plain sums at once
        for part in pieces(ours):
            own = ours[:, :, part].contiguous()
            strong = own.abs()
            places[:, part] = strong.sum(dim=1)
            channels += strong.sum(dim=2)
            gap = theirs[:, :, part].contiguous() - own
            difference += gap.sum(dim=2)
            errors[:, :, part] = rows @ gap.square_()
        looks, contexts = [], []
        for maps, place in ((ours, student_place), (theirs, teacher_place)):
            looks.append(_over_channels(place.expand(n, c), maps).softmax(dim=1))
            contexts.append(_over_places(looks[-1], maps))
        ctx.save_for_backward(student, teacher, channel, student_place, *looks, *contexts)
        return (
            (places / c).view(n, height, width),
            channels / (height * width),
            errors[:, 0].reshape(n, height, width),
            errors[:, 1].sum(dim=1),
            difference,
            *contexts,
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        student, teacher, channel, student_place, own_look, other_look, own_context, other_context = ctx.saved_tensors
        g_places, g_channels, g_error, g_squared, g_difference, g_own, g_other = gradients
        n, c, height, width = student.shape
        ours, theirs = student.flatten(2), teacher.flatten(2)
        with full_precision(student):
            logits, g_student_place = _context_backward(ours, own_look, own_context, g_own)
            _, g_teacher_place = _context_backward(theirs, other_look, other_context, g_other)
            if not ctx.needs_input_grad[0]:
                return None, None, None, g_student_place, g_teacher_place
            # What a cell's gradient has from its place and channel alone: softmax(w.F), w and sum D.
            left = torch.stack([g_own, student_place.expand(n, c), -g_difference], dim=2)  # (N, C, 3)
            right = torch.stack([own_look, logits, torch.ones_like(logits)], dim=1)  # (N, 3, P)
            by_place, by_channel = g_places.reshape(n, 1, -1) / c, g_channels[..., None] / (height * width)
            pull, even = -2 * g_error.reshape(n, 1, -1), -2 * g_squared[:, None, None]
            gradient = torch.empty_like(student)
            rows = gradient.view(n, c, -1)
            for part in pieces(ours):
                own = ours[:, :, part].contiguous()
                change = channel[..., None] * pull[:, :, part]
                change += even
                change *= theirs[:, :, part].contiguous() - own
                change += own.sign().mul_(by_place[:, :, part] + by_channel)
                rows[:, :, part] = change.baddbmm_(left, right[:, :, part])
        return gradient, None, None, g_student_place, g_teacher_place


def _over_channels(weights: Tensor, maps: Tensor) -> Tensor:
    """Return `sum_c w_nc F_ncp` `(N, P)` of weights `(N, C)` and maps `(N, C, P)`."""
    return torch.bmm(weights[:, None], maps)[:, 0]


def _over_places(weights: Tensor, maps: Tensor) -> Tensor:
    """Return `sum_p w_np F_ncp` `(N, C)` of weights `(N, P)` and maps `(N, C, P)`."""
    # A row times a matrix: the same as a matrix times a column takes six times as long on a CPU.
    return torch.bmm(weights[:, None], maps.transpose(1, 2))[:, 0]


def _context_backward(maps: Tensor, look: Tensor, context: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the logits `w . F` `(N, P)` and of w `(C,)` for a context's `(N, C)`."""
    logits = look * (_over_channels(gradient, maps) - (gradient * context).sum(dim=1, keepdim=True))
    return logits, _over_places(logits, maps).sum(dim=0)
