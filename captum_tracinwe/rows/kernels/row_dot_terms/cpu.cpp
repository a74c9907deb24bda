// row_dot_terms on the CPU: a merge join for each pair of examples, once to count and once to fill.

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "cpu/check_entries.h"
#include "cpu/simd.h"

namespace tracinwe {
namespace {

// Pairs for each thread at least: fewer are not worth waking it.
constexpr int64_t kGrain = 64;

template <class T>
void fill_terms(
    const Side& a, const Side& b, const int64_t* pairs, const std::vector<int64_t>& start, int64_t* pair_out,
    int64_t* id_out, sum_t<T>* term_out) {
  using S = sum_t<T>;
  const Rows rows_a = a.view(), rows_b = b.view();
  const T* values_a = static_cast<const T*>(a.values.const_data_ptr());
  const T* values_b = static_cast<const T*>(b.values.const_data_ptr());
  torch::stable::parallel_for(0, static_cast<int64_t>(start.size()) - 1, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<const T*> a_rows, b_rows;
    std::vector<S*> cells;
    for (int64_t p = begin; p < end; ++p) {
      a_rows.clear(), b_rows.clear(), cells.clear();
      int64_t at = start[p];
      for_each_shared(rows_a, pairs[2 * p], rows_b, pairs[2 * p + 1], [&](int64_t row_a, int64_t row_b) {
        pair_out[at] = p;
        id_out[at] = rows_a.ids[row_a];
        term_out[at] = S(0);
        a_rows.push_back(values_a + row_a * a.stride());
        b_rows.push_back(values_b + row_b * b.stride());
        cells.push_back(term_out + at++);
      });
      add_pairs(a_rows.data(), b_rows.data(), static_cast<int64_t>(cells.size()), 0, cells.data(), a.width());
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> row_dot_terms(
    const Tensor& ptr_a, const Tensor& ids_a, const Tensor& values_a, const Tensor& ptr_b, const Tensor& ids_b,
    const Tensor& values_b, const Tensor& pairs_given) {
  const Side a = checked_shapes("a", ptr_a, ids_a, values_a), b = checked_shapes("b", ptr_b, ids_b, values_b);
  check_entries(a);
  check_entries(b);
  check_alike(a, b);
  check_pairs_shape(a, pairs_given);
  const Tensor pairs = torch::stable::contiguous(pairs_given);
  const int64_t* at = pairs.const_data_ptr<int64_t>();
  const int64_t count = pairs.size(0);
  for (int64_t p = 0; p < count; ++p)
    if (at[2 * p] < 0 || at[2 * p] >= a.examples() || at[2 * p + 1] < 0 || at[2 * p + 1] >= b.examples())
      reject_pair(a, b, at[2 * p], at[2 * p + 1]);

  std::vector<int64_t> start(static_cast<size_t>(count) + 1, 0);
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) start[p + 1] = count_shared(a.view(), at[2 * p], b.view(), at[2 * p + 1]);
  });
  for (int64_t p = 0; p < count; ++p) start[p + 1] += start[p];
  const int64_t total = start[count];
  Tensor pair = torch::stable::new_empty(a.ids, {total}), id = torch::stable::new_empty(a.ids, {total});
  Tensor term = new_result(a, {total});
  const auto fill = [&](auto type) {
    using T = decltype(type);
    fill_terms<T>(
        a, b, at, start, pair.mutable_data_ptr<int64_t>(), id.mutable_data_ptr<int64_t>(),
        static_cast<sum_t<T>*>(term.mutable_data_ptr()));
  };
  switch (a.values.scalar_type()) {
    case ScalarType::Float: fill(float{}); break;
    case ScalarType::Double: fill(double{}); break;
    case ScalarType::Half: fill(Half{}); break;
    default: fill(BFloat16{});
  }
  return {pair, id, term};
}

}  // namespace
}  // namespace tracinwe

STABLE_TORCH_LIBRARY_IMPL(captum_tracinwe, CPU, m) {
  m.impl("row_dot_terms", TORCH_BOX(&tracinwe::row_dot_terms));
}
