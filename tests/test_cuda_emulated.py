"""The CUDA kernels, run on a processor: their threads are emulated (`cuda_emulated/`), so a machine without a GPU runs them.

Generated cases of all ops against plain loops: every dtype, rows of 0 to 769 columns in four layouts, examples without rows,
ids beyond 2³¹, no test or training example, one, some, and more than fit one call of a kernel. Each case runs again with its
threads in another order and must give the same bits, as must a part of its examples in a call of their own, `posting_dot` and
the sum of `row_dot_terms`. What is unsound must be refused in words, and each failing call of CUDA must end in words.
"""

from __future__ import annotations

import pytest
from emulated_cuda import OLD, SANITIZE, WATCH, build, compiler_works, run_all

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not compiler_works(), reason="needs a C++ compiler on Linux"),
]


def test_kernels_are_right_in_any_order_of_threads_without_a_race(tmp_path) -> None:
    """2,000 cases. Watched: races between barriers, bounds, memory that nobody wrote, the host at the device's memory."""
    run_all(build(tmp_path, *WATCH), 2000, orders=2)


def test_kernels_are_clean_under_the_address_and_undefined_behaviour_sanitizers(tmp_path) -> None:
    run_all(build(tmp_path, *SANITIZE), 2000, orders=1)


def test_kernels_for_devices_before_ampere_are_right(tmp_path) -> None:
    run_all(build(tmp_path, *WATCH, *OLD), 300, orders=2)
