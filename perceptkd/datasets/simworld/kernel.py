"""How the world's numba kernels are compiled.

Strict floating point, one thread, no global lock. Compiled code is kept beside the source; numba renews it when the
file of the outermost kernel changes, but not when one that it calls does: ``make clean`` after editing kernels.
"""

import numba

kernel = numba.njit(cache=True, nogil=True, error_model="numpy")
inlined_kernel = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
