"""A slow oracle of near-duplicate grouping, written from the definition: one image after the other against every first one."""


def oracle_distance(one: int, other: int) -> int:
    return sum((one >> bit) & 1 != (other >> bit) & 1 for bit in range(64))


def oracle_firsts(hashes: list[int], max_distance: int) -> dict[int, int]:
    """For each image that is not the first of its group, the earliest first one within the distance."""
    firsts: list[int] = []
    behind: dict[int, int] = {}
    for i, value in enumerate(hashes):
        like = [first for first in firsts if oracle_distance(value, hashes[first]) <= max_distance]
        if like:
            behind[i] = like[0]
        else:
            firsts.append(i)
    return behind
