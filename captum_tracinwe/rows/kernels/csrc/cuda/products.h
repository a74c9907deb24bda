// The products of all test rows with all training rows of their tokens, tile by tile: matrix products of one token each.
#pragma once

#include "lists.h"
#include "multiply.h"

namespace tracinwe {
namespace {

// The training rows of a list: number `at` of its `first_b + at`, through `rows` where they do not lie list by list.
template <class T>
struct TrainingRows {
  const T* values;
  int64_t stride;
  const int64_t* rows;
};

// Posting lists are checked as they are read: examples that ascend from 0 to num_examples - 1.
struct ListEntries {
  const int64_t *examples, *ptr;  // null: nothing to check
  int64_t num_examples;
};

template <class T>
struct Factors {
  const T* values_a;
  int64_t stride_a;
  TrainingRows<T> b;
  int64_t width;
};

template <bool ALIGNED, int TESTS, class T>
__device__ inline void multiply_tile(
    const Factors<T>& factors, const Lists& lists, int list, int first_a, int first_b, sum_t<T>* products) {
  const int tests = lists.tests(list), rows = lists.count_b[list];
  const int64_t* const rows_a = lists.rows + lists.start[list];
  const int64_t begin_b = lists.first_b[list];
  const auto row_a = [&](int row) -> const T* {
    return first_a + row < tests ? factors.values_a + rows_a[first_a + row] * factors.stride_a : nullptr;
  };
  const auto row_b = [&](int row) -> const T* {
    if (first_b + row >= rows) return nullptr;
    const int64_t at = begin_b + first_b + row;
    return factors.b.values + (factors.b.rows ? factors.b.rows[at] : at) * factors.b.stride;
  };
  Tile<TESTS, T> tile(rows - first_b < kTileRows ? rows - first_b : kTileRows);
  through_columns<ALIGNED, TESTS>(factors.values_a, factors.width, row_a, row_b, tile);
  sum_t<T>* const out = products + lists.product[list];
  tile.for_each([&](int b, int a, sum_t<T> product) {
    if (first_b + b < rows && first_a + a < tests) out[static_cast<int64_t>(first_b + b) * tests + first_a + a] = product;
  });
}

template <bool ALIGNED, class T>
__global__ void __launch_bounds__(kThreads) fill_products(
    Faults* faults, Lists lists, Factors<T> factors, ListEntries entries, sum_t<T>* products) {
  if (any(faults)) return;
  const int tiles = lists.tile[*lists.count];
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const int list = lists.list_of_tile[tile], tests = lists.tests(list);
    const int across = static_cast<int>(ceil_div(tests, 64)), number = tile - lists.tile[list];
    const int first_a = number % across * 64, first_b = number / across * kTileRows;
    if (entries.examples && first_a == 0 && static_cast<int>(threadIdx.x) < kTileRows) {
      const int at = first_b + static_cast<int>(threadIdx.x);
      if (at < lists.count_b[list]) {
        const int64_t row = lists.first_b[list] + at, example = entries.examples[row];
        const bool falls = row > entries.ptr[lists.entry[list]] && example <= entries.examples[row - 1];
        if (example < 0 || example >= entries.num_examples || falls) note_list(faults, lists.entry[list]);
      }
    }
    switch (tile_tests(tests - first_a)) {
      case 16: multiply_tile<ALIGNED, 16>(factors, lists, list, first_a, first_b, products); break;
      case 32: multiply_tile<ALIGNED, 32>(factors, lists, list, first_a, first_b, products); break;
      default: multiply_tile<ALIGNED, 64>(factors, lists, list, first_a, first_b, products);
    }
  }
}

template <class T>
void launch_products(
    const Side& a, const Side& b, const int64_t* rows_b, const ListEntries& entries, int64_t tiles, const Lists& lists,
    Faults* faults, sum_t<T>* products, cudaStream_t stream) {
  if (!tiles) return;
  const Factors<T> factors{
      static_cast<const T*>(a.values.const_data_ptr()), a.stride(),
      {static_cast<const T*>(b.values.const_data_ptr()), b.stride(), rows_b}, a.width()};
  const bool aligned = aligned_rows<T>(a) && aligned_rows<T>(b);
  launch(
      "multiplying rows", aligned ? fill_products<true, T> : fill_products<false, T>,
      static_cast<unsigned>(std::min(tiles, kMaxBlocks)), kThreads, kSharedBytes, stream, faults, lists, factors, entries,
      products);
}

// Calls with a value of the rows' type.
template <class Call>
void with_type(const Side& side, const Call& call) {
  switch (side.values.scalar_type()) {
    case ScalarType::Float: return call(float{});
    case ScalarType::Double: return call(double{});
    case ScalarType::Half: return call(__half{});
    default: return call(__nv_bfloat16{});
  }
}

// How many products are kept at once: 256 MiB of float32 at most, and far less of it touched, since most tokens are rare.
#ifdef CUDA_EMULATED
constexpr int64_t kMaxProducts = 4096;  // so that small cases are cut, too
#else
constexpr int64_t kMaxProducts = int64_t{1} << 26;
#endif

}  // namespace
}  // namespace tracinwe
