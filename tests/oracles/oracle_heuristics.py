"""Slow oracles of the heuristics: float64, loops over pixels, written from their definitions."""

import cmath
import math

Luma = list[list[int]]


def laplacian_variance(luma: Luma) -> float:
    """Variance, over the interior, of the sum of the four neighbours less four times the pixel."""
    values = []
    for y in range(1, len(luma) - 1):
        for x in range(1, len(luma[0]) - 1):
            around = luma[y - 1][x] + luma[y + 1][x] + luma[y][x - 1] + luma[y][x + 1]
            values.append(float(around - 4 * luma[y][x]))
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def high_frequency_share(luma: Luma, cut: float) -> float:
    """Share of the discrete Fourier spectrum's energy above `cut` cycles a pixel, the mean left out."""
    height, width = len(luma), len(luma[0])
    mean = sum(map(sum, luma)) / (height * width)
    total = above = 0.0
    for v in range(height):
        for u in range(width):
            term = 0j
            for y in range(height):
                for x in range(width):
                    term += (luma[y][x] - mean) * cmath.exp(-2j * math.pi * (u * x / width + v * y / height))
            fu, fv = min(u, width - u) / width, min(v, height - v) / height
            total += abs(term) ** 2
            above += abs(term) ** 2 if fu**2 + fv**2 > cut**2 else 0.0
    return above / total if total > 1e-9 else 0.0


def sobel_magnitudes(luma: Luma) -> list[float]:
    across = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))
    values = []
    for y in range(1, len(luma) - 1):
        for x in range(1, len(luma[0]) - 1):
            gx = gy = 0.0
            for j in range(3):
                for i in range(3):
                    gx += across[j][i] * luma[y + j - 1][x + i - 1]
                    gy += across[i][j] * luma[y + j - 1][x + i - 1]
            values.append(math.sqrt(gx * gx + gy * gy))
    return values


def otsu(levels: list[int], n_levels: int) -> int:
    """The level that, as the top of the lower class, makes the two classes' means lie farthest apart, weighted by size."""
    best, best_level = 0.0, n_levels - 1
    for level in range(n_levels - 1):
        low, high = [v for v in levels if v <= level], [v for v in levels if v > level]
        if not low or not high:
            continue
        share = len(low) / len(levels)
        between = share * (1 - share) * (sum(low) / len(low) - sum(high) / len(high)) ** 2
        if between > best * (1 + 1e-12):
            best, best_level = between, level
    return best_level


def edge_share(luma: Luma, n_levels: int = 256) -> float:
    magnitudes = sobel_magnitudes(luma)
    if max(magnitudes) == 0:
        return 0.0
    levels = [int(value * (n_levels - 1) / max(magnitudes)) for value in magnitudes]
    threshold = otsu(levels, n_levels)
    return sum(level > threshold for level in levels) / len(levels)


def aesthetic_value(embedding: list[float], weight: list[float], bias: float) -> float:
    length = math.sqrt(sum(value * value for value in embedding))
    return sum(value / length * factor for value, factor in zip(embedding, weight, strict=True)) + bias
