// The test side by token: its posting lists, and the way from an id to its list. On the CPU; CUDA has its own in cuda/lists.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "rows.h"

namespace tracinwe {

// The rows of the examples first:last, grouped by id. List t holds the rows with the id ids[t] at
// start[t]:start[t + 1]; ids ascend, and so do the examples within a list.
struct Postings {
  std::vector<int64_t> ids, start;
  std::vector<int64_t> rows;      // row of the side
  std::vector<int32_t> examples;  // its example, counted from `first`

  int64_t lists() const { return static_cast<int64_t>(ids.size()); }
  int64_t length(int64_t list) const { return start[list + 1] - start[list]; }

  Postings(const Rows& side, int64_t first, int64_t last) {
    struct Entry {
      int64_t id, row;
      int32_t example;
    };
    std::vector<Entry> entries;
    entries.reserve(static_cast<size_t>(side.ptr[last] - side.ptr[first]));
    for (int64_t i = first; i < last; ++i)
      for (int64_t row = side.ptr[i]; row < side.ptr[i + 1]; ++row)
        entries.push_back({side.ids[row], row, static_cast<int32_t>(i - first)});
    // Rows ascend with the examples: by (id, row) is by (id, example).
    std::sort(entries.begin(), entries.end(), [](const Entry& x, const Entry& y) {
      return x.id != y.id ? x.id < y.id : x.row < y.row;
    });
    rows.reserve(entries.size());
    examples.reserve(entries.size());
    for (const Entry& entry : entries) {
      if (ids.empty() || ids.back() != entry.id) {
        ids.push_back(entry.id);
        start.push_back(static_cast<int64_t>(rows.size()));
      }
      rows.push_back(entry.row);
      examples.push_back(entry.example);
    }
    start.push_back(static_cast<int64_t>(rows.size()));
  }
};

// id -> list number, or -1. A table over all ids up to the largest where that is small, else a hash table:
// the table answers in a nanosecond, and hashing 700,000 training ids costs 10 ms, which is longer than reading the
// rows that match one test example.
class Lookup {
 public:
  explicit Lookup(const std::vector<int64_t>& ids) {
    const int64_t count = static_cast<int64_t>(ids.size());
    const int64_t largest = ids.empty() ? -1 : ids.back();
    // 2¹⁸ entries (1 MiB) hold every vocabulary in use; beyond it, at most 16 entries for each id.
    direct_ = largest < (int64_t{1} << 18) + 16 * count;
    if (direct_) {
      size_ = largest + 1;
      table_.assign(static_cast<size_t>(size_) + 1, -1);  // the last entry stands for every larger id
      for (int64_t t = 0; t < count; ++t) table_[ids[t]] = static_cast<int32_t>(t);
      return;
    }
    int bits = 4;
    while ((int64_t{1} << bits) < 4 * count) ++bits;
    shift_ = 64 - bits;
    mask_ = (uint64_t{1} << bits) - 1;
    table_.assign(mask_ + 1, -1);
    keys_.assign(mask_ + 1, -1);
    for (int64_t t = 0; t < count; ++t) {
      uint64_t at = hash(ids[t]);
      while (table_[at] >= 0) at = (at + 1) & mask_;
      table_[at] = static_cast<int32_t>(t);
      keys_[at] = ids[t];
    }
  }

  bool direct() const { return direct_; }

  // The direct table, to be held in registers in a loop that writes memory.
  struct Table {
    const int32_t* lists;
    uint64_t size;
    int32_t operator()(int64_t id) const {
      const uint64_t at = static_cast<uint64_t>(id);
      return lists[at < size ? at : size];
    }
  };
  Table table() const { return {table_.data(), static_cast<uint64_t>(size_)}; }

  int32_t in_hash(int64_t id) const {
    uint64_t at = hash(id);
    while (table_[at] >= 0 && keys_[at] != id) at = (at + 1) & mask_;
    return table_[at];
  }

 private:
  // Fibonacci hashing: the high bits of the product depend on all bits of the id.
  uint64_t hash(int64_t id) const { return (static_cast<uint64_t>(id) * 0x9E3779B97F4A7C15u) >> shift_; }

  bool direct_ = true;
  int shift_ = 0;
  int64_t size_ = 0;
  uint64_t mask_ = 0;
  std::vector<int32_t> table_;
  std::vector<int64_t> keys_;
};

}  // namespace tracinwe
