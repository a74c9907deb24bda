// One side of the ops as plain pointers, and the joins over it that CPU and CUDA share.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define TRACINWE_HOST_DEVICE __host__ __device__
#else
#define TRACINWE_HOST_DEVICE
#endif

namespace tracinwe {

// CSR: example i owns the rows ptr[i]:ptr[i + 1], whose ids ascend.
struct Rows {
  const int64_t* ptr;
  const int64_t* ids;
  int64_t examples;
};

TRACINWE_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Where block number `block` of `blocks` starts when 0:size is cut evenly; blocks differ by at most one.
// Written so that no product can overflow: size * block may.
TRACINWE_HOST_DEVICE inline int64_t block_start(int64_t size, int64_t blocks, int64_t block) {
  const int64_t each = size / blocks, more = size % blocks;
  return block * each + (block < more ? block : more);
}

// First position in the ascending values[first:last] that holds at least `value`; `last` where none does.
TRACINWE_HOST_DEVICE inline int64_t lower_bound(const int64_t* values, int64_t first, int64_t last, int64_t value) {
  while (first < last) {
    const int64_t middle = first + (last - first) / 2;
    if (values[middle] < value)
      first = middle + 1;
    else
      last = middle;
  }
  return first;
}

// Position of `value` in the ascending, unique values[0:size], or -1.
TRACINWE_HOST_DEVICE inline int64_t find(const int64_t* values, int64_t size, int64_t value) {
  const int64_t at = lower_bound(values, 0, size, value);
  return at < size && values[at] == value ? at : -1;
}

// Merge join of two examples: visit(row of a, row of b) for every id they share, ids ascending.
template <class Visit>
TRACINWE_HOST_DEVICE inline void for_each_shared(
    const Rows& a, int64_t example_a, const Rows& b, int64_t example_b, Visit&& visit) {
  int64_t row_a = a.ptr[example_a], row_b = b.ptr[example_b];
  const int64_t end_a = a.ptr[example_a + 1], end_b = b.ptr[example_b + 1];
  while (row_a < end_a && row_b < end_b) {
    const int64_t id_a = a.ids[row_a], id_b = b.ids[row_b];
    if (id_a == id_b) visit(row_a, row_b);
    row_a += id_a <= id_b;
    row_b += id_b <= id_a;
  }
}

TRACINWE_HOST_DEVICE inline int64_t count_shared(const Rows& a, int64_t example_a, const Rows& b, int64_t example_b) {
  int64_t count = 0;
  for_each_shared(a, example_a, b, example_b, [&count](int64_t, int64_t) { ++count; });
  return count;
}

// What is wrong with a CSR side; the words for each are in check.h.
enum Fault : int { kSound = 0, kEnds = 1, kFalls = 2, kNegative = 4, kUnordered = 8 };

// Faults of ptr at entry i of 0:examples (the ends themselves are looked at by the caller).
TRACINWE_HOST_DEVICE inline int ptr_fault(const int64_t* ptr, int64_t i) {
  return ptr[i] <= ptr[i + 1] ? kSound : kFalls;
}

// Faults of the ids of example i. Needs a sound ptr: it is what bounds the reads.
TRACINWE_HOST_DEVICE inline int ids_fault(const Rows& side, int64_t i) {
  int faults = kSound;
  for (int64_t row = side.ptr[i]; row < side.ptr[i + 1]; ++row) {
    if (side.ids[row] < 0) faults |= kNegative;
    if (row > side.ptr[i] && side.ids[row] <= side.ids[row - 1]) faults |= kUnordered;
  }
  return faults;
}

}  // namespace tracinwe
