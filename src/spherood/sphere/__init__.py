"""The maths of the unit sphere: tensors in, tensors out; no file, no network."""

from spherood.sphere.boundary import boundary_outliers
from spherood.sphere.means import ClassMeans
from spherood.sphere.moments import Moments
from spherood.sphere.neighbors import nearest
from spherood.sphere.prototypes import advance
from spherood.sphere.shrinkage import ledoit_wolf
from spherood.sphere.subspace import residual_basis, zero_point
from spherood.sphere.unit import at_least_float32, float64, normalize

__all__ = [
    "ClassMeans",
    "Moments",
    "advance",
    "at_least_float32",
    "boundary_outliers",
    "float64",
    "ledoit_wolf",
    "nearest",
    "normalize",
    "residual_basis",
    "zero_point",
]
