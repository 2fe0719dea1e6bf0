"""Division of pictures into train, val and test, stratified by category, independent of the files' order."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

NO_OBJECT = "\0no object"


def stratified_split(labels: Mapping[str, Collection[str]], shares: Sequence[float], seed: int) -> dict[str, int]:
    """Divide pictures so that every part holds its share of every category.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data",
    ECML PKDD 2011): the rarest category first, each of its pictures to the part that lacks it most. Where the
    paper breaks ties at random, the hash of seed and name decides, so neither the order of the files nor the
    platform matters.

    Args:
        labels: a picture's name -> the categories that occur in it (pictures without any are a category of
            their own).
        shares: relative sizes of the parts, such as ``(8, 1, 1)``.
        seed: chooses one of the many equally good divisions.

    Returns:
        A picture's name -> index of its part.

    Raises:
        ValueError: ``shares`` holds a negative or no positive number, or a part with a share would stay
            empty.
    """
    if not shares or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"dataset.split: expected non-negative shares such as (8, 1, 1), got {tuple(shares)}")
    needed = sum(share > 0 for share in shares)
    if len(labels) < needed:
        raise ValueError(f"dataset.split: {needed} parts asked for, but there are only {len(labels)} usable images")
    fractions = [share / sum(shares) for share in shares]
    order = sorted(labels, key=lambda name: (_rank(seed, name), name))
    left = {name: frozenset(labels[name]) or frozenset((NO_OBJECT,)) for name in order}

    holders: dict[str, dict[str, None]] = {}
    for name, categories in left.items():
        for category in categories:
            holders.setdefault(category, {})[name] = None
    room = [fraction * len(order) for fraction in fractions]
    lacking = {category: [fraction * len(names) for fraction in fractions] for category, names in holders.items()}

    parts: dict[str, int] = {}
    while holders:
        rarest = min(holders, key=lambda category: (len(holders[category]), category))
        for name in list(holders[rarest]):
            # The paper lets parts outgrow their share by some percent; here a full part takes no more.
            open_parts = [index for index, free in enumerate(room) if free > 0]
            part = max(
                open_parts,
                key=lambda index: (round(lacking[rarest][index], 9), round(room[index], 9), -index),
            )
            parts[name] = part
            room[part] -= 1
            for category in left[name]:
                lacking[category][part] -= 1
                del holders[category][name]
        holders = {category: names for category, names in holders.items() if names}
    return _fill_empty_parts(parts, order, fractions)


def _fill_empty_parts(parts: dict[str, int], order: Sequence[str], fractions: Sequence[float]) -> dict[str, int]:
    """Give a part that came out empty (very small data sets) the first picture of the largest part."""
    for index, fraction in enumerate(fractions):
        if fraction > 0 and index not in parts.values():
            sizes = [list(parts.values()).count(part) for part in range(len(fractions))]
            largest = sizes.index(max(sizes))
            parts[next(name for name in order if parts[name] == largest)] = index
    return parts


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogatepass")).digest()


def first_by_hash(names: Collection[str], count: int, seed: int) -> list[str]:
    """Return ``count`` names chosen by seed, independent of the order they came in, sorted."""
    return sorted(sorted(names, key=lambda name: (_rank(seed, name), name))[:count])
