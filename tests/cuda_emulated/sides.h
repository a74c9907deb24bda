// Random rows for the cases: on the host as plain numbers, and on the emulated device in any layout.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

namespace cases {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Random = std::mt19937_64;

inline int64_t below(Random& random, int64_t limit) { return static_cast<int64_t>(random() % static_cast<uint64_t>(limit)); }

struct Rows {
  std::vector<int64_t> ptr{0}, ids;
  std::vector<double> values;  // exactly those that the dtype holds
  int64_t width = 0;
  ScalarType dtype = ScalarType::Float;

  int64_t examples() const { return static_cast<int64_t>(ptr.size()) - 1; }
  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
};

struct Shape {
  int64_t examples, width, vocabulary, most, scale;
  ScalarType dtype;
};

// A number of two bytes: sign and last bits drawn, exponents near 1.
inline uint16_t half_bits(Random& random, ScalarType dtype) {
  const auto sign = static_cast<uint16_t>(random() % 2 << 15);
  if (dtype == ScalarType::Half) return static_cast<uint16_t>(sign | (12 + random() % 5) << 10 | random() % 1024);
  return static_cast<uint16_t>(sign | (124 + random() % 5) << 7 | random() % 128);
}

inline double value_of(uint16_t bits, ScalarType dtype) {
  return dtype == ScalarType::Half ? __half2float(__half{bits}) : __bfloat162float(__nv_bfloat16{bits});
}

inline Rows random_rows(const Shape& shape, Random& random) {
  Rows side;
  side.width = shape.width, side.dtype = shape.dtype;
  std::vector<int64_t> names(static_cast<size_t>(shape.vocabulary));
  for (int64_t i = 0; i < shape.examples; ++i) {
    const int64_t count = below(random, std::min(shape.most, shape.vocabulary) + 1);
    for (size_t v = 0; v < names.size(); ++v) names[v] = static_cast<int64_t>(v) * shape.scale;
    std::shuffle(names.begin(), names.end(), random);
    std::sort(names.begin(), names.begin() + count);
    side.ids.insert(side.ids.end(), names.begin(), names.begin() + count);
    side.ptr.push_back(side.rows());
  }
  std::normal_distribution<double> normal;
  for (int64_t cell = 0; cell < side.rows() * shape.width; ++cell) {
    if (shape.dtype == ScalarType::Double)
      side.values.push_back(normal(random));
    else if (shape.dtype == ScalarType::Float)
      side.values.push_back(static_cast<float>(normal(random)));
    else
      side.values.push_back(value_of(half_bits(random, shape.dtype), shape.dtype));
  }
  return side;
}

// Some examples of a side, as a side.
inline Rows examples_of(const Rows& side, int64_t begin, int64_t end) {
  Rows part;
  part.width = side.width, part.dtype = side.dtype;
  const int64_t first = side.ptr[begin], last = side.ptr[end];
  for (int64_t i = begin; i < end; ++i) part.ptr.push_back(side.ptr[i + 1] - first);
  part.ids.assign(side.ids.begin() + first, side.ids.begin() + last);
  part.values.assign(side.values.begin() + first * side.width, side.values.begin() + last * side.width);
  return part;
}

inline void store(char* at, double value, ScalarType dtype) {
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof bits);
  uint16_t two = static_cast<uint16_t>(bits >> 16);
  if (dtype == ScalarType::Half)
    two = static_cast<uint16_t>((bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023));
  if (dtype == ScalarType::Double)
    std::memcpy(at, &value, 8);
  else if (dtype == ScalarType::Float)
    std::memcpy(at, &narrow, 4);
  else
    std::memcpy(at, &two, 2);
}

inline Tensor on_device(const std::vector<int64_t>& numbers) {
  const Tensor to({static_cast<int64_t>(numbers.size())}, ScalarType::Long);
  cudaMemcpyAsync(to.mutable_data_ptr(), numbers.data(), numbers.size() * 8, cudaMemcpyHostToDevice, nullptr);
  return to;
}

// How the columns lie: one after another, or a window of wider rows, or every second column, or transposed.
enum class Layout { plain, window, apart, transposed };
constexpr int kLayouts = 4;

inline Tensor values_on_device(const Rows& side, Layout layout, Random& random) {
  const int64_t rows = side.rows(), width = side.width;
  const auto bytes = static_cast<int64_t>(torch::headeronly::bytes_of(side.dtype));
  const int64_t before = layout == Layout::window ? below(random, 9) : 0;
  const int64_t step = layout == Layout::apart ? 2 : layout == Layout::transposed ? rows : 1;
  const int64_t wide = layout == Layout::plain        ? width
                       : layout == Layout::transposed ? 1
                       : layout == Layout::apart      ? 2 * width
                                                      : width + before + below(random, 9);
  const int64_t cells = layout == Layout::transposed ? rows * width : rows * wide;
  const Tensor whole({cells}, side.dtype);
  std::vector<char> host(static_cast<size_t>(cells * bytes), static_cast<char>(0xFF));  // not a number, where nobody looks
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c)
      store(host.data() + (before + r * wide + c * step) * bytes, side.values[r * width + c], side.dtype);
  cudaMemcpyAsync(whole.mutable_data_ptr(), host.data(), host.size(), cudaMemcpyHostToDevice, nullptr);
  return {whole, {rows, width}, {wide, step}, before};
}

// The same rows token by token.
struct Lists {
  std::vector<int64_t> ptr{0}, ids, examples;
  Rows values;
  int64_t num_examples = 0;
};

inline Lists lists_of(const Rows& side) {
  struct Entry {
    int64_t id, row, example;
  };
  std::vector<Entry> entries;
  for (int64_t i = 0; i < side.examples(); ++i)
    for (int64_t row = side.ptr[i]; row < side.ptr[i + 1]; ++row) entries.push_back({side.ids[row], row, i});
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& x, const Entry& y) { return x.id < y.id; });
  Lists lists;
  lists.values.width = side.width, lists.values.dtype = side.dtype, lists.num_examples = side.examples();
  for (const Entry& entry : entries) {
    if (lists.ids.empty() || lists.ids.back() != entry.id) {
      lists.ids.push_back(entry.id);
      lists.ptr.push_back(lists.ptr.back());
    }
    ++lists.ptr.back();
    lists.examples.push_back(entry.example);
    lists.values.ids.push_back(entry.id);  // as many rows
    const auto first = side.values.begin() + entry.row * side.width;
    lists.values.values.insert(lists.values.values.end(), first, first + side.width);
  }
  return lists;
}

}  // namespace cases
