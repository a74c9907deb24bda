// row_dot on the CPU: training rows grouped by token block by block, then register tiles of dot products.
//
// The scores are cut into blocks of (test examples × training examples); a block is owned by one thread, so that
// neither writes collide nor a few frequent tokens serialise. Within a block, tokens are visited in ascending order:
// every score is the same sum in the same order, whatever the blocks and the number of threads.

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
constexpr int64_t kMinExamplesB = 64, kMaxExamplesB = 2048, kMaxExamplesInOrder = 256;
// Test examples that are grouped at once: 256 × 35 rows × 768 float32 columns are 27 MB, a fraction of L3 and memory.
constexpr int64_t kMaxExamplesA = 256, kMaxRowsA = int64_t{1} << 16, kMaxPackedBytes = int64_t{1} << 26;
// With fewer rows than this, a block is not worth a thread's while.
constexpr int64_t kMinRowsPerBlock = 2048;
// Up to this many test examples, few rows have a token in common: memory is read in order instead of token by token.
constexpr int64_t kFewExamplesA = 1;
// Rows are fetched this many bytes before they are needed: about 0.4 µs at 20 GB/s per core.
constexpr int64_t kBytesAhead = 8192;

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

// What one thread needs to work off a block; reused from block to block.
template <class S, class T>
struct Worker {
  const TestBlock<S>& test;
  Rows rows;
  const T* values;
  int64_t stride, width, distance;
  Buffer<S> scores;  // (training examples of the block, test examples): a row's products land close together
  Buffer<int64_t> found_rows;  // the block's rows that have a token of the test examples, in memory order,
  Buffer<int32_t> found_lists, found_examples;  // their posting lists and examples, counted from the block's first
  Buffer<const T*> rows_b;
  Buffer<const S*> rows_a;
  Buffer<S*> cells;
  std::vector<int64_t> ends;

  Worker(const TestBlock<S>& test_, const Side& b)
      : test(test_), rows(b.view()), values(static_cast<const T*>(b.values.const_data_ptr())), stride(b.stride()),
        width(b.width()) {
    const int64_t row_bytes = std::max<int64_t>(64, width * static_cast<int64_t>(sizeof(T)));
    distance = std::min<int64_t>(64, ceil_div(kBytesAhead, row_bytes * 4) * 4);
  }

  void block(int64_t begin, int64_t end, S* out) {
    const int64_t n = test.examples(), m = end - begin;
    S* tile = scores.room_for(n * m);
    std::fill(tile, tile + n * m, S(0));
    if (n <= kFewExamplesA)
      in_memory_order(begin, end);
    else
      by_token(begin, end);
    // Transposed into the result in squares: 16 float32 are a cache line on either side.
    for (int64_t j = 0; j < m; j += 16)
      for (int64_t i = 0; i < n; ++i)
        for (int64_t jj = j; jj < std::min(m, j + 16); ++jj)
          out[(test.first + i) * rows.examples + begin + jj] = tile[jj * n + i];
  }

 private:
  template <class Find>
  int64_t find_rows(int64_t first, int64_t last, const Find& find_list) {
    int64_t* row_out = found_rows.room_for(last - first + 1);
    int32_t* list_out = found_lists.room_for(last - first + 1);
    int64_t count = 0;
    for (int64_t row = first; row < last; ++row) {
      const int32_t list = find_list(rows.ids[row]);
      row_out[count] = row;
      list_out[count] = list;
      count += list >= 0;  // no branch: which rows match cannot be predicted
    }
    return count;
  }

  // Fills found_*; how many there are. A gather of 8 ids at once took 0.6 ms for 790,000, this loop 0.8: not worth it.
  int64_t match(int64_t begin, int64_t end) {
    const int64_t first = rows.ptr[begin], last = rows.ptr[end];
    const Lookup& lookup = test.lookup;
    const int64_t count = lookup.direct()
        ? find_rows(first, last, lookup.table())
        : find_rows(first, last, [&](int64_t id) { return lookup.in_hash(id); });
    int32_t* example = found_examples.room_for(count);
    for (int64_t j = begin, c = 0; j < end; ++j)
      for (; c < count && found_rows.data[c] < rows.ptr[j + 1]; ++c) example[c] = static_cast<int32_t>(j - begin);
    return count;
  }

  void by_token(int64_t begin, int64_t end) {
    const int64_t n = test.examples(), lists = test.postings.lists(), count = match(begin, end);
    if (!count) return;
    const int32_t* found = found_lists.data.get();
    ends.assign(static_cast<size_t>(lists) + 1, 0);
    for (int64_t c = 0; c < count; ++c) ++ends[found[c] + 1];
    for (int64_t t = 0; t < lists; ++t) ends[t + 1] += ends[t];
    const T** b = rows_b.room_for(count + distance + 4);
    S** cell = cells.room_for(count);
    for (int64_t c = 0; c < count; ++c) {
      const int64_t at = ends[found[c]]++;
      b[at] = values + found_rows.data[c] * stride;
      cell[at] = scores.data.get() + found_examples.data[c] * n;
    }
    std::fill(b + count, b + count + distance + 4, b[count - 1]);
    for (int64_t t = 0, at = 0; t < lists; at = ends[t++]) {
      if (ends[t] == at) continue;
      const int64_t start = test.postings.start[t];
      add_list(
          test.packed.get() + start * test.pitch, test.pitch, test.postings.examples.data() + start,
          test.postings.length(t), b + at, ends[t] - at, distance, cell + at, width);
    }
  }

  void in_memory_order(int64_t begin, int64_t end) {
    const int64_t n = test.examples(), count = match(begin, end);
    if (!count) return;
    const int32_t* found = found_lists.data.get();
    int64_t total = 0;
    for (int64_t c = 0; c < count; ++c) total += test.postings.length(found[c]);
    const S** a = rows_a.room_for(total);
    const T** b = rows_b.room_for(total + distance + 4);
    S** cell = cells.room_for(total);
    int64_t at = 0;
    for (int64_t c = 0; c < count; ++c)
      for (int64_t p = test.postings.start[found[c]]; p < test.postings.start[found[c] + 1]; ++p, ++at) {
        a[at] = test.packed.get() + p * test.pitch;
        b[at] = values + found_rows.data[c] * stride;
        cell[at] = scores.data.get() + found_examples.data[c] * n + test.postings.examples[p];
      }
    std::fill(b + total, b + total + distance + 4, b[total - 1]);
    add_pairs(a, b, total, distance, cell, width);
  }
};

template <class T>
void fill_scores(const Side& a, const Side& b, Tensor& scores) {
  using S = sum_t<T>;
  const Rows rows_a = a.view(), rows_b = b.view();
  const T* values_a = static_cast<const T*>(a.values.const_data_ptr());
  S* out = static_cast<S*>(scores.mutable_data_ptr());
  const int64_t m = rows_b.examples, threads = torch::stable::get_num_threads();
  for (int64_t first = 0, last; first < rows_a.examples; first = last) {
    last = end_of_test_block(a, rows_a, sizeof(S), first);
    const TestBlock<S> test(a, values_a, first, last);
    const int64_t fitting = kScoreBytes / (test.examples() * static_cast<int64_t>(sizeof(S)));
    const int64_t most = test.examples() <= kFewExamplesA ? kMaxExamplesInOrder : kMaxExamplesB;
    const int64_t largest = std::max(kMinExamplesB, std::min(most, fitting));
    // A few blocks for each thread even out what their examples cost.
    const int64_t shares = threads > 1 ? std::min(4 * threads, 1 + b.rows() / kMinRowsPerBlock) : 1;
    const int64_t blocks = std::min(m, std::max(ceil_div(m, largest), shares));
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, std::min(threads, blocks), 1, [&](int64_t begin, int64_t end) {
      Worker<S, T> worker(test, b);
      for (int64_t share = begin; share < end; ++share)
        for (int64_t block; (block = next++) < blocks;)
          worker.block(block_start(m, blocks, block), block_start(m, blocks, block + 1), out);
    });
  }
}

Tensor row_dot(
    const Tensor& ptr_a, const Tensor& ids_a, const Tensor& values_a, const Tensor& ptr_b, const Tensor& ids_b,
    const Tensor& values_b) {
  const Side a = checked_shapes("a", ptr_a, ids_a, values_a), b = checked_shapes("b", ptr_b, ids_b, values_b);
  check_entries(a);
  check_entries(b);
  check_alike(a, b);
  Tensor scores = new_result(a, {a.examples(), b.examples()});
  if (!a.examples() || !b.examples()) return scores;
  switch (a.values.scalar_type()) {
    case ScalarType::Float: fill_scores<float>(a, b, scores); break;
    case ScalarType::Double: fill_scores<double>(a, b, scores); break;
    case ScalarType::Half: fill_scores<Half>(a, b, scores); break;
    default: fill_scores<BFloat16>(a, b, scores);
  }
  return scores;
}

}  // namespace
}  // namespace tracinwe

STABLE_TORCH_LIBRARY_IMPL(captum_tracinwe, CPU, m) {
  m.impl("row_dot", TORCH_BOX(&tracinwe::row_dot));
}
