// posting_dot on the CPU: training rows that lie token by token are read as they lie, in long runs.
//
// Blocks and their owners are those of row_dot, and so are the sums: the same bits.

#include "cpu/blocks.h"

namespace tracinwe {
namespace {

// Rows of a list that are worked off at once: their pointers and cells stay in the L1 cache.
constexpr int64_t kRun = 512;

template <class S, class T>
struct Worker {
  const TestBlock<S>& test;
  const Side& b;  // ptr over lists; its ids are the rows' examples
  const int64_t* tokens;
  int64_t m, waiting;
  std::atomic<int64_t>& bad;  // a list with a wrong example, or -1
  ScoreTile<S> scores;
  Buffer<const T*> rows_b;
  Buffer<S*> cells;

  void block(int64_t begin, int64_t end, S* out) {
    scores.cleared(test.examples(), end - begin);
    // Ids ascend on both sides; a vocabulary of lists is searched faster than walked.
    int64_t list = 0;
    for (int64_t t = 0; t < test.postings.lists(); ++t) {
      list = lower_bound(tokens, list, b.examples(), test.postings.ids[t]);
      if (list == b.examples()) break;
      if (tokens[list] == test.postings.ids[t]) add(t, list, begin, end);
    }
    scores.write(test.examples(), end - begin, out, m, begin);
  }

 private:
  void add(int64_t t, int64_t list, int64_t begin, int64_t end) {
    const Rows lists = b.view();
    const int64_t n = test.examples(), start = test.postings.start[t];
    const T* values = static_cast<const T*>(b.values.const_data_ptr());
    // Both ends are looked for in the whole list, so that the blocks share it out without a gap even where it is out of
    // order; what is wrong then shows in one of them.
    const int64_t head = lists.ptr[list], tail = lists.ptr[list + 1];
    const int64_t from = lower_bound(lists.ids, head, tail, begin), to = lower_bound(lists.ids, head, tail, end);
    const int64_t* examples = lists.ids + from;
    const int64_t rows = to - from;
    if (from > to || (begin == 0 && from != head) || (end == m && to != tail) || !within(examples, rows, begin, end)) {
      bad = list;
      return;
    }
    const S* packed = test.packed.get() + start * test.pitch;
    const int32_t* owners = test.postings.examples.data() + start;
    const T* run = values + from * b.stride();
    if (test.postings.length(t) == 1) {
      add_run(packed, run, b.stride(), examples, begin, rows, scores.row(0, n) + owners[0], n, b.width());
      return;
    }
    for (int64_t first = 0; first < rows; first += kRun) {
      const int64_t count = std::min(kRun, rows - first), seen = std::min(count + waiting, rows - first);
      const T** row = rows_b.room_for(kRun + waiting);
      S** cell = cells.room_for(kRun);
      for (int64_t c = 0; c < seen; ++c) row[c] = run + (first + c) * b.stride();
      for (int64_t c = 0; c < count; ++c) cell[c] = scores.row(examples[first + c] - begin, n);
      Ahead<T> ahead{row, row + seen, waiting};
      add_list(packed, test.pitch, owners, test.postings.length(t), row, count, ahead, cell, b.width());
    }
  }

  // Whether these examples ascend and lie in the block: others would be written outside it.
  static bool within(const int64_t* examples, int64_t count, int64_t begin, int64_t end) {
    return !count || (examples[0] >= begin && examples[count - 1] < end && !scan_order(examples, count).steps_down);
  }
};

template <class T>
int64_t fill_scores(const Side& a, const Side& b, const int64_t* tokens, int64_t m, Tensor& scores) {
  using S = sum_t<T>;
  std::atomic<int64_t> bad{-1};
  fill_blocks<S, T>(
      a, m, b.rows(), static_cast<S*>(scores.mutable_data_ptr()), [](int64_t) { return kScoreBytes; },
      [&](const TestBlock<S>& test) {
        return Worker<S, T>{test, b, tokens, m, std::min(kRun, rows_in_cache<T>(b.width())), bad, {}, {}, {}};
      });
  return bad;
}

Tensor posting_dot(
    const Tensor& ptr_a, const Tensor& ids_a, const Tensor& values_a, const Tensor& ptr_b, const Tensor& ids_b,
    const Tensor& examples_b, const Tensor& values_b, int64_t num_examples) {
  const Side a = checked_shapes("a", ptr_a, ids_a, values_a);
  const Side b = checked_shapes("b", ptr_b, examples_b, values_b, "examples");
  check_entries(a);
  check_alike(a, b);
  const Tensor tokens = checked_lists(b, ids_b, num_examples);
  const Rows lists = b.view();
  int faults = lists.ptr[0] == 0 && lists.ptr[lists.examples] == b.rows() ? kSound : kEnds;
  for (int64_t t = 0; t < lists.examples; ++t) faults |= ptr_fault(lists.ptr, t);
  if (faults) reject_entries(b, lists, b.rows(), faults);
  const int64_t* ids = tokens.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < lists.examples; ++t)
    if (ids[t] < 0 || (t && ids[t] <= ids[t - 1])) reject_lists(b, ids, t);
  Tensor scores = new_result(a, {a.examples(), num_examples});
  if (!a.examples() || !num_examples) return scores;
  int64_t bad = -1;
  switch (a.values.scalar_type()) {
    case ScalarType::Float: bad = fill_scores<float>(a, b, ids, num_examples, scores); break;
    case ScalarType::Double: bad = fill_scores<double>(a, b, ids, num_examples, scores); break;
    case ScalarType::Half: bad = fill_scores<Half>(a, b, ids, num_examples, scores); break;
    default: bad = fill_scores<BFloat16>(a, b, ids, num_examples, scores);
  }
  if (bad >= 0) reject_list(b, ids[bad], num_examples);
  return scores;
}

}  // namespace
}  // namespace tracinwe

STABLE_TORCH_LIBRARY_IMPL(captum_tracinwe, CPU, m) {
  m.impl("posting_dot", TORCH_BOX(&tracinwe::posting_dot));
}
