// What every CUDA kernel needs around it: error checks, the current stream, memory, launches, the block's shared memory.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <vector>

#include "../check.h"

namespace tracinwe {
namespace {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kThreads = 128, kWarps = kThreads / kWarpSize;
// More blocks than any device runs at once; kernels walk on in strides of the grid. Few where small cases must do so, too.
#ifdef CUDA_EMULATED
constexpr int64_t kMaxBlocks = 3;
#else
constexpr int64_t kMaxBlocks = 1 << 14;
#endif

inline void check_cuda(cudaError_t status, const char* doing) {
  if (status != cudaSuccess) fail("captum_tracinwe, ", doing, ": CUDA error: ", cudaGetErrorString(status), ".");
}

inline cudaStream_t current_stream(const Side& side) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(side.values.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Waits for the stream: what comes back can be read.
template <class X>
std::vector<X> to_host(const X* device, int64_t count, cudaStream_t stream) {
  std::vector<X> host(static_cast<size_t>(count));
  if (count) {
    check_cuda(
        cudaMemcpyAsync(host.data(), device, host.size() * sizeof(X), cudaMemcpyDeviceToHost, stream), "copying to the host");
    check_cuda(cudaStreamSynchronize(stream), "waiting for a copy");
  }
  return host;
}

// Arrays in device memory for as long as a call lasts. They come out of few tensors of torch's allocator, which gives
// memory back in the order of the stream: nothing waits when the call returns and work is still under way.
class Scratch {
 public:
  explicit Scratch(const Tensor& like) : like_(like) {}

  template <class X>
  X* array(int64_t count) {
    const int64_t bytes = ceil_div(std::max<int64_t>(1, count) * static_cast<int64_t>(sizeof(X)), kAlign) * kAlign;
    if (bytes > left_) {
      left_ = std::max(bytes, kAtOnce);
      tensors_.push_back(torch::stable::new_empty(like_, {left_}, ScalarType::Byte));
      next_ = static_cast<unsigned char*>(tensors_.back().mutable_data_ptr());
    }
    X* const found = reinterpret_cast<X*>(next_);
    next_ += bytes;
    left_ -= bytes;
    return found;
  }

 private:
#ifdef CUDA_EMULATED  // each array alone, to its last byte: so that a step beyond it shows
  static constexpr int64_t kAlign = 1, kAtOnce = 0;
#else
  static constexpr int64_t kAlign = 256, kAtOnce = 4 << 20;
#endif
  Tensor like_;
  std::vector<Tensor> tensors_;
  unsigned char* next_ = nullptr;
  int64_t left_ = 0;
};

// Blocks of `threads` for `count` threads.
inline unsigned grid_for(int64_t count, int threads = kThreads) {
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(ceil_div(count, threads), kMaxBlocks)));
}

// kernel<<<grid, threads, shared>>>(given...); the tests run the same kernels on emulated threads.
template <class Kernel, class... Given>
void launch(
    const char* doing, Kernel kernel, unsigned grid, int threads, size_t shared, cudaStream_t stream, const Given&... given) {
#ifdef CUDA_EMULATED
  emulated::launch(kernel, {grid, 1, 1}, {static_cast<unsigned>(threads), 1, 1}, shared, stream, given...);
#else
  kernel<<<grid, static_cast<unsigned>(threads), shared, stream>>>(given...);
#endif
  check_cuda(cudaGetLastError(), doing);
}

// The block's shared memory, seen as X.
template <class X>
__device__ inline X* shared_as() {
#ifdef CUDA_EMULATED
  return static_cast<X*>(emulated::shared_memory());
#else
  extern __shared__ __align__(16) unsigned char shared[];
  return reinterpret_cast<X*>(shared);
#endif
}

__device__ inline int lane_index() {
  return static_cast<int>(threadIdx.x) % kWarpSize;
}

__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline int64_t thread_count() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

}  // namespace
}  // namespace tracinwe
