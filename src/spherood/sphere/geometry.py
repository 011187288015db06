"""The geometry of an embedding in numbers: how tight, how far apart, how evenly spread, how full.

    angle(x, y) = 2 atan2(|x - y|, |x + y|)                            degrees; arccos(x . y) is blind below 1e-6
    uniformity  = log mean_{i < j} exp(-t |x_i - x_j|^2)               nats, -4t..0, lower = more even
    alignment   = mean of |x_i - x_j|^2 over the pairs i < j of one class   0..4, lower = tighter
    rank        = exp(-sum_k p_k log p_k), p_k = sigma_k / sum sigma   1..min(N, d); rows as they are, not centred

Rows come at any length and in any precision; the arithmetic is that of unit rows in float64, over all rows and pairs.
Memory: a few float64 copies of the rows, and tiles. Time: O(N^2 d) for the uniformity, O(N d (C + d)) for the rest.
Shapes: N rows, M OOD rows, d dimension, C classes with labels 0..C-1; a class without a row has None.
Errors: ShapeError for shapes and labels; DataError for rows without a direction (zero, NaN, infinite), for a class
whose rows cancel out, and where a quantity needs more rows than it gets.
Source: compactness, dispersion, separability: Ming et al., ICLR 2023, arXiv:2203.04450; uniformity, alignment: Wang and
Isola, ICML 2020, arXiv:2005.10242 (positive pairs: all of one class; two views of an image with its number as label are
the paper's own); rank: Roy and Vetterli, EUSIPCO 2007. Equation numbers unchecked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import acos, degrees, exp, fsum, log, pi, sqrt

import torch
from torch import Tensor

from spherood.errors import ConfigError, DataError, ShapeError
from spherood.sphere.enclosing import enclosing_sphere
from spherood.sphere.means import ClassMeans
from spherood.sphere.neighbors import nearest
from spherood.sphere.unit import float64

TILE = 1024  # a 1,024 x 1,024 float64 product is 8 MB

PerClass = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """What `geometry` found, in plain numbers: ``json.dumps(dataclasses.asdict(it))`` works. Angles in degrees."""

    rows: int
    dim: int
    compactness: float
    compactness_per_class: PerClass
    enclosing_radius_per_class: PerClass  # 0..1, the smallest sphere around the unit rows; at most 1e-6 too large
    dispersion: float | None  # None, as the next three, for fewer than two prototypes
    least_angle: float | None
    least_angle_bound: float | None
    least_angle_bound_name: str | None
    collapsed: bool
    separability: float | None  # None, as the next, without OOD rows
    overlap: float | None
    uniformity: float | None  # None for a single row
    alignment: float | None  # None if no class has two rows
    effective_rank: float


def geometry(
    embedding: Tensor,
    label: Tensor,
    prototypes: Tensor | None = None,
    ood: Tensor | None = None,
    classes: int | None = None,
) -> Geometry:
    """All of it, for embedding (N, d), integer label (N,), prototypes (C, d) and OOD rows ood (M, d).

    Without prototypes they are the directions of the class means, of those classes that have a row. `classes` is by
    default the number of prototypes, else the largest label + 1.
    """
    z = _unit(embedding)
    label = _label(z, label)
    mu, count = _prototypes(z, label, prototypes, classes)
    known = mu[~mu.isnan().any(dim=1)]  # (C', d)
    overall, per_class = compactness(z, label, prototypes, classes)
    mean_angle, least_angle = dispersion(known) if len(known) > 1 else (None, None)
    bound, name = least_angle_bound(*known.shape) if len(known) > 1 else (None, None)
    return Geometry(
        rows=len(z),
        dim=z.shape[1],
        compactness=overall,
        compactness_per_class=per_class,
        enclosing_radius_per_class=tuple(
            enclosing_sphere(z[label == c]).radius if n else None for c, n in enumerate(count)
        ),
        dispersion=mean_angle,
        least_angle=least_angle,
        least_angle_bound=bound,
        least_angle_bound_name=name,
        collapsed=collapsed(known),
        separability=None if ood is None else separability(z, ood, known),
        overlap=None if ood is None else overlap(z, ood, known),
        uniformity=uniformity(z) if len(z) > 1 else None,
        alignment=alignment(z, label) if max(count) > 1 else None,
        effective_rank=effective_rank(z),
    )


def compactness(
    embedding: Tensor, label: Tensor, prototypes: Tensor | None = None, classes: int | None = None
) -> tuple[float, PerClass]:
    """Mean angle of rows to the prototype of their class: over all rows, and per class. Degrees, lower = tighter."""
    z = _unit(embedding)
    label = _label(z, label)
    mu, count = _prototypes(z, label, prototypes, classes)
    tiles = zip(z.split(TILE), label.split(TILE), strict=True)
    angle = torch.cat([_angle(rows, mu[own]) for rows, own in tiles])  # (N,)
    total = torch.zeros(len(mu), dtype=angle.dtype, device=angle.device).index_add_(0, label, angle)
    return float(angle.mean()), tuple(t / n if n else None for t, n in zip(total.tolist(), count, strict=True))


def dispersion(prototypes: Tensor) -> tuple[float, float]:
    """Mean and least angle between two of the prototypes (C, d), C >= 2. Degrees, higher = further apart."""
    if len(prototypes) < 2:
        raise DataError(f"dispersion: needs two prototypes or more, got {len(prototypes)}.")
    tiles = [(float(angle.sum()), len(angle), float(angle.min())) for angle in _pair_angles(_unit(prototypes))]
    return fsum(s for s, _, _ in tiles) / sum(n for _, n, _ in tiles), min(least for _, _, least in tiles)


def least_angle_bound(classes: int, dim: int) -> tuple[float, str]:
    """No `classes` >= 2 directions in `dim` dimensions have a greater least angle than this, in degrees; and its name.

    simplex      C <= d + 1: arccos(-1 / (C - 1)), attained
    Rankin       C <= 2 d: 90, attained by the axes (Proc. Glasgow Math. Assoc. 2, 1955)
    Levenshtein  C <= d (d + 3) / 2: C = d (1 - s) (2 + (d + 1) s) / (1 - d s^2) solved for the cosine s; his L_3, the
                 best that polynomials of degree 3 prove (Handbook of Coding Theory, 1998, ch. 6, page unchecked; a
                 test repeats the proof), attained by 27 directions in 6 dimensions, 162 in 21, 275 in 22
    caps         beyond: disjoint caps of half the angle have at most the sphere's area (attained for d = 2: 360 / C);
                 rounded up by less than .001. Where Levenshtein's at C = d (d + 3) / 2 is less, that one is given: more
                 directions never have more room
    pigeonhole   d = 1, C > 2: two of them are one
    The simplex bound holds for the mean cosine too, not for the mean angle: two pairs on two poles have 120, not 109.5.
    """
    if classes <= dim + 1:
        return degrees(acos(-1 / (classes - 1))), "simplex"
    if classes <= 2 * dim:
        return 90.0, "Rankin"
    if dim == 1:
        return 0.0, "pigeonhole"
    count = min(classes, dim * (dim + 3) // 2)
    square, slope, rest = dim * (count - dim - 1), dim * (dim - 1), count - 2 * dim  # square s^2 + slope s = rest
    levenshtein = degrees(acos(2 * rest / (slope + sqrt(slope**2 + 4 * square * rest))))
    turn = torch.linspace(0, pi, 1_000_001, dtype=torch.float64)
    area = turn.sin().clamp(min=0).pow(dim - 2).cumsum(0)  # of the cap one step smaller, at most: errs to the safe side
    caps = 2 * degrees(float(turn[int(torch.searchsorted(area, area[-1] / classes)) + 1]))
    return (caps, "caps") if caps < levenshtein else (levenshtein, "Levenshtein")


def collapsed(prototypes: Tensor, degrees: float = 5.0) -> bool:
    """Are the prototypes (C, d) all within so many degrees of each other? A single one is not collapsed."""
    return len(prototypes) > 1 and all(float(angle.max()) <= degrees for angle in _pair_angles(_unit(prototypes)))


def nearest_angle(embedding: Tensor, prototypes: Tensor) -> Tensor:
    """Angle (N,) of each row of embedding (N, d) to the nearest of the prototypes (C, d). Degrees, float64."""
    mu = _unit(prototypes)
    z = _unit(embedding, like=mu)
    own = nearest(z, mu, 1)[1][:, 0]
    return torch.cat([_angle(rows, mu[c]) for rows, c in zip(z.split(TILE), own.split(TILE), strict=True)])


def separability(embedding: Tensor, ood: Tensor, prototypes: Tensor) -> float:
    """Mean angle to the nearest prototype: OOD (M, d) minus ID rows (N, d). Degrees, higher = better told apart."""
    return float(nearest_angle(ood, prototypes).mean() - nearest_angle(embedding, prototypes).mean())


def overlap(embedding: Tensor, ood: Tensor, prototypes: Tensor, bins: int = 32) -> float:
    """Integral of the lesser of two densities: those of the angle to the nearest prototype of ID rows (N, d) and of OOD
    rows (M, d). 0..1, lower = better told apart.

    The densities are histograms on common equal bins from the least to the greatest of all angles. Twice the same
    distribution (Gaussian rows, d = 128) does not read 1 but .92 with 1,000 rows a side, .98 with 10,000.
    """
    if bins < 2:
        raise ConfigError(f"overlap: bins must be at least 2, got {bins}. Try 32.")
    sides = [nearest_angle(rows, prototypes) for rows in (embedding, ood)]
    low, high = (float(f(torch.stack([f(side) for side in sides]))) for f in (torch.min, torch.max))
    share = [torch.histc(side, bins, low, high) / len(side) for side in sides]
    return float(torch.minimum(*share).sum())


def uniformity(embedding: Tensor, t: float = 2.0) -> float:
    """Log mean Gaussian potential of all pairs of rows of embedding (N, d), N >= 2. Nats, lower = more uniform."""
    if not 0 < t <= 150:
        raise ConfigError(f"uniformity: t must be above 0 and at most 150 (exp(-4 t) underflows), got {t}. Try 2.")
    if len(embedding) < 2:
        raise DataError(f"uniformity: needs two rows or more, got {len(embedding)}.")
    tiles, sums = _unit(embedding).split(TILE), []
    for i, rows in enumerate(tiles):
        sums.append(float((rows @ rows.T).sub_(1).mul_(2 * t).exp_().triu_(1).sum()))  # |x - y|^2 = 2 - 2 x . y
        sums += [float((rows @ other.T).sub_(1).mul_(2 * t).exp_().sum()) for other in tiles[i + 1 :]]
    return log(fsum(sums) / (len(embedding) * (len(embedding) - 1) / 2))


def alignment(embedding: Tensor, label: Tensor) -> float:
    """Mean squared distance of the pairs of rows of embedding (N, d) of the same label (N,). 0..4, lower = tighter."""
    z = _unit(embedding)
    label = _label(z, label)
    means = ClassMeans()
    means.add(z, label)
    mean, tiles = means.mean, zip(z.split(TILE), label.split(TILE), strict=True)
    square = torch.cat([(rows - mean[own]).square().sum(dim=1) for rows, own in tiles])  # (N,)
    pairs = float((means.count * (means.count - 1)).sum())
    if not pairs:
        raise DataError("alignment: no class has two rows, so there is no positive pair.")
    return float((square * means.count[label]).sum()) * 2 / pairs  # sum over pairs = n times the sum around the mean


def effective_rank(embedding: Tensor) -> float:
    """How many directions the rows of embedding (N, d) fill: exp of the entropy of the singular values' shares."""
    z = _unit(embedding)
    triangle = z[:0]
    for rows in z.split(max(TILE, z.shape[1])):  # R of a QR has the singular values, without squaring them away
        triangle = torch.linalg.qr(torch.cat([triangle, rows]), mode="r").R
    share = torch.linalg.svdvals(triangle)
    share = share / share.sum()
    return exp(float(torch.special.entr(share).sum()))


def _angle(x: Tensor, y: Tensor) -> Tensor:
    return torch.rad2deg(2 * torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1)))


def _pair_angles(unit: Tensor) -> Iterator[Tensor]:
    """Angles of all pairs i < j of unit rows, a tile of rows i at a time."""
    slow = "donot_use_mm_for_euclid_dist"  # the product form has half the digits
    for start in range(0, len(unit) - 1, TILE):
        rows, rest = unit[start : start + TILE], unit[start:]
        apart, together = torch.cdist(rows, rest, compute_mode=slow), torch.cdist(rows, -rest, compute_mode=slow)
        i, j = torch.triu_indices(len(rows), len(rest), 1, device=unit.device)
        yield torch.rad2deg(2 * torch.atan2(apart[i, j], together[i, j]))


def _prototypes(z: Tensor, label: Tensor, given: Tensor | None, classes: int | None) -> tuple[Tensor, list[int]]:
    """Unit prototypes (C, d), NaN for a class without row unless they were given, and the number of rows per class."""
    largest = int(label.max())
    if given is not None and classes not in (None, len(given)):
        raise ShapeError(f"geometry: classes={classes}, but {len(given)} prototypes. Leave classes out.")
    most = len(given) if given is not None else largest + 1 if classes is None else classes
    if largest >= most:
        raise ShapeError(f"geometry: labels run to {largest}, expected 0..{most - 1}. Drop those rows or add classes.")
    means = ClassMeans(most)
    means.add(z, label)
    if given is not None:
        return _unit(given, like=z), means.count.tolist()
    cancelled = (means.mean.norm(dim=1) < 1e-12).nonzero()[:, 0].tolist()
    if cancelled:
        raise DataError(f"geometry: the rows of class {cancelled[0]} cancel out and have no mean. Pass prototypes.")
    return means.direction, means.count.tolist()


def _label(z: Tensor, label: Tensor) -> Tensor:
    if label.shape != z.shape[:1] or label.is_floating_point() or label.is_complex() or int(label.min()) < 0:
        got = f"{label.dtype} {tuple(label.shape)}" + (f", the least {label.min()}" if label.numel() else "")
        raise ShapeError(f"geometry: expected integer labels 0.. of shape ({len(z)},), one per row, got {got}.")
    return label.to(z.device).long()


def _unit(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Rows x (N, d) in float64 at length one, on the device and of the width of `like`."""
    if x.ndim != 2 or 0 in x.shape or (like is not None and x.shape[1] != like.shape[1]):
        width = "d" if like is None else like.shape[1]
        raise ShapeError(f"geometry: expected rows (N, {width}), N and d at least 1, got {tuple(x.shape)}.")
    x = float64(x.detach()) if like is None else float64(x.detach()).to(like.device)
    length = x.norm(dim=1, keepdim=True)
    bad = (~((length > 0) & length.isfinite())).nonzero()[:, 0].tolist()
    if bad:
        raise DataError(
            f"geometry: rows without direction (zero, NaN, infinite): {len(bad)}, first {bad[0]}. Drop them."
        )
    unit: Tensor = x / length
    return unit
