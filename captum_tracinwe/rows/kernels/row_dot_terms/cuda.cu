// row_dot_terms on CUDA: a thread counts the shared ids of a pair, the host lays out the result, a warp fills it in.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/device.h"

namespace tracinwe {
namespace {

__global__ void count_terms(Rows a, Rows b, const int64_t* pairs, int64_t count, int64_t* counts) {
  for (int64_t p = thread_index(); p < count; p += thread_count())
    counts[p] = count_shared(a, pairs[2 * p], b, pairs[2 * p + 1]);
}

template <bool ALIGNED, class T>
__global__ void __launch_bounds__(kThreads) fill_terms(
    Rows a, const T* values_a, int64_t stride_a, Rows b, const T* values_b, int64_t stride_b, int64_t width,
    const int64_t* pairs, int64_t count, const int64_t* start, int64_t* pair_out, int64_t* id_out, sum_t<T>* term_out) {
  const int lane = threadIdx.x % kWarpSize;
  for (int64_t p = thread_index() / kWarpSize; p < count; p += thread_count() / kWarpSize) {
    int64_t at = start[p];
    // All lanes walk the same merge, so that they meet in the shuffles of `tile`.
    for_each_shared(a, pairs[2 * p], b, pairs[2 * p + 1], [&](int64_t row_a, int64_t row_b) {
      const T* const one_a[1] = {values_a + row_a * stride_a};
      const T* const one_b[1] = {values_b + row_b * stride_b};
      sum_t<T> out[1][1];
      tile<ALIGNED>(one_a, one_b, width, lane, out);
      if (lane == 0) {
        pair_out[at] = p;
        id_out[at] = a.ids[row_a];
        term_out[at] = out[0][0];
      }
      ++at;
    });
  }
}

std::tuple<Tensor, Tensor, Tensor> row_dot_terms(
    const Tensor& ptr_a, const Tensor& ids_a, const Tensor& values_a, const Tensor& ptr_b, const Tensor& ids_b,
    const Tensor& values_b, const Tensor& pairs_given) {
  const Side a = checked_shapes("a", ptr_a, ids_a, values_a), b = checked_shapes("b", ptr_b, ids_b, values_b);
  check_alike(a, b);
  check_pairs_shape(a, pairs_given);
  const torch::stable::accelerator::DeviceGuard guard(a.values.get_device_index());
  const cudaStream_t stream = current_stream(a);
  check_entries(a, stream);
  check_entries(b, stream);
  const Tensor pairs = torch::stable::contiguous(pairs_given);
  const int64_t* at = pairs.const_data_ptr<int64_t>();
  const int64_t count = pairs.size(0);
  const auto named = to_host(at, 2 * count, stream);
  for (int64_t p = 0; p < count; ++p)
    if (named[2 * p] < 0 || named[2 * p] >= a.examples() || named[2 * p + 1] < 0 || named[2 * p + 1] >= b.examples())
      reject_pair(a, b, named[2 * p], named[2 * p + 1]);

  Tensor counts = torch::stable::new_empty(a.ids, {count});
  if (count) {
    count_terms<<<grid_for(count), kThreads, 0, stream>>>(a.view(), b.view(), at, count, counts.mutable_data_ptr<int64_t>());
    check_cuda(cudaGetLastError(), "launching count_terms");
  }
  std::vector<int64_t> start(static_cast<size_t>(count) + 1, 0);
  const auto counted = to_host(counts.const_data_ptr<int64_t>(), count, stream);
  for (int64_t p = 0; p < count; ++p) start[p + 1] = start[p] + counted[p];
  const int64_t total = start[count];
  Tensor pair = torch::stable::new_empty(a.ids, {total}), id = torch::stable::new_empty(a.ids, {total});
  Tensor term = new_result(a, {total});
  if (!total) return {pair, id, term};
  const Tensor start_on_device = to_device(start, a, stream);
  const auto fill = [&](auto type) {
    using T = decltype(type);
    const auto kernel = aligned_rows<T>(a) && aligned_rows<T>(b) ? fill_terms<true, T> : fill_terms<false, T>;
    kernel<<<grid_for(count * kWarpSize), kThreads, 0, stream>>>(
        a.view(), static_cast<const T*>(a.values.const_data_ptr()), a.stride(), b.view(),
        static_cast<const T*>(b.values.const_data_ptr()), b.stride(), a.width(), at, count,
        start_on_device.const_data_ptr<int64_t>(), pair.mutable_data_ptr<int64_t>(), id.mutable_data_ptr<int64_t>(),
        static_cast<sum_t<T>*>(term.mutable_data_ptr()));
    check_cuda(cudaGetLastError(), "launching row_dot_terms");
  };
  switch (a.values.scalar_type()) {
    case ScalarType::Float: fill(float{}); break;
    case ScalarType::Double: fill(double{}); break;
    case ScalarType::Half: fill(__half{}); break;
    default: fill(__nv_bfloat16{});
  }
  return {pair, id, term};
}

}  // namespace
}  // namespace tracinwe

STABLE_TORCH_LIBRARY_IMPL(captum_tracinwe, CUDA, m) {
  m.impl("row_dot_terms", TORCH_BOX(&tracinwe::row_dot_terms));
}
