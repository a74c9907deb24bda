// row_dot on CUDA: a warp owns the scores of a few training examples and joins their tokens with the test side's lists.
//
// Every score has one owner and is the sum over shared tokens in ascending order: no atomics, the same bits every time,
// and whatever else is in the call. The test side is grouped by token on the host (it is small, and its ids are needed
// there to be checked); the training side is read where it lies, its rows once for each block of test examples.

#include <torch/csrc/stable/library.h>

#include "postings.h"
#include "cuda/device.h"

namespace tracinwe {
namespace {

// Test examples in a block; their sums for kTrain training examples are 2 KiB of shared memory for a warp.
constexpr int64_t kMaxExamplesA = 128;
// Training examples of a warp, and the side of its register tile: 16 sums for 8 rows read.
constexpr int kTrain = kHeads, kTest = 4;

struct DevicePostings {
  const int64_t *start, *rows;
  const int32_t* examples;
};

// list[row] = number of the posting list of the row's id, or -1.
__global__ void find_lists(const int64_t* ids, int64_t rows, const int64_t* list_ids, int64_t lists, int32_t* list) {
  for (int64_t row = thread_index(); row < rows; row += thread_count())
    list[row] = static_cast<int32_t>(find(list_ids, lists, ids[row]));
}

// sums[s][test example] += products of NB training rows (s = slot[·]) with all the rows of one posting list.
template <bool ALIGNED, int NB, class T>
__device__ void add_list(
    const DevicePostings& postings, int32_t list, const T* values_a, int64_t stride_a, const T* const (&b)[NB],
    const int (&slot)[NB], int64_t width, int64_t examples_a, int lane, sum_t<T>* sums) {
  const int64_t end = postings.start[list + 1];
  int64_t p = postings.start[list];
  for (; p + kTest <= end; p += kTest) {
    const T* a[kTest];
#pragma unroll
    for (int t = 0; t < kTest; ++t) a[t] = values_a + postings.rows[p + t] * stride_a;
    sum_t<T> out[kTest][NB];
    tile<ALIGNED>(a, b, width, lane, out);
#pragma unroll
    for (int t = 0; t < kTest; ++t)
#pragma unroll
      for (int s = 0; s < NB; ++s)
        if (lane == t * NB + s && slot[s] >= 0) sums[slot[s] * examples_a + postings.examples[p + t]] += out[t][s];
  }
  for (; p < end; ++p) {
    const T* const a[1] = {values_a + postings.rows[p] * stride_a};
    sum_t<T> out[1][NB];
    tile<ALIGNED>(a, b, width, lane, out);
#pragma unroll
    for (int s = 0; s < NB; ++s)
      if (lane == s && slot[s] >= 0) sums[slot[s] * examples_a + postings.examples[p]] += out[0][s];
  }
  __syncwarp();  // the next list adds to these sums with other lanes
}

template <bool ALIGNED, class T>
__global__ void __launch_bounds__(kThreads) fill_scores(
    DevicePostings postings, const T* values_a, int64_t stride_a, int64_t first_a, int64_t examples_a, Rows b,
    const int32_t* lists_b, const T* values_b, int64_t stride_b, int64_t width, sum_t<T>* scores) {
  using S = sum_t<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  S* sums = reinterpret_cast<S*>(shared) + warp * kTrain * examples_a;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t w = static_cast<int64_t>(blockIdx.x) * kWarps + warp; w * kTrain < b.examples; w += warps) {
    const int64_t first_b = w * kTrain;
    for (int64_t cell = lane; cell < kTrain * examples_a; cell += kWarpSize) sums[cell] = S(0);
    __syncwarp();
    for (ListMerge merge(b, lists_b, first_b); merge.list >= 0; merge.next(lists_b)) {
      int slot[kTrain], count = 0, some = 0;
      int64_t row_of_some = 0;
#pragma unroll
      for (int s = 0; s < kTrain; ++s) {
        slot[s] = merge.has(lists_b, s) ? s : -1;
        count += slot[s] >= 0;
        some = slot[s] >= 0 ? s : some;
        row_of_some = slot[s] >= 0 ? merge.row(s) : row_of_some;
      }
      if (count == 1) {
        const T* const row[1] = {values_b + row_of_some * stride_b};
        const int only[1] = {some};
        add_list<ALIGNED>(postings, merge.list, values_a, stride_a, row, only, width, examples_a, lane, sums);
      } else {  // an example without the token reads the row of one that has it, and adds nothing
        const T* rows[kTrain];
#pragma unroll
        for (int s = 0; s < kTrain; ++s) rows[s] = values_b + (slot[s] >= 0 ? merge.row(s) : row_of_some) * stride_b;
        add_list<ALIGNED>(postings, merge.list, values_a, stride_a, rows, slot, width, examples_a, lane, sums);
      }
    }
    for (int64_t cell = lane; cell < kTrain * examples_a; cell += kWarpSize) {
      const int64_t i = cell / kTrain, s = cell % kTrain;
      if (first_b + s < b.examples) scores[(first_a + i) * b.examples + first_b + s] = sums[s * examples_a + i];
    }
    __syncwarp();  // before the sums are cleared for the next examples
  }
}

template <class T>
void launch(const Side& a, const Side& b, Tensor& scores, cudaStream_t stream) {
  const auto ptr = to_host(a.view().ptr, a.examples() + 1, stream);
  const auto ids = to_host(a.view().ids, a.rows(), stream);
  const Rows rows_a{ptr.data(), ids.data(), a.examples()};
  const T* values_a = static_cast<const T*>(a.values.const_data_ptr());
  const T* values_b = static_cast<const T*>(b.values.const_data_ptr());
  auto* out = static_cast<sum_t<T>*>(scores.mutable_data_ptr());
  Tensor lists = torch::stable::new_empty(b.ids, {b.rows()}, ScalarType::Int);
  auto* lists_b = static_cast<int32_t*>(lists.mutable_data_ptr());
  for (int64_t first = 0; first < a.examples(); first += kMaxExamplesA) {
    const int64_t last = std::min(a.examples(), first + kMaxExamplesA), examples = last - first;
    const Postings postings(rows_a, first, last);
    const Tensor list_ids = to_device(postings.ids, a, stream), start = to_device(postings.start, a, stream),
                 rows = to_device(postings.rows, a, stream), owners = to_device(postings.examples, a, stream);
    if (b.rows()) {
      find_lists<<<grid_for(b.rows()), kThreads, 0, stream>>>(
          b.view().ids, b.rows(), list_ids.const_data_ptr<int64_t>(), postings.lists(), lists_b);
      check_cuda(cudaGetLastError(), "launching find_lists");
    }
    const DevicePostings on_device{
        start.const_data_ptr<int64_t>(), rows.const_data_ptr<int64_t>(), owners.const_data_ptr<int32_t>()};
    const unsigned grid = grid_for(ceil_div(b.examples(), kTrain) * kWarpSize);
    const size_t shared = kWarps * kTrain * examples * sizeof(sum_t<T>);  // at most 16 KiB
    const auto kernel = aligned_rows<T>(a) && aligned_rows<T>(b) ? fill_scores<true, T> : fill_scores<false, T>;
    kernel<<<grid, kThreads, shared, stream>>>(
        on_device, values_a, a.stride(), first, examples, b.view(), lists_b, values_b, b.stride(), a.width(), out);
    check_cuda(cudaGetLastError(), "launching row_dot");
  }
}

Tensor row_dot(
    const Tensor& ptr_a, const Tensor& ids_a, const Tensor& values_a, const Tensor& ptr_b, const Tensor& ids_b,
    const Tensor& values_b) {
  // Shapes and devices of both sides first: nothing may be launched on a device that is not the tensors'.
  const Side a = checked_shapes("a", ptr_a, ids_a, values_a), b = checked_shapes("b", ptr_b, ids_b, values_b);
  check_alike(a, b);
  const torch::stable::accelerator::DeviceGuard guard(a.values.get_device_index());
  const cudaStream_t stream = current_stream(a);
  check_entries(a, stream);
  check_entries(b, stream);
  Tensor scores = new_result(a, {a.examples(), b.examples()});
  if (!a.examples() || !b.examples()) return scores;
  switch (a.values.scalar_type()) {
    case ScalarType::Float: launch<float>(a, b, scores, stream); break;
    case ScalarType::Double: launch<double>(a, b, scores, stream); break;
    case ScalarType::Half: launch<__half>(a, b, scores, stream); break;
    default: launch<__nv_bfloat16>(a, b, scores, stream);
  }
  return scores;
}

}  // namespace
}  // namespace tracinwe

STABLE_TORCH_LIBRARY_IMPL(captum_tracinwe, CUDA, m) {
  m.impl("row_dot", TORCH_BOX(&tracinwe::row_dot));
}
