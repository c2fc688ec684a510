"""Convex polygons and segments of a plane, cut by affine functions (a, b) -> w . (a, b, 1), in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]
"""Vertices in order, (vertices, 2)."""


def decision_segments(polygon: Polygon, maps: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Where on a region the largest output changes; for a single output, where its sign does."""
    if maps.shape[1] == 1:
        segment = clip(polygon, with_one(polygon) @ maps[:, 0], 0.0)[1]
        return [] if segment is None else [segment]
    values = with_one(polygon) @ maps
    lowest = values.min(axis=0).max()
    rivals = np.flatnonzero(values.max(axis=0) >= lowest)
    found = []
    for i, first in enumerate(rivals):
        for second in rivals[i + 1 :]:
            segment = clip(polygon, values[:, first] - values[:, second], 0.0)[1]
            for other in rivals:
                if segment is not None and other not in (first, second):
                    segment = clip_segment(segment, maps[:, first] - maps[:, other])
            if segment is not None:
                found.append(segment)
    return found


def clip(
    polygon: Polygon, values: NDArray[np.float64], tolerance: float
) -> tuple[list[Polygon], NDArray[np.float64] | None]:
    """The two parts of a convex polygon on which an affine function, given at its vertices, is >= 0 and <= 0, and the
    segment between them; the polygon and None where the function does not change sign on it."""
    if values.max() <= tolerance or values.min() >= -tolerance:
        return [polygon], None
    parts: tuple[list, list] = ([], [])
    cut = []
    for i, (point, value) in enumerate(zip(polygon, values, strict=True)):
        if value >= -tolerance:
            parts[0].append(point)
        if value <= tolerance:
            parts[1].append(point)
        if abs(value) <= tolerance:
            cut.append(point)
        after, next_value = polygon[(i + 1) % len(polygon)], values[(i + 1) % len(polygon)]
        if (value > tolerance and next_value < -tolerance) or (value < -tolerance and next_value > tolerance):
            crossing = point + value / (value - next_value) * (after - point)
            parts[0].append(crossing)
            parts[1].append(crossing)
            cut.append(crossing)
    return [np.array(part) for part in parts], np.array(cut) if len(cut) == 2 else None


def clip_segment(segment: NDArray[np.float64], function: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The part of a segment on which an affine function is >= 0."""
    a, b = with_one(segment) @ function
    if a < 0 and b < 0:
        return None
    if a >= 0 and b >= 0:
        return segment
    middle = segment[0] + a / (a - b) * (segment[1] - segment[0])
    return np.array([segment[0], middle] if a >= 0 else [middle, segment[1]])


def with_one(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([points, np.ones(len(points))])


def polygon_area(polygon: Polygon) -> float:
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def lengths(segments: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)


def distances_to(segments: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each point to each segment, (points, segments)."""
    start, along = segments[:, 0], segments[:, 1] - segments[:, 0]
    length = np.maximum((along**2).sum(axis=1), 1e-300)
    x, y = points[:, :1] - start[:, 0], points[:, 1:] - start[:, 1]
    share = np.clip((x * along[:, 0] + y * along[:, 1]) / length, 0, 1)
    distance: NDArray[np.float64] = np.hypot(x - share * along[:, 0], y - share * along[:, 1])
    return distance
