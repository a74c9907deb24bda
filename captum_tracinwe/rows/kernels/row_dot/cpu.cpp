// row_dot on the CPU: training rows grouped by token block by block, then register tiles of dot products.
//
// The scores are cut into blocks of (test examples × training examples); a block is owned by one thread, so that
// neither writes collide nor a few frequent tokens serialise. Within a block, tokens are visited in ascending order:
// every score is the same sum in the same order, whatever the blocks and the number of threads.

#include "cpu/blocks.h"

namespace tracinwe {
namespace {

constexpr int64_t kMaxExamplesB = 2048, kMaxExamplesInOrder = 256;
// Up to this many test examples, few rows have a token in common: memory is read in order instead of token by token.
constexpr int64_t kFewExamplesA = 1;

// What one thread needs to work off a block; reused from block to block.
template <class S, class T>
struct Worker {
  const TestBlock<S>& test;
  Rows rows;
  const T* values;
  int64_t stride, width, distance;
  ScoreTile<S> scores;
  Buffer<int64_t> found_rows;  // the block's rows that have a token of the test examples, in memory order,
  Buffer<int32_t> found_lists, found_examples;  // their posting lists and examples, counted from the block's first
  Buffer<const T*> rows_b;
  Buffer<const S*> rows_a;
  Buffer<S*> cells;
  std::vector<int64_t> ends;

  Worker(const TestBlock<S>& test_, const Side& b)
      : test(test_), rows(b.view()), values(static_cast<const T*>(b.values.const_data_ptr())), stride(b.stride()),
        width(b.width()), distance(rows_ahead<T>(b.width())) {}

  void block(int64_t begin, int64_t end, S* out) {
    const int64_t n = test.examples(), m = end - begin;
    scores.cleared(n, m);
    if (n <= kFewExamplesA)
      in_memory_order(begin, end);
    else
      by_token(begin, end);
    scores.write(n, m, out, rows.examples, begin);
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
    const T** b = rows_b.room_for(count);
    S** cell = cells.room_for(count);
    for (int64_t c = 0; c < count; ++c) {
      const int64_t at = ends[found[c]]++;
      b[at] = values + found_rows.data[c] * stride;
      cell[at] = scores.row(found_examples.data[c], n);
    }
    Ahead<T> ahead{b, b + count, rows_in_cache<T>(width)};
    for (int64_t t = 0, at = 0; t < lists; at = ends[t++]) {
      if (ends[t] == at) continue;
      const int64_t start = test.postings.start[t];
      add_list(
          test.packed.get() + start * test.pitch, test.pitch, test.postings.examples.data() + start,
          test.postings.length(t), b + at, ends[t] - at, ahead, cell + at, width);
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
        cell[at] = scores.row(found_examples.data[c], n) + test.postings.examples[p];
      }
    std::fill(b + total, b + total + distance + 4, b[total - 1]);
    add_pairs(a, b, total, distance, cell, width);
  }
};

template <class T>
void fill_scores(const Side& a, const Side& b, Tensor& scores) {
  using S = sum_t<T>;
  fill_blocks<S, T>(
      a, b.examples(), b.rows(), static_cast<S*>(scores.mutable_data_ptr()),
      [](int64_t n) { return n <= kFewExamplesA ? kMaxExamplesInOrder : kMaxExamplesB; },
      [&b](const TestBlock<S>& test) { return Worker<S, T>(test, b); });
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
