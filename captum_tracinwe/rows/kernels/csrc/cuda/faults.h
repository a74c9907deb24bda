// Entries checked on the device: one launch for both sides, a thread for each entry; the host looks when the call is done.
//
// Kernels that follow read ptr and ids as they are, so each of them ends at once where a fault was found. Only posting
// lists are checked later, row by row as they are read: what is wrong with them can lead no kernel out of its memory.
#pragma once

#include "device.h"

namespace tracinwe {
namespace {

struct Faults {
  int side[2];  // of a and b: bits of Fault
  int pair;     // whether a pair names an example that is not there
  int list;     // the first posting list with a wrong example, counted from -kLastList; 0: none
};
constexpr int kLastList = 0x7FFFFFFF;

__device__ inline bool any(const Faults* faults) {
  return faults->side[0] || faults->side[1] || faults->pair;
}

__device__ inline void note_list(Faults* faults, int list) {
  atomicMin(&faults->list, list - kLastList);
}

// Whether an example begins at this row. Bounded by the number of examples even where ptr is wrong.
__device__ inline bool begins_example(const Rows& side, int64_t row) {
  const int64_t at = lower_bound(side.ptr, 0, side.examples + 1, row);
  return at <= side.examples && side.ptr[at] == row;
}

// A thread for each entry of ptr, then one for each id. Ids that fall are rare but where an example ends: only there ptr is
// searched, so that an example of 30,000 rows costs no more than a thousand of 30.
__device__ inline int entry_faults(const Rows& side, int64_t rows, int64_t entry) {
  if (entry < side.examples) return ptr_fault(side.ptr, entry);
  if (entry == side.examples) return side.ptr[0] == 0 && side.ptr[side.examples] == rows ? kSound : kEnds;
  const int64_t row = entry - side.examples - 1;
  int faults = side.ids[row] < 0 ? kNegative : kSound;
  if (row > 0 && side.ids[row] <= side.ids[row - 1] && !begins_example(side, row)) faults |= kUnordered;
  return faults;
}

__global__ void find_faults(Rows a, int64_t rows_a, Rows b, int64_t rows_b, Faults* faults) {
  const int64_t entries_a = a.examples + 1 + rows_a, entries = entries_a + b.examples + 1 + rows_b;
  for (int64_t t = thread_index(); t < entries; t += thread_count()) {
    const bool of_a = t < entries_a;
    const int found = of_a ? entry_faults(a, rows_a, t) : entry_faults(b, rows_b, t - entries_a);
    if (found) atomicOr(&faults->side[of_a ? 0 : 1], found);
  }
}

// The same for posting lists: of b only ptr and the tokens.
__global__ void find_list_faults(Rows a, int64_t rows_a, Rows lists, int64_t rows, const int64_t* tokens, Faults* faults) {
  const int64_t entries_a = a.examples + 1 + rows_a, entries = entries_a + lists.examples + 1;
  for (int64_t t = thread_index(); t < entries; t += thread_count()) {
    if (t < entries_a) {
      if (const int found = entry_faults(a, rows_a, t)) atomicOr(&faults->side[0], found);
      continue;
    }
    const int64_t list = t - entries_a;
    int found = entry_faults(lists, rows, list);
    if (list < lists.examples && tokens[list] < 0) found |= kNegative;
    if (list > 0 && list < lists.examples && tokens[list] <= tokens[list - 1]) found |= kUnordered;
    if (found) atomicOr(&faults->side[1], found);
  }
}

inline Faults* new_faults(Scratch& scratch, cudaStream_t stream) {
  Faults* const faults = scratch.array<Faults>(1);
  check_cuda(cudaMemsetAsync(faults, 0, sizeof(Faults), stream), "clearing a flag");
  return faults;
}

// Words for what was found in the entries of a side.
[[noreturn]] inline void reject_side(const Side& side, int found, cudaStream_t stream) {
  const auto ptr = to_host(side.view().ptr, side.examples() + 1, stream);
  const auto ids = to_host(side.view().ids, found & (kEnds | kFalls) ? 0 : side.rows(), stream);
  reject_entries(side, {ptr.data(), ids.data(), side.examples()}, side.rows(), found);
}

}  // namespace
}  // namespace tracinwe
