"""The BLAS and LAPACK routines that fits call thousands of times, without holding Python's lock.

scipy.linalg's wrappers keep the lock while a routine works, so two threads took as long as one; ctypes lets it go. The
shortest calls keep it, because another thread that takes it in between may hold it for longer. Of a symmetric matrix
only the upper triangle is read and written: in Fortran's order, which is by columns, the lower one.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from ctypes import CFUNCTYPE, PYFUNCTYPE, byref, c_int, c_void_p
from functools import cache

import numpy as np
import scipy.linalg.cython_blas
import scipy.linalg.cython_lapack
from scipy import LowLevelCallable

from vggfeat.classifiers.objective import Array

MODULES = {
    "potrf": scipy.linalg.cython_lapack,
    "potri": scipy.linalg.cython_lapack,
    "trsv": scipy.linalg.cython_blas,
    "syrk": scipy.linalg.cython_blas,
}
RIDGES = (1e2, 1e4, 1e6)
"""What the diagonal of a system that cannot be factorised grows by, in roundings of its trace."""
MOST_LOCKED = 600
"""Substitutions of at most this many unknowns (60 to 90 us) keep Python's lock."""


def solve_positive(build: Callable[[], Array], target: Array) -> Array:
    """(n,) the solution of a symmetric system (n, n) that is positive definite up to rounding; NaN if it overflowed.

    build() returns the system, which is overwritten: once, and again for each further try. Huge C or collinear columns
    leave a system that is singular to rounding. Its diagonal then grows until it can be factorised, which still gives a
    direction of descent; the duality gap tells how good the result is.
    """
    factor = _factor(build)
    if factor is not None:
        solution = target.copy()
        substitute(factor, solution)
        if math.isfinite(solution.sum()):
            return solution
    return np.full_like(target, np.nan)


def inverse_of_positive(build: Callable[[], Array]) -> Array:
    """(n, n) the inverse of a symmetric system that is positive definite up to rounding; NaN if it has none.

    build() and the growing diagonal are those of `solve_positive`.
    """
    factor = _factor(build)
    if factor is None:
        return np.full_like(build(), np.nan)
    call = _routine("potri", factor.dtype.char)
    n, status = c_int(len(factor)), c_int(0)  # it cannot fail: a factor's diagonal is positive
    if call is None:
        wrapper = scipy.linalg.get_lapack_funcs("potri", (factor,))
        factor.T[:], _ = wrapper(factor.T, lower=True)
    else:
        call(b"L", byref(n), factor.ctypes.data, byref(n), byref(status))
    upper = np.triu(factor)
    upper.ravel()[:: len(upper) + 1] /= 2
    return upper + upper.T


def _factor(build: Callable[[], Array]) -> Array | None:
    """The system's Cholesky factor, see `factorise`, with the least ridge that it needs; None if it has none."""
    system = build()
    if not factorise(system) and math.isfinite(_diagonal(system).sum()):
        return system
    for ridge in RIDGES:
        system = build()
        size = float(np.abs(_diagonal(system)).sum())
        if not math.isfinite(size):
            break
        _diagonal(system)[:] += system.dtype.type(ridge * np.finfo(system.dtype).eps * size)
        if not factorise(system):
            return system
    return None


def _diagonal(system: Array) -> Array:
    return system.ravel()[:: len(system) + 1]


def factorise(system: Array) -> int:
    """Turns the upper triangle of a system (n, n) into its Cholesky factor U, system = U'U; 0 unless that failed."""
    _check(system, shapes=len(system) == system.shape[1])
    call = _routine("potrf", system.dtype.char)
    if call is None:
        wrapper = scipy.linalg.get_lapack_funcs("potrf", (system,))
        system.T[:], failed = wrapper(system.T, lower=True, clean=False)
        return int(failed)
    n, status = c_int(len(system)), c_int(0)
    call(b"L", byref(n), system.ctypes.data, byref(n), byref(status))
    return status.value


def substitute(factor: Array, target: Array) -> None:
    """Turns target (n,) into the solution of the system of this factor (n, n).

    LAPACK's potrs, made for many targets, takes three times as long for one.
    """
    _check(factor, target, shapes=(len(target),) * 2 == factor.shape)
    call = _routine("trsv", factor.dtype.char, len(target) <= MOST_LOCKED)
    n, one = c_int(len(target)), c_int(1)
    data = factor.ctypes.data, byref(n), target.ctypes.data, byref(one)
    for transposed in (b"N", b"T"):
        if call is None:
            wrapper = scipy.linalg.get_blas_funcs("trsv", (factor,))
            target[:] = wrapper(factor.T, target, lower=True, trans=transposed == b"T")
        else:
            call(b"L", transposed, b"N", byref(n), *data)


def add_squares(total: Array, rows: Array, factor: float) -> None:
    """Adds factor rows' rows, of rows (m, n), to the upper triangle of total (n, n)."""
    _check(total, rows, shapes=(rows.shape[1],) * 2 == total.shape)
    call = _routine("syrk", total.dtype.char)
    if call is None:
        wrapper = scipy.linalg.get_blas_funcs("syrk", (total,))
        total[:] = wrapper(factor, rows.T, beta=1.0, c=total.T, lower=True).T
        return
    number = np.ctypeslib.as_ctypes_type(total.dtype)
    m, n = (c_int(size) for size in rows.shape)
    terms = byref(number(factor)), rows.ctypes.data, byref(n), byref(number(1)), total.ctypes.data, byref(n)
    call(b"L", b"N", byref(n), byref(m), *terms)


def _check(*arrays: Array, shapes: bool) -> None:
    """Raises ValueError for arrays that a routine would read wrongly, in silence, by their addresses."""
    if not (shapes and all(one.flags.c_contiguous and one.dtype == arrays[0].dtype for one in arrays)):
        raise ValueError("the arrays must be contiguous, of one dtype and of shapes that agree")


@cache
def _routine(name: str, char: str, locked: bool = False) -> Callable[..., None] | None:
    """A routine for a dtype's character (f or d), or None where it counts in other integers than C's int.

    locked: it keeps Python's lock.
    """
    found = LowLevelCallable.from_cython(MODULES[name], {"f": "s", "d": "d"}[char] + name)
    types = found.signature[found.signature.index("(") + 1 : -1].split(", ")
    if "int *" not in types:
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = pointer(found.function, found.signature.encode())
    kind = PYFUNCTYPE if locked else CFUNCTYPE
    return kind(None, *[c_void_p] * len(types))(address)
