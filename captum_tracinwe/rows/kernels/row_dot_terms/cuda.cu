// row_dot_terms on CUDA: a warp finds the shared ids of a pair, the products are those of row_dot, 64 at a time.
//
// The host waits once: the size of the result is known only when the shared ids are counted.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/faults.h"
#include "cuda/multiply.h"
#include "cuda/products.h"
#include "cuda/scan.h"

namespace tracinwe {
namespace {

struct Counted {
  Faults faults;
  int64_t terms;
};

__global__ void find_pair_faults(const int64_t* pairs, int64_t count, int64_t examples_a, int64_t examples_b, Faults* faults) {
  for (int64_t p = thread_index(); p < count; p += thread_count()) {
    const int64_t i = pairs[2 * p], j = pairs[2 * p + 1];
    if (i < 0 || i >= examples_a || j < 0 || j >= examples_b) atomicOr(&faults->pair, 1);
  }
}

// visit(row of a, row of b, how many ids came before) for the ids that a pair shares, ascending: a warp walks the shorter
// example and searches the longer one. Returns how many there are, in every lane.
template <class Visit>
__device__ int64_t shared_ids(const Rows& a, int64_t i, const Rows& b, int64_t j, const Visit& visit) {
  const int64_t rows_a = a.ptr[i + 1] - a.ptr[i], rows_b = b.ptr[j + 1] - b.ptr[j];
  const bool walk_a = rows_a <= rows_b;
  const Rows &walked = walk_a ? a : b, &searched = walk_a ? b : a;
  const int64_t from = walked.ptr[walk_a ? i : j], to = walked.ptr[(walk_a ? i : j) + 1];
  const int64_t head = searched.ptr[walk_a ? j : i], tail = searched.ptr[(walk_a ? j : i) + 1];
  int64_t count = 0;
  for (int64_t base = from; base < to; base += kWarpSize) {
    const int64_t row = base + lane_index();
    const int64_t at = row < to ? lower_bound(searched.ids, head, tail, walked.ids[row]) : tail;
    const bool shared = at < tail && searched.ids[at] == walked.ids[row];
    const unsigned all = __ballot_sync(kAllLanes, shared);
    const unsigned before = all & ((1u << lane_index()) - 1);
    if (shared) visit(walk_a ? row : at, walk_a ? at : row, count + __popc(before));
    count += __popc(all);
  }
  return count;
}

__global__ void count_terms(const Faults* faults, Rows a, Rows b, const int64_t* pairs, int64_t count, int64_t* counts) {
  if (any(faults)) return;
  for (int64_t p = thread_index() / kWarpSize; p < count; p += thread_count() / kWarpSize) {
    const int64_t found = shared_ids(a, pairs[2 * p], b, pairs[2 * p + 1], [](int64_t, int64_t, int64_t) {});
    if (lane_index() == 0) counts[p] = found;
  }
}

// One block: counts become starts.
__global__ void start_terms(int64_t count, int64_t* counts, Counted* counted) {
  if (any(&counted->faults)) return;
  auto* const room = shared_as<ScanRoom<1>>();
  int64_t before[1] = {0};
  for (int64_t base = 0; base < count; base += blockDim.x) {
    const int64_t p = base + threadIdx.x;
    int64_t sum[1] = {p < count ? counts[p] : 0};
    scan_block(sum, before, room);
    if (p < count) counts[p] = sum[0];
  }
  if (threadIdx.x == 0) counted->terms = before[0];
}

struct TermRows {
  int64_t *a, *b;
};

__global__ void name_terms(
    Rows a, Rows b, const int64_t* pairs, int64_t count, const int64_t* starts, int64_t* pair, int64_t* id, TermRows rows) {
  for (int64_t p = thread_index() / kWarpSize; p < count; p += thread_count() / kWarpSize)
    shared_ids(a, pairs[2 * p], b, pairs[2 * p + 1], [&](int64_t row_a, int64_t row_b, int64_t before) {
      const int64_t at = starts[p] + before;
      pair[at] = p;
      id[at] = a.ids[row_a];
      rows.a[at] = row_a;
      rows.b[at] = row_b;
    });
}

template <bool ALIGNED, class T>
__global__ void __launch_bounds__(kThreads) fill_terms(TermRows rows, int64_t terms, Factors<T> factors, sum_t<T>* out) {
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * 64; first < terms; first += static_cast<int64_t>(gridDim.x) * 64) {
    const auto row_a = [&](int row) -> const T* {
      return first + row < terms ? factors.values_a + rows.a[first + row] * factors.stride_a : nullptr;
    };
    const auto row_b = [&](int row) -> const T* {
      return first + row < terms ? factors.b.values + rows.b[first + row] * factors.b.stride : nullptr;
    };
    DiagonalTile<T> tile(terms - first < 64 ? static_cast<int>(terms - first) : 64);
    through_columns<ALIGNED, 64>(factors.values_a, factors.width, row_a, row_b, tile);
    tile.for_each([&](int row, sum_t<T> product) {
      if (first + row < terms) out[first + row] = product;
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
  const Tensor pairs = torch::stable::contiguous(pairs_given);
  const int64_t* const at = pairs.const_data_ptr<int64_t>();
  const int64_t count = pairs.size(0);
  Scratch scratch(a.ids);
  auto* const counted = scratch.array<Counted>(1);
  auto* const starts = scratch.array<int64_t>(count);
  Faults* const faults = &counted->faults;
  check_cuda(cudaMemsetAsync(counted, 0, sizeof(Counted), stream), "clearing a flag");
  launch(
      "checking rows", find_faults, grid_for(a.rows() + b.rows() + a.examples() + b.examples() + 2), kThreads, 0, stream,
      a.view(), a.rows(), b.view(), b.rows(), faults);
  const unsigned warps = grid_for(count * kWarpSize);
  if (count) {
    launch(
        "checking pairs", find_pair_faults, grid_for(count), kThreads, 0, stream, at, count, a.examples(), b.examples(),
        faults);
    launch("counting terms", count_terms, warps, kThreads, 0, stream, faults, a.view(), b.view(), at, count, starts);
    launch("adding counts", start_terms, 1, kScanThreads, sizeof(ScanRoom<1>), stream, count, starts, counted);
  }
  const Counted found = to_host(counted, 1, stream)[0];
  if (found.faults.side[0]) reject_side(a, found.faults.side[0], stream);
  if (found.faults.side[1]) reject_side(b, found.faults.side[1], stream);
  if (found.faults.pair) {
    const auto named = to_host(at, 2 * count, stream);
    for (int64_t p = 0; p < count; ++p)
      if (named[2 * p] < 0 || named[2 * p] >= a.examples() || named[2 * p + 1] < 0 || named[2 * p + 1] >= b.examples())
        reject_pair(a, b, named[2 * p], named[2 * p + 1]);
  }
  const int64_t terms = found.terms;
  Tensor pair = torch::stable::new_empty(a.ids, {terms}), id = torch::stable::new_empty(a.ids, {terms});
  Tensor term = new_result(a, {terms});
  if (!terms) return {pair, id, term};
  const TermRows rows{scratch.array<int64_t>(terms), scratch.array<int64_t>(terms)};
  launch(
      "naming terms", name_terms, warps, kThreads, 0, stream, a.view(), b.view(), at, count, starts,
      pair.mutable_data_ptr<int64_t>(), id.mutable_data_ptr<int64_t>(), rows);
  with_type(a, [&](auto type) {
    using T = decltype(type);
    const Factors<T> factors{
        static_cast<const T*>(a.values.const_data_ptr()), a.stride(),
        {static_cast<const T*>(b.values.const_data_ptr()), b.stride(), nullptr}, a.width()};
    launch(
        "multiplying terms", aligned_rows<T>(a) && aligned_rows<T>(b) ? fill_terms<true, T> : fill_terms<false, T>,
        grid_for(terms, 64), kThreads, kSharedBytes, stream, rows, terms, factors,
        static_cast<sum_t<T>*>(term.mutable_data_ptr()));
  });
  return {pair, id, term};
}

}  // namespace
}  // namespace tracinwe

STABLE_TORCH_LIBRARY_IMPL(captum_tracinwe, CUDA, m) {
  m.impl("row_dot_terms", TORCH_BOX(&tracinwe::row_dot_terms));
}
