// The scores of a few training examples with all tests of a call, in shared memory: products are added there, in order.
#pragma once

#include "lists.h"

namespace tracinwe {
namespace {

constexpr int kSumThreads = 256;

// A line of 128 bytes of each test example's scores: they are written whole.
template <class S>
constexpr int kOwned = 128 / sizeof(S);

// Odd, so that neither examples nor tests side by side meet in a bank.
TRACINWE_HOST_DEVICE inline int64_t score_pitch(int64_t tests) {
  return tests | 1;
}

template <class S>
size_t score_bytes(int64_t tests) {
  return static_cast<size_t>(kOwned<S> * score_pitch(tests)) * sizeof(S);
}

// Where the scores go: tests first_a:first_a + tests, all training examples.
template <class S>
struct Scores {
  S* scores;
  int64_t first_a, tests, examples_b;

  // Training examples first_b:first_b + owned; sums[example * pitch + test].
  __device__ void read(S* sums, int64_t first_b, int owned, bool zero) const {
    const int64_t pitch = score_pitch(tests);
    for (int64_t cell = threadIdx.x; cell < tests * kOwned<S>; cell += blockDim.x) {
      const int64_t test = cell / kOwned<S>, example = cell % kOwned<S>;
      const bool there = !zero && example < owned;
      sums[example * pitch + test] = there ? scores[(first_a + test) * examples_b + first_b + example] : S(0);
    }
  }
  __device__ void write(const S* sums, int64_t first_b, int owned) const {
    const int64_t pitch = score_pitch(tests);
    for (int64_t cell = threadIdx.x; cell < tests * kOwned<S>; cell += blockDim.x) {
      const int64_t test = cell / kOwned<S>, example = cell % kOwned<S>;
      if (example < owned) scores[(first_a + test) * examples_b + first_b + example] = sums[example * pitch + test];
    }
  }
};

}  // namespace
}  // namespace tracinwe
