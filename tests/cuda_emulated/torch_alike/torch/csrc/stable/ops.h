// New tensors and copies of strided ones.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstring>

namespace torch::stable {

inline Tensor new_empty(const Tensor&, headeronly::IntHeaderOnlyArrayRef shape, ScalarType dtype) {
  return {shape.sizes, dtype};
}
inline Tensor new_empty(const Tensor& like, headeronly::IntHeaderOnlyArrayRef shape) {
  return new_empty(like, shape, like.scalar_type());
}

// One or two dimensions; work on the stream, as torch's copy is.
inline Tensor contiguous(const Tensor& from) {
  if (from.is_contiguous()) return from;
  const int64_t rows = from.size(0), columns = from.dim() == 2 ? from.size(1) : 1;
  const Tensor to = from.dim() == 2 ? Tensor({rows, columns}, from.scalar_type()) : Tensor({rows}, from.scalar_type());
  const auto bytes = static_cast<int64_t>(headeronly::bytes_of(from.scalar_type()));
  const int64_t across = from.dim() == 2 ? from.stride(1) : 0;
  emulated::enqueue(
      [=] {
        emulated::note_filled(to.const_data_ptr(), static_cast<size_t>(rows * columns * bytes));
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c)
            std::memcpy(
                to.mutable_data_ptr<char>() + (r * columns + c) * bytes,
                from.const_data_ptr<char>() + (r * from.stride(0) + c * across) * bytes, static_cast<size_t>(bytes));
      },
      false);
  return to;
}

}  // namespace torch::stable
