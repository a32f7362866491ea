"""Tolerances that follow from floating-point arithmetic, never from what one machine gave.

The order of a sum differs between processors, numbers of threads and shapes of a batch. In any order the error of a sum
of n numbers is at most (n - 1) u times the sum of their sizes, u = eps / 2 (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd edition, section 4.2); two results therefore differ by at most n eps times that.
"""

import numpy as np

EPS = float(np.finfo(np.float32).eps)

# KL(old, new) of one policy whose log-probabilities are computed twice: half of the mean square of their difference d.
# Float32 results of the same small network agree to half their digits at least, |d| <= sqrt(2 eps) = 5e-4.
SAME_POLICY_KL = EPS


def rounding(terms: int, size: float = 1.0) -> float:
    """How far two float32 sums of the same ``terms`` numbers may lie apart.

    Args:
        terms: how many numbers; for a value behind several layers, of all layers together.
        size: the sum of the numbers' sizes, or a bound of it.
    """
    return terms * EPS * size
