// Tensors in emulated device memory, with the names of torch's stable ABI that the kernels use.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

#include "../../../../memory.h"
#include "../../../../streams.h"

namespace torch::headeronly {

struct IntHeaderOnlyArrayRef {
  std::vector<int64_t> sizes;
  IntHeaderOnlyArrayRef(std::initializer_list<int64_t> list) : sizes(list) {}
};

inline size_t bytes_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
    case ScalarType::Long: return 8;
    case ScalarType::Float:
    case ScalarType::Int: return 4;
    case ScalarType::Byte: return 1;
    default: return 2;
  }
}

}  // namespace torch::headeronly

namespace torch::stable {

using headeronly::ScalarType;

struct Device {
  int type() const { return 1; }
  bool operator==(const Device&) const { return true; }
};

class Tensor {
 public:
  Tensor() = default;
  // Memory goes back in the order of the stream, as torch's allocator gives it.
  Tensor(std::vector<int64_t> shape, ScalarType dtype) : shape_(std::move(shape)), dtype_(dtype) {
    size_t bytes = headeronly::bytes_of(dtype);
    strides_.resize(shape_.size());
    int64_t step = 1;
    for (size_t d = shape_.size(); d-- > 0; step *= shape_[d]) strides_[d] = step, bytes *= static_cast<size_t>(shape_[d]);
    auto* memory = new emulated::Allocation(bytes, emulated::Space::device);
    memory_ = std::shared_ptr<emulated::Allocation>(
        memory, [](emulated::Allocation* gone) { emulated::enqueue([gone] { delete gone; }, false); });
  }
  Tensor(const Tensor& of, std::vector<int64_t> shape, std::vector<int64_t> strides, int64_t offset)
      : shape_(std::move(shape)), strides_(std::move(strides)), offset_(offset), dtype_(of.dtype_), memory_(of.memory_) {}

  int64_t dim() const { return static_cast<int64_t>(shape_.size()); }
  int64_t size(int64_t d) const { return shape_[static_cast<size_t>(d)]; }
  int64_t stride(int64_t d) const { return strides_[static_cast<size_t>(d)]; }
  ScalarType scalar_type() const { return dtype_; }
  bool is_cpu() const { return false; }
  bool is_cuda() const { return true; }
  Device device() const { return {}; }
  int32_t get_device_index() const { return 0; }
  bool is_contiguous() const {
    int64_t step = 1;
    for (int64_t d = dim(); d-- > 0; step *= size(d))
      if (size(d) != 1 && stride(d) != step) return false;
    return true;
  }
  void* mutable_data_ptr() const {
    return memory_->bytes() + offset_ * static_cast<int64_t>(headeronly::bytes_of(dtype_));
  }
  const void* const_data_ptr() const { return mutable_data_ptr(); }
  template <class X>
  X* mutable_data_ptr() const {
    return static_cast<X*>(mutable_data_ptr());
  }
  template <class X>
  const X* const_data_ptr() const {
    return static_cast<const X*>(const_data_ptr());
  }

 private:
  std::vector<int64_t> shape_, strides_;
  int64_t offset_ = 0;
  ScalarType dtype_ = ScalarType::Float;
  std::shared_ptr<emulated::Allocation> memory_;
};

}  // namespace torch::stable
