// Scores in blocks of (test examples × training examples), each owned by one thread: shared by row_dot and posting_dot.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "../postings.h"
#include "check_entries.h"
#include "simd.h"

namespace tracinwe {
namespace {

// A block's scores stay in the L2 cache (1 MiB on current servers, shared with the rows being multiplied).
constexpr int64_t kScoreBytes = int64_t{1} << 19;
constexpr int64_t kMinExamplesB = 64;
// Test examples that are grouped at once: 256 × 35 rows × 768 float32 columns are 27 MB, a fraction of L3 and memory.
constexpr int64_t kMaxExamplesA = 256, kMaxRowsA = int64_t{1} << 16, kMaxPackedBytes = int64_t{1} << 26;
// With fewer rows than this, a block is not worth a thread's while.
constexpr int64_t kMinRowsPerBlock = 2048;
// Rows are fetched this many bytes before they are needed: about 0.7 µs at 25 GB/s per core.
constexpr int64_t kBytesAhead = 16384;
// And at most this many wait in L2. With four times as much, rows of 256 bytes were there and gone again: 27 ms for 20,000 x
// 64 examples at D = 64 instead of 20, and at D = 128 now 28, now 39.
constexpr int64_t kBytesWaiting = int64_t{1} << 16;

// Memory that is not cleared: std::vector would write every page before its use.
template <class X>
struct Buffer {
  std::unique_ptr<X[]> data;
  int64_t size = 0;
  X* room_for(int64_t n) {
    if (n > size) {
      data.reset(new X[static_cast<size_t>(n)]);
      size = n;
    }
    return data.get();
  }
};

// Examples first:last of side a: by token, rows packed list by list in the type of the sums.
template <class S>
struct TestBlock {
  int64_t first, last, pitch;
  Postings postings;
  Lookup lookup;
  std::unique_ptr<S[]> packed;

  int64_t examples() const { return last - first; }

  template <class T>
  TestBlock(const Side& a, const T* values, int64_t first_, int64_t last_)
      : first(first_), last(last_), pitch(ceil_div(a.width(), kPad<S>) * kPad<S>), postings(a.view(), first, last),
        lookup(postings.ids), packed(new S[postings.rows.size() * static_cast<size_t>(pitch)]) {
    const int64_t width = a.width(), stride = a.stride();
    torch::stable::parallel_for(0, static_cast<int64_t>(postings.rows.size()), 256, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const T* from = values + postings.rows[p] * stride;
        S* to = packed.get() + p * pitch;
        for (int64_t k = 0; k < width; ++k) to[k] = static_cast<S>(from[k]);
        for (int64_t k = width; k < pitch; ++k) to[k] = S(0);
      }
    });
  }
};

// Last example of a block of side a that starts at `first`.
int64_t end_of_test_block(const Side& a, const Rows& rows, size_t sum_bytes, int64_t first) {
  const int64_t row_bytes = std::max<int64_t>(1, a.width()) * static_cast<int64_t>(sum_bytes);
  const int64_t max_rows = std::max<int64_t>(1, std::min(kMaxRowsA, kMaxPackedBytes / row_bytes));
  const int64_t furthest = std::min(rows.examples, first + kMaxExamplesA);
  const int64_t by_rows = lower_bound(rows.ptr, first + 1, furthest + 1, rows.ptr[first] + max_rows + 1) - 1;
  return std::max(first + 1, std::min(by_rows, furthest));
}

// Rows of `width` elements that are fetched ahead.
template <class T>
int64_t rows_ahead(int64_t width) {
  const int64_t row_bytes = std::max<int64_t>(64, width * static_cast<int64_t>(sizeof(T)));
  return std::min<int64_t>(64, ceil_div(kBytesAhead, row_bytes * 4) * 4);
}

// Rows of `width` elements that may wait in L2 beside the scores and the test rows.
template <class T>
int64_t rows_in_cache(int64_t width) {
  return std::max<int64_t>(4, kBytesWaiting / std::max<int64_t>(64, width * static_cast<int64_t>(sizeof(T))));
}

// The scores of one block while they are added up, (training examples, test examples): a row's products land together.
template <class S>
struct ScoreTile {
  Buffer<S> buffer;

  S* cleared(int64_t n, int64_t m) {
    S* tile = buffer.room_for(n * m);
    std::fill(tile, tile + n * m, S(0));
    return tile;
  }
  S* row(int64_t j, int64_t n) const { return buffer.data.get() + j * n; }

  // Transposed into the result (·, all) at its column `begin`, in squares: 16 float32 are a cache line on either side.
  void write(int64_t n, int64_t m, S* out, int64_t all, int64_t begin) const {
    const S* tile = buffer.data.get();
    for (int64_t j = 0; j < m; j += 16)
      for (int64_t i = 0; i < n; ++i)
        for (int64_t jj = j; jj < std::min(m, j + 16); ++jj) out[i * all + begin + jj] = tile[jj * n + i];
  }
};

// Cuts the scores of side a against m training examples with `rows_b` rows into blocks, and has threads work them off.
// make_worker(test block) → a thread's worker, whose block(begin, end, out) fills the columns begin:end of the test
// block's rows of the result; at most `most(test examples)` training examples to a block.
template <class S, class T, class MakeWorker, class Most>
void fill_blocks(const Side& a, int64_t m, int64_t rows_b, S* out, const Most& most, const MakeWorker& make_worker) {
  const Rows rows_a = a.view();
  const T* values_a = static_cast<const T*>(a.values.const_data_ptr());
  const int64_t threads = torch::stable::get_num_threads();
  for (int64_t first = 0, last; first < rows_a.examples; first = last) {
    last = end_of_test_block(a, rows_a, sizeof(S), first);
    const TestBlock<S> test(a, values_a, first, last);
    const int64_t fitting = kScoreBytes / (test.examples() * static_cast<int64_t>(sizeof(S)));
    const int64_t largest = std::max(kMinExamplesB, std::min(most(test.examples()), fitting));
    // A few blocks for each thread even out what their examples cost.
    const int64_t shares = threads > 1 ? std::min(4 * threads, 1 + rows_b / kMinRowsPerBlock) : 1;
    const int64_t blocks = std::min(m, std::max(ceil_div(m, largest), shares));
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, std::min(threads, blocks), 1, [&](int64_t begin, int64_t end) {
      auto worker = make_worker(test);
      for (int64_t share = begin; share < end; ++share)
        for (int64_t block; (block = next++) < blocks;)
          worker.block(block_start(m, blocks, block), block_start(m, blocks, block + 1), out + first * m);
    });
  }
}

}  // namespace
}  // namespace tracinwe
