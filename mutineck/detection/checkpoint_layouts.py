"""Where the detector is in a checkpoint: bare, in a container, behind prefixes, or beside teachers and averages."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

CONTAINERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "ema_state_dict", "model_ema", "ema")
"""Keys under which trainings keep weights, plain ones before averaged ones."""
SHOWN = 5
_BACKBONE = re.compile(r"((?:[^.]+\.)*?)backbone\.")
"""Whatever has a backbone is a detector; what stands before that is its prefix."""
_STUDENT = re.compile(r"student|(^|[._])stu([._]|$)|model_s\.")
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)")
_PART = re.compile(r"(backbone|neck|\w*head)\b")
"""What an mmdet detector is made of."""


def find_detector(content: Mapping[str, Any], wanted: Collection[str] = ()) -> tuple[dict[str, Tensor], str]:
    """Find the weights of the detector in whatever a checkpoint holds.

    Recognised: a bare state dict, or one in a container (`state_dict`, `model`, ...); any prefix (`module.`, `model.`,
    `_orig_mod.`); a student beside its teachers, by its prefix (`student.` of this project and of FGD,
    `module.student.`, `architecture.student.`) or by having none; averaged weights beside plain ones, which are left
    aside (mmcv's `ema_` buffers, `model_ema.`, `state_dict_ema`).

    Args:
        content: a checkpoint as it was read.
        wanted: names of the model's weights; a state that has them all as they are is its own, whatever its prefixes.

    Returns:
        The weights under mmdet's own names; and in words where they were, empty if they are all that there is.

    Raises:
        ValueError: there are no weights, or several detectors of which none is called a student.
    """
    words: list[str] = []
    state: Any = content
    while container := next((key for key in CONTAINERS if isinstance(state.get(key), Mapping)), None):
        unused = [key for key in CONTAINERS if key != container and isinstance(state.get(key), Mapping)]
        words += [f"{container!r} ({', '.join(unused)} not used)"] if unused else []
        state = state[container]
    weights = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f"holds no weights (keys: {some(map(str, content))})")
    prefixes = {found.group(1) for name in weights if (found := _BACKBONE.match(name))}
    # What has no backbone is no detector: at most what data parallel training wraps it in is taken off.
    whole = "module." if all(name.startswith("module.") for name in weights) else ""
    prefix = _choose(prefixes) if prefixes else whole
    inner = [other for other in prefixes if other != prefix and other.startswith(prefix)]
    chosen = {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix) and not name.startswith(tuple(inner))
    }
    flat = {f"ema_{name.replace('.', '_')}" for name in chosen} | {"n_averaged"}
    chosen = {name: value for name, value in chosen.items() if name not in flat}
    if not chosen.keys() >= set(wanted) and weights.keys() >= set(wanted):
        return weights, ", ".join(words)
    words += [f"the part {prefix!r}"] if prefix else []
    aside = weights.keys() - {prefix + name for name in chosen}
    if aside:
        words.append(f"{len(aside)} weights left aside ({some(sorted({_owner(name, prefixes) for name in aside}))})")
    return chosen, ", ".join(words)


def split_foreign(unexpected: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Divide names that a detector does not know into those of a detector's parts, and the rest in words."""
    own = tuple(name for name in unexpected if _PART.match(name))
    foreign = sorted({name.split(".")[0] for name in unexpected if name not in own})
    if not foreign:
        return own, ""
    return own, f"{len(unexpected) - len(own)} weights of no detector left aside ({some(foreign)})"


def some(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _choose(prefixes: set[str]) -> str:
    """Return the prefix of the detector that is meant: a student's, or the only one that is no average."""
    for candidates in (
        prefixes,
        {prefix for prefix in prefixes if _STUDENT.search(prefix)},
        {prefix for prefix in prefixes if not _AVERAGED.search(prefix)},
        # Distillers that are detectors themselves keep their teachers inside.
        {prefix for prefix in prefixes if all(other.startswith(prefix) for other in prefixes)},
    ):
        plain = {prefix for prefix in candidates if not _AVERAGED.search(prefix)} or candidates
        if len(plain) == 1:
            return next(iter(plain))
    raise ValueError(
        f"holds several detectors ({some(sorted(prefixes))}), and none is called a student: save the weights of the "
        "one that is meant by themselves, without its prefix"
    )


def _owner(name: str, prefixes: set[str]) -> str:
    """Return the part of a checkpoint that a name belongs to."""
    prefix = max((prefix for prefix in prefixes if prefix and name.startswith(prefix)), key=len, default="")
    return prefix or re.split(r"[._]", name)[0]
