// What the ops demand of their inputs, in the words of `check_rows` in checks.py.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

#include "rows.h"

namespace tracinwe {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// STD_TORCH_CHECK would put this file's name and line before the words; the user typed neither.
template <class... Words>
[[noreturn]] inline void fail(const Words&... words) {
  std::ostringstream message;
  ((message << words), ...);
  throw std::runtime_error(message.str());
}

inline std::string shape_of(const Tensor& tensor) {
  std::ostringstream out;
  out << '(';
  for (int64_t d = 0; d < tensor.dim(); ++d) out << (d ? ", " : "") << tensor.size(d);
  out << (tensor.dim() == 1 ? ",)" : ")");
  return out.str();
}

inline std::string dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return "torch.float32";
    case ScalarType::Double: return "torch.float64";
    case ScalarType::Half: return "torch.float16";
    case ScalarType::BFloat16: return "torch.bfloat16";
    case ScalarType::Long: return "torch.int64";
    case ScalarType::Int: return "torch.int32";
    default: return torch::headeronly::toString(tensor.scalar_type());
  }
}

inline std::string device_of(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  std::ostringstream out;
  if (tensor.is_cuda())
    out << "cuda";
  else
    out << "device type " << static_cast<int>(tensor.device().type());
  out << ':' << tensor.get_device_index();
  return out.str();
}

inline bool one_device(const Tensor& x, const Tensor& y) {
  return x.device() == y.device();
}

// One side as its three tensors: ptr and ids contiguous, the columns of values next to each other. Slices of rows and
// columns of a wider matrix stay where they are; only what is strided along the columns is copied.
struct Side {
  const char* name;
  Tensor ptr, ids, values;
  const char* column = "ids";  // what stands beside each row: its token, or in posting lists its example

  int64_t examples() const { return ptr.size(0) - 1; }
  int64_t rows() const { return ids.size(0); }
  int64_t width() const { return values.size(1); }
  int64_t stride() const { return values.stride(0); }
  Rows view() const { return {ptr.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>(), examples()}; }

  template <class... Got>
  [[noreturn]] void reject(const std::string& expected, const Got&... got) const {
    fail("row gradients, side ", name, ": expected ", expected, ", got ", got..., ".");
  }
};

// What can be told from shapes, dtypes and devices alone.
inline Side checked_shapes(
    const char* name, const Tensor& ptr, const Tensor& ids, const Tensor& values, const char* column = "ids") {
  const Side side{name, ptr, ids, values, column};
  const std::string side_name = name, column_name = column;
  const auto check_integers = [&](const std::string& what, const Tensor& tensor) {
    if (tensor.scalar_type() != ScalarType::Long) side.reject(what + "_" + side_name + " of dtype int64", dtype_of(tensor));
    if (tensor.dim() != 1) side.reject(what + "_" + side_name + " with 1 dimension", shape_of(tensor));
  };
  check_integers("ptr", ptr);
  check_integers(column_name, ids);
  if (values.dim() != 2) side.reject("values_" + side_name + " of shape (rows, columns)", shape_of(values));
  switch (values.scalar_type()) {
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::Half:
    case ScalarType::BFloat16: break;
    default: side.reject("values_" + side_name + " of dtype float32, float64, float16 or bfloat16", dtype_of(values));
  }
  if (!one_device(ptr, ids) || !one_device(ptr, values))
    side.reject(
        "ptr_" + side_name + ", " + column_name + "_" + side_name + " and values_" + side_name + " on one device",
        device_of(ptr), ", ", device_of(ids), ", ", device_of(values));
  if (ids.size(0) != values.size(0))
    side.reject(
        "one entry of " + column_name + "_" + side_name + " for each row of values_" + side_name, ids.size(0), " and ",
        values.size(0), " rows");
  if (ptr.size(0) == 0) side.reject("ptr_" + side_name + " with at least one entry (0)", "none");
  const auto dense = [](const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); };
  const bool columns_adjacent = values.size(0) == 0 || values.size(1) <= 1 || values.stride(1) == 1;
  return {name, dense(ptr), dense(ids), columns_adjacent ? values : torch::stable::contiguous(values), column};
}

// The tokens of posting lists, one for each entry of ptr but the last.
inline Tensor checked_lists(const Side& side, const Tensor& ids, int64_t num_examples) {
  const std::string name = side.name;
  if (ids.scalar_type() != ScalarType::Long) side.reject("ids_" + name + " of dtype int64", dtype_of(ids));
  if (ids.dim() != 1 || ids.size(0) != side.examples())
    side.reject("ids_" + name + " of shape (" + std::to_string(side.examples()) + ",), one for each list", shape_of(ids));
  if (!one_device(ids, side.ptr)) side.reject("ids_" + name + " on " + device_of(side.ptr), device_of(ids));
  if (num_examples < 0) side.reject("num_examples of at least 0", num_examples);
  return torch::stable::contiguous(ids);
}

[[noreturn]] inline void reject_lists(const Side& side, const int64_t* ids, int64_t list) {
  const std::string name = side.name;
  if (ids[list] < 0) side.reject("ids_" + name + " not negative", ids[list]);
  side.reject("ids_" + name + " to ascend, each once", "[", ids[list - 1], ", ", ids[list], "] in a row");
}

[[noreturn]] inline void reject_list(const Side& side, int64_t token, int64_t num_examples) {
  side.reject(
      "examples_" + std::string(side.name) + " to ascend from 0 to " + std::to_string(num_examples - 1) +
          ", each once, within a list",
      "others in the list of token ", token);
}

// Words for the faults that were found in the entries; for ids the first fault is looked up. Host memory only.
[[noreturn]] inline void reject_entries(const Side& side, const Rows& host, int64_t rows, int faults) {
  const std::string name = side.name;
  if (faults & kEnds)
    side.reject(
        "ptr_" + name + " to run from 0 to the number of rows (" + std::to_string(rows) + ")",
        host.ptr[0], " to ", host.ptr[host.examples]);
  if (faults & kFalls) side.reject("ptr_" + name + " never to fall", "an entry smaller than the one before");
  if (faults & kNegative) {
    int64_t smallest = 0;
    for (int64_t row = 0; row < rows; ++row) smallest = host.ids[row] < smallest ? host.ids[row] : smallest;
    side.reject("ids_" + name + " not negative", smallest);
  }
  for (int64_t i = 0; i < host.examples; ++i)
    for (int64_t row = host.ptr[i] + 1; row < host.ptr[i + 1]; ++row)
      if (host.ids[row] <= host.ids[row - 1])
        side.reject(
            "ids_" + name + " to ascend, each once, within an example",
            "[", host.ids[row - 1], ", ", host.ids[row], "] in a row");
  side.reject("sound rows", "fault ", faults);
}

// What the two sides must have in common.
inline void check_alike(const Side& a, const Side& b) {
  const auto demand = [](bool same, const char* what, const auto& of_a, const auto& of_b) {
    if (!same)
      fail("row gradients: expected both sides to have the same ", what, ", got ", of_a, " (side a, test) and ", of_b,
           " (side b, training).");
  };
  demand(a.width() == b.width(), "width", a.width(), b.width());
  demand(a.values.scalar_type() == b.values.scalar_type(), "dtype", dtype_of(a.values), dtype_of(b.values));
  demand(one_device(a.values, b.values), "device", device_of(a.values), device_of(b.values));
}

inline void check_pairs_shape(const Side& a, const Tensor& pairs) {
  if (pairs.scalar_type() != ScalarType::Long || pairs.dim() != 2 || pairs.size(1) != 2 || !one_device(pairs, a.ptr))
    fail("row_dot_terms: expected pairs as an int64 tensor of shape (P, 2) on ", device_of(a.ptr), ", got ",
         dtype_of(pairs), " ", shape_of(pairs), " on ", device_of(pairs), ".");
}

[[noreturn]] inline void reject_pair(const Side& a, const Side& b, int64_t example_a, int64_t example_b) {
  fail("row_dot_terms: expected pairs (example of a, example of b) below (", a.examples(), ", ", b.examples(),
       "), got [", example_a, ", ", example_b, "].");
}

inline bool is_double(const Side& side) {
  return side.values.scalar_type() == ScalarType::Double;
}

inline Tensor new_result(const Side& side, torch::headeronly::IntHeaderOnlyArrayRef shape) {
  return torch::stable::new_empty(side.values, shape, is_double(side) ? ScalarType::Double : ScalarType::Float);
}

}  // namespace tracinwe
