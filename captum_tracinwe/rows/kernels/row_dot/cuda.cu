// row_dot on CUDA: both sides are grouped by token, a token's products are a matrix product, and every score adds up its own.
//
// The training rows are worked off in pieces, so that no piece has more products than are kept. A score is the sum over
// shared tokens in ascending order, whatever the pieces: it is carried from one to the next. No atomics on scores. The host
// waits once, at the end, to learn whether the entries were sound; with more than kMaxTests tests once before, too.

#include <torch/csrc/stable/library.h>

#include "cuda/products.h"
#include "cuda/score_tile.h"

namespace tracinwe {
namespace {

// Training rows begin:end.
struct Piece {
  int64_t begin, end;
};

// list[row] = the list of the row's token or -1; place[row] = how manieth of the list's training rows it is.
__global__ void match_rows(
    const Faults* faults, const int64_t* ids, Piece piece, HashTable table, Lists lists, int* list, int* place) {
  if (any(faults)) return;
  for (int64_t t = thread_index(); t < piece.end - piece.begin; t += thread_count()) {
    const int entry = table(ids[piece.begin + t]);
    list[t] = entry < 0 ? -1 : lists.number[entry];
    if (entry >= 0) place[t] = atomicAdd(lists.count_b + list[t], 1);
  }
}

// place[row] = where its products begin; rows_b: the training rows list by list.
__global__ void place_rows(const Faults* faults, Piece piece, Lists lists, const int* list, int* place, int64_t* rows_b) {
  if (any(faults)) return;
  for (int64_t t = thread_index(); t < piece.end - piece.begin; t += thread_count()) {
    if (list[t] < 0) continue;
    rows_b[lists.first_b[list[t]] + place[t]] = piece.begin + t;
    place[t] = lists.product[list[t]] + place[t] * lists.tests(list[t]);
  }
}

__global__ void forget_counts(const Faults* faults, Lists lists) {
  if (any(faults)) return;
  const int count = *lists.count;
  for (int64_t list = thread_index(); list < count; list += thread_count()) lists.count_b[list] = 0;
}

// A warp adds the products of one training example's rows, row by row; its lanes have different tests.
template <class S>
__device__ void add_rows(
    const Lists& lists, int64_t first, int64_t begin, int64_t end, const int* list, const int* place, const S* products,
    S* sums) {
  const int lane = lane_index();
  for (int64_t base = begin; base < end; base += kWarpSize) {
    const int64_t t = base + lane - first;
    const int mine = base + lane < end ? list[t] : -1;
    const int from = mine >= 0 ? place[t] : 0, start = mine >= 0 ? lists.start[mine] : 0;
    const int tests = mine >= 0 ? lists.tests(mine) : 0;
    for (unsigned left = __ballot_sync(kAllLanes, mine >= 0); left; left &= left - 1) {
      const int row = __ffs(left) - 1;
      const int from_row = __shfl_sync(kAllLanes, from, row), start_row = __shfl_sync(kAllLanes, start, row);
      const int tests_row = __shfl_sync(kAllLanes, tests, row);
      for (int p = lane; p < tests_row; p += kWarpSize) sums[lists.owners[start_row + p]] += products[from_row + p];
      __syncwarp();  // the next row adds to these sums with other lanes
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kSumThreads) add_products(
    const Faults* faults, Lists lists, Rows b, Piece piece, bool first_piece, const int* list, const int* place,
    const S* products, Scores<S> out) {
  if (any(faults)) return;
  S* const sums = shared_as<S>();
  const int64_t pitch = score_pitch(out.tests);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kOwned<S>; first < b.examples;
       first += static_cast<int64_t>(gridDim.x) * kOwned<S>) {
    const int64_t left = b.examples - first;
    const int owned = left < kOwned<S> ? static_cast<int>(left) : kOwned<S>;
    const bool touched = b.ptr[first] < piece.end && b.ptr[first + owned] > piece.begin;
    if (!touched && !first_piece) continue;
    out.read(sums, first, owned, first_piece);
    __syncthreads();
    for (int s = static_cast<int>(threadIdx.x) / kWarpSize; s < owned; s += kSumThreads / kWarpSize) {
      const int64_t begin = b.ptr[first + s], end = b.ptr[first + s + 1];
      add_rows(
          lists, piece.begin, begin > piece.begin ? begin : piece.begin, end < piece.end ? end : piece.end, list, place,
          products, sums + s * pitch);
    }
    __syncthreads();
    out.write(sums, first, owned);
    __syncthreads();  // before the next examples are read to the same place
  }
}

template <class T>
void fill_scores(const Side& a, const Side& b, Tensor& scores, Scratch& scratch, Faults* faults, cudaStream_t stream) {
  using S = sum_t<T>;
  const int64_t test_rows = most_test_rows(a, stream);
  int bits = 5;
  while ((int64_t{1} << bits) < 2 * test_rows) ++bits;
  const HashTable table{scratch.array<int64_t>(int64_t{1} << bits), bits};
  const int64_t entries = int64_t{1} << bits, most_tests = std::min(a.examples(), kMaxTests);
  const int64_t most_rows = std::max<int64_t>(1, std::min(b.rows(), kMaxProducts / most_tests));
  const int64_t tiles = most_tiles(most_rows, test_rows, most_tests);
  TestLists tests(a, test_rows, entries, tiles, scratch, faults, stream);
  int* const list = scratch.array<int>(most_rows);
  int* const place = scratch.array<int>(most_rows);
  auto* const rows_b = scratch.array<int64_t>(most_rows);
  auto* const products = scratch.array<S>(std::min(most_rows * most_tests, kMaxProducts));
  const unsigned grid_b = grid_for(most_rows), blocks = grid_for(b.examples(), kOwned<S>);
  for (int64_t first = 0; first < a.examples(); first += kMaxTests) {
    const int64_t last = std::min(a.examples(), first + kMaxTests);
    check_cuda(cudaMemsetAsync(table.keys, -1, static_cast<size_t>(entries) * sizeof(int64_t), stream), "clearing a table");
    tests.make(table, first, last);
    const Scores<S> out{static_cast<S*>(scores.mutable_data_ptr()), first, last - first, b.examples()};
    Piece piece{0, 0};
    do {  // once at least: scores that nothing is added to are zeros
      piece = {piece.end, std::min(b.rows(), piece.end + most_rows)};
      if (piece.begin)
        launch("clearing counts", forget_counts, grid_for(tests.most()), kThreads, 0, stream, faults, tests.lists);
      launch(
          "matching rows", match_rows, grid_b, kThreads, 0, stream, faults, b.view().ids, piece, table, tests.lists, list,
          place);
      tests.lay_out_products<true>();
      launch("placing rows", place_rows, grid_b, kThreads, 0, stream, faults, piece, tests.lists, list, place, rows_b);
      launch_products<T>(a, b, rows_b, ListEntries{}, tiles, tests.lists, faults, products, stream);
      launch(
          "adding products", add_products<S>, blocks, kSumThreads, score_bytes<S>(out.tests), stream, faults, tests.lists,
          b.view(), piece, piece.begin == 0, list, place, products, out);
    } while (piece.end < b.rows());
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
  Scratch scratch(a.ids);
  Faults* const faults = new_faults(scratch, stream);
  launch(
      "checking rows", find_faults, grid_for(a.rows() + b.rows() + a.examples() + b.examples() + 2), kThreads, 0, stream,
      a.view(), a.rows(), b.view(), b.rows(), faults);
  Tensor scores = new_result(a, {a.examples(), b.examples()});
  if (a.examples() && b.examples())
    with_type(a, [&](auto type) { fill_scores<decltype(type)>(a, b, scores, scratch, faults, stream); });
  const Faults found = to_host(faults, 1, stream)[0];
  if (found.side[0]) reject_side(a, found.side[0], stream);
  if (found.side[1]) reject_side(b, found.side[1], stream);
  return scores;
}

}  // namespace
}  // namespace tracinwe

STABLE_TORCH_LIBRARY_IMPL(captum_tracinwe, CUDA, m) {
  m.impl("row_dot", TORCH_BOX(&tracinwe::row_dot));
}
