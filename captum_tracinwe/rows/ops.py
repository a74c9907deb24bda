"""The torch ops of the package: `row_dot` makes scores, `posting_dot` makes them from posting lists, `row_dot_terms` splits them.

One alphabet for the package: N test examples (side a), M training examples (side b), R rows, D columns of a row,
T positions of a text, V vocabulary, C checkpoints. **`scores[i, j]` is the influence of training example j on test
example i**; positive means proponent: a training step on j lowers the loss on i.
"""

from captum_tracinwe.rows.kernels.library import CUDA, load_native, schemas
from captum_tracinwe.rows.kernels.posting_dot import posting_dot
from captum_tracinwe.rows.kernels.row_dot import row_dot
from captum_tracinwe.rows.kernels.row_dot_terms import row_dot_terms

__all__ = [
    "NATIVE_CUDA_LIBRARY",
    "NATIVE_LIBRARY",
    "OPS",
    "native_cuda_error",
    "native_error",
    "posting_dot",
    "row_dot",
    "row_dot_terms",
]

#: Name of each op → its schema.
OPS = schemas
#: The compiled library for the CPU that is loaded, or None; and why there is none.
NATIVE_LIBRARY, native_error = load_native()
#: That for CUDA, the same.
NATIVE_CUDA_LIBRARY, native_cuda_error = load_native(CUDA)
