// The test side by token, made on the device: its lists are the left factors of the products of one token each.
//
// Up to kMaxTests test examples at a time. Their tokens are counted in a table, the entries that were hit are numbered, and
// every row is put into its list. Rows of a list lie in no certain order: no sum runs over them.
#pragma once

#include "faults.h"
#include "scan.h"

namespace tracinwe {
namespace {

constexpr int64_t kMaxTests = 256;

// id -> entry of an open hash table, half empty at least. -1 marks an empty entry: ids are not negative.
struct HashTable {
  int64_t* keys;
  int bits;  // 2^bits entries

  // Fibonacci hashing: the high bits of the product depend on all bits of the id.
  __device__ int64_t first(int64_t id) const {
    return static_cast<int64_t>((static_cast<uint64_t>(id) * 0x9E3779B97F4A7C15u) >> (64 - bits));
  }
  __device__ int64_t next(int64_t at) const { return (at + 1) & ((int64_t{1} << bits) - 1); }
  __device__ int insert(int64_t id) const {
    using Word = unsigned long long;
    for (int64_t at = first(id);; at = next(at)) {
      const auto found = static_cast<int64_t>(
          atomicCAS(reinterpret_cast<Word*>(keys + at), ~Word{0}, static_cast<Word>(id)));
      if (found == -1 || found == id) return static_cast<int>(at);
    }
  }
  __device__ int operator()(int64_t id) const {
    for (int64_t at = first(id);; at = next(at)) {
      const int64_t found = keys[at];
      if (found == id) return static_cast<int>(at);
      if (found == -1) return -1;
    }
  }
};

// id -> its place among the tokens of posting lists.
struct TokenTable {
  const int64_t* tokens;
  int64_t count;

  __device__ int insert(int64_t id) const { return static_cast<int>(find(tokens, count, id)); }
};

// What lies in device memory; the number of lists is known there alone.
struct Lists {
  int* count;             // how many lists
  int* entry;             // (lists,) the table's entry
  int* start;             // (lists + 1,) where the list's test rows begin
  int64_t* rows;          // test rows, list by list
  int* owners;            // their examples, counted from the first of these tests
  int* number;            // (entries,) the list of a table's entry
  // Of the training rows that are worked on now:
  int* count_b;           // (lists,) how many have the token
  int64_t* first_b;       // (lists,) where they begin
  int* product;           // (lists + 1,) where their products begin
  int* tile;              // (lists + 1,) where their tiles begin
  int* list_of_tile;

  __device__ int tests(int list) const { return start[list + 1] - start[list]; }
};

// Test rows of one tile: the least width that holds what is left of the list, or 64 of them.
__device__ inline int tile_tests(int tests) {
  return tests <= 16 ? 16 : tests <= 32 ? 32 : 64;
}
constexpr int kTileRows = 64;  // training rows of one tile

template <class Table>
__global__ void count_tests(
    const Faults* faults, Rows a, int64_t first, int64_t last, Table table, int* entry_of_row, int* rank, int* hits) {
  if (any(faults)) return;
  const int64_t begin = a.ptr[first], rows = a.ptr[last] - begin;
  for (int64_t t = thread_index(); t < rows; t += thread_count()) {
    const int entry = table.insert(a.ids[begin + t]);
    entry_of_row[t] = entry;
    if (entry >= 0) rank[t] = atomicAdd(hits + entry, 1);
  }
}

// One block. Numbers the entries that were hit, in their order.
__global__ void number_lists(const Faults* faults, const int* hits, int64_t entries, Lists lists) {
  if (any(faults)) return;
  auto* const room = shared_as<ScanRoom<2>>();
  int64_t before[2] = {0, 0};
  for (int64_t base = 0; base < entries; base += blockDim.x) {
    const int64_t entry = base + threadIdx.x;
    const int mine = entry < entries ? hits[entry] : 0;
    int64_t sums[2] = {mine > 0, mine};
    scan_block(sums, before, room);
    if (!mine) continue;
    const int list = static_cast<int>(sums[0]);
    lists.number[entry] = list;
    lists.entry[list] = static_cast<int>(entry);
    lists.start[list] = static_cast<int>(sums[1]);
    lists.count_b[list] = 0;
  }
  if (threadIdx.x == 0) {
    *lists.count = static_cast<int>(before[0]);
    lists.start[before[0]] = static_cast<int>(before[1]);
  }
}

__global__ void place_tests(
    const Faults* faults, Rows a, int64_t first, int64_t last, const int* entry_of_row, const int* rank, Lists lists) {
  if (any(faults)) return;
  const int64_t begin = a.ptr[first], rows = a.ptr[last] - begin;
  for (int64_t t = thread_index(); t < rows; t += thread_count()) {
    if (entry_of_row[t] < 0) continue;
    const int at = lists.start[lists.number[entry_of_row[t]]] + rank[t];
    lists.rows[at] = begin + t;
    lists.owners[at] = static_cast<int>(lower_bound(a.ptr, first, last, begin + t + 1) - 1 - first);
  }
}

// One block. Where each list's products and tiles begin, and (COUNTED) its training rows where they are put list by list.
template <bool COUNTED>
__global__ void lay_out(const Faults* faults, Lists lists) {
  if (any(faults)) return;
  auto* const room = shared_as<ScanRoom<3>>();
  int64_t before[3] = {0, 0, 0};
  const int count = *lists.count;
  for (int base = 0; base < count; base += static_cast<int>(blockDim.x)) {
    const int list = base + static_cast<int>(threadIdx.x);
    const int64_t rows = list < count ? lists.count_b[list] : 0, tests = list < count ? lists.tests(list) : 0;
    int64_t sums[3] = {rows, rows * tests, ceil_div(rows, kTileRows) * ceil_div(tests, 64)};
    scan_block(sums, before, room);
    if (list >= count) continue;
    if (COUNTED) lists.first_b[list] = sums[0];
    lists.product[list] = static_cast<int>(sums[1]);
    lists.tile[list] = static_cast<int>(sums[2]);
  }
  if (threadIdx.x == 0) {
    lists.product[count] = static_cast<int>(before[1]);
    lists.tile[count] = static_cast<int>(before[2]);
  }
}

// A warp for each list writes its number beside its tiles: those of [CLS] are many.
__global__ void name_tiles(const Faults* faults, Lists lists) {
  if (any(faults)) return;
  const int count = *lists.count;
  for (int64_t list = thread_index() / kWarpSize; list < count; list += thread_count() / kWarpSize)
    for (int tile = lists.tile[list] + lane_index(); tile < lists.tile[list + 1]; tile += kWarpSize)
      lists.list_of_tile[tile] = static_cast<int>(list);
}

inline int64_t most_tiles(int64_t rows, int64_t lists, int64_t tests) {
  return (rows / kTileRows + std::min(rows, lists)) * ceil_div(tests, 64);
}

// The most rows of kMaxTests examples next to each other. Waits where there are more examples: room for all their rows would
// be cleared and looked through once for each kMaxTests of them. ptr may be unsound.
inline int64_t most_test_rows(const Side& a, cudaStream_t stream) {
  if (a.examples() <= kMaxTests) return a.rows();
  const auto ptr = to_host(a.view().ptr, a.examples() + 1, stream);
  int64_t most = 1;
  for (int64_t first = 0; first < a.examples(); first += kMaxTests) {
    const int64_t last = std::min(a.examples(), first + kMaxTests);
    if (ptr[first] >= 0 && ptr[last] > ptr[first]) most = std::max(most, std::min(ptr[last] - ptr[first], a.rows()));
  }
  return most;
}

// Room for the lists of up to kMaxTests of the examples of a, with at most `rows` rows.
class TestLists {
 public:
  Lists lists{};

  TestLists(
      const Side& a, int64_t rows, int64_t entries, int64_t tiles, Scratch& scratch, const Faults* faults,
      cudaStream_t stream)
      : a_(a), rows_(rows), entries_(entries), most_(std::min(rows, entries)), faults_(faults), stream_(stream) {
    lists.count = scratch.array<int>(1);
    lists.entry = scratch.array<int>(most_);
    lists.start = scratch.array<int>(most_ + 1);
    lists.rows = scratch.array<int64_t>(rows);
    lists.owners = scratch.array<int>(rows);
    lists.number = scratch.array<int>(entries);
    lists.count_b = scratch.array<int>(most_);
    lists.first_b = scratch.array<int64_t>(most_);
    lists.product = scratch.array<int>(most_ + 1);
    lists.tile = scratch.array<int>(most_ + 1);
    lists.list_of_tile = scratch.array<int>(tiles);
    entry_of_row_ = scratch.array<int>(rows);
    rank_ = scratch.array<int>(rows);
    hits_ = scratch.array<int>(entries);
  }

  int64_t most() const { return most_; }

  // The lists of the examples first:last.
  template <class Table>
  void make(const Table& table, int64_t first, int64_t last) {
    check_cuda(cudaMemsetAsync(hits_, 0, static_cast<size_t>(entries_) * sizeof(int), stream_), "clearing counts");
    const unsigned grid = grid_for(rows_);
    launch(
        "counting tokens", count_tests<Table>, grid, kThreads, 0, stream_, faults_, a_.view(), first, last, table,
        entry_of_row_, rank_, hits_);
    launch(
        "numbering tokens", number_lists, 1, kScanThreads, sizeof(ScanRoom<2>), stream_, faults_, hits_, entries_, lists);
    launch(
        "placing test rows", place_tests, grid, kThreads, 0, stream_, faults_, a_.view(), first, last, entry_of_row_, rank_,
        lists);
  }

  // Products and tiles of the training rows that were counted.
  template <bool COUNTED>
  void lay_out_products() {
    launch("laying out", lay_out<COUNTED>, 1, kScanThreads, sizeof(ScanRoom<3>), stream_, faults_, lists);
    launch("naming tiles", name_tiles, grid_for(most_ * kWarpSize), kThreads, 0, stream_, faults_, lists);
  }

 private:
  const Side& a_;
  int64_t rows_, entries_, most_;
  const Faults* faults_;
  cudaStream_t stream_;
  int *entry_of_row_, *rank_, *hits_;
};

}  // namespace
}  // namespace tracinwe
