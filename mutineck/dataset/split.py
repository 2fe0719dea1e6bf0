"""Division of pictures into train, val and test, stratified by category, independent of the files' order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

NO_OBJECT = "\0no object"


def stratified_split(
    labels: Mapping[str, Collection[str]],
    shares: Sequence[float],
    seed: int,
    together: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Divide pictures so that every part holds its share of every category.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data",
    ECML PKDD 2011): the rarest category first, each of its pictures to the part that lacks it most. Where the
    paper breaks ties at random, the hash of seed and name decides, so neither the order of the files nor the
    platform matters. No part stays without objects while another has pictures with objects to spare.

    Args:
        labels: a picture's name -> the categories that occur in it (pictures without any are a category of
            their own).
        shares: relative sizes of the parts, such as ``(8, 1, 1)``.
        seed: chooses one of the many equally good divisions.
        together: a picture's name -> what it is a copy of; pictures of the same stay in one part.

    Returns:
        A picture's name -> index of its part.

    Raises:
        ValueError: ``shares`` holds a negative or no positive number, or a part with a share would stay
            empty.
    """
    if not shares or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"dataset.split: expected non-negative shares such as (8, 1, 1), got {tuple(shares)}")
    units: dict[str, list[str]] = {}
    for name in sorted(labels):
        units.setdefault((together or {}).get(name, name), []).append(name)
    # A unit goes by its first picture's name, so that a picture of its own goes by its own.
    members = {names[0]: names for names in units.values()}
    needed = sum(share > 0 for share in shares)
    if len(members) < needed:
        copies = "" if len(members) == len(labels) else f" ({len(labels)} with copies, which stay together)"
        raise ValueError(
            f"dataset.split: {needed} parts asked for, but there are only {len(members)} usable images{copies}"
        )
    fractions = [share / sum(shares) for share in shares]
    held = {
        unit: Counter(category for name in members[unit] for category in (set(labels[name]) or (NO_OBJECT,)))
        for unit in sorted(members, key=lambda name: (_rank(seed, name), name))
    }
    parts = _iterative_division(held, {unit: len(names) for unit, names in members.items()}, fractions)
    _fill_empty_parts(parts, list(held), fractions)
    _share_objects(parts, [unit for unit in held if set(held[unit]) != {NO_OBJECT}], fractions)
    return {name: part for unit, part in parts.items() for name in members[unit]}


def _iterative_division(
    held: Mapping[str, Mapping[str, int]], sizes: Mapping[str, int], fractions: Sequence[float]
) -> dict[str, int]:
    """Return unit -> index of its part, by iterative stratification; units in the order in which they are placed.

    Args:
        held: unit (pictures that stay together) -> category -> how many of its pictures have it; in the order in which
            units of the same category are taken.
        sizes: unit -> pictures.
        fractions: shares of the parts; their sum is 1.
    """
    holders: dict[str, dict[str, None]] = {}
    for unit, categories in held.items():
        for category in categories:
            holders.setdefault(category, {})[unit] = None
    room = [fraction * sum(sizes.values()) for fraction in fractions]
    totals = {category: sum(held[unit][category] for unit in found) for category, found in holders.items()}
    lacking = {category: [fraction * total for fraction in fractions] for category, total in totals.items()}

    parts: dict[str, int] = {}
    while holders:
        rarest = min(holders, key=lambda category: (len(holders[category]), category))
        for unit in list(holders[rarest]):
            # The paper lets parts outgrow their share by some percent; here a full part takes no more.
            open_parts = [index for index, free in enumerate(room) if free > 0]
            part = max(
                open_parts,
                key=lambda index: (round(lacking[rarest][index], 9), round(room[index], 9), -index),
            )
            parts[unit] = part
            room[part] -= sizes[unit]
            for category, count in held[unit].items():
                lacking[category][part] -= count
                del holders[category][unit]
        holders = {category: units for category, units in holders.items() if units}
    return parts


def _fill_empty_parts(parts: dict[str, int], order: Sequence[str], fractions: Sequence[float]) -> None:
    """Give a part that came out empty (very small data sets) the first picture of the largest part, in place."""
    for index, fraction in enumerate(fractions):
        if fraction > 0 and index not in parts.values():
            sizes = [list(parts.values()).count(part) for part in range(len(fractions))]
            largest = sizes.index(max(sizes))
            parts[next(name for name in order if parts[name] == largest)] = index


def _share_objects(parts: dict[str, int], with_objects: Sequence[str], fractions: Sequence[float]) -> None:
    """Give a part without objects a picture with some, of the part that has most, for one without, in place."""
    for index, fraction in enumerate(fractions):
        counts = [sum(parts[unit] == part for unit in with_objects) for part in range(len(fractions))]
        if fraction > 0 and not counts[index] and max(counts) > 1:
            richest = counts.index(max(counts))
            returned = next(unit for unit, part in parts.items() if part == index)
            parts[next(unit for unit in with_objects if parts[unit] == richest)] = index
            parts[returned] = richest


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogatepass")).digest()


def first_by_hash(names: Collection[str], count: int, seed: int) -> list[str]:
    """Return ``count`` names chosen by seed, independent of the order they came in, sorted."""
    return sorted(sorted(names, key=lambda name: (_rank(seed, name), name))[:count])
