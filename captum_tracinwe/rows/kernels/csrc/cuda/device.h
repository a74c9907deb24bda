// What both CUDA kernels need around them: error checks, the current stream, copies to the host, checks of the rows.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <vector>

#include "../check.h"
#include "warp.h"

namespace tracinwe {
namespace {

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

// A tensor of torch's allocator, so that the memory is given back in the order of the stream. Waits for the stream,
// because `host` is pageable and its owner may free it on return.
template <class X>
Tensor to_device(const std::vector<X>& host, const Side& like, cudaStream_t stream) {
  static_assert(sizeof(X) == 8 || sizeof(X) == 4);
  Tensor device = torch::stable::new_empty(
      like.ids, {static_cast<int64_t>(host.size())}, sizeof(X) == 8 ? ScalarType::Long : ScalarType::Int);
  if (!host.empty()) {
    check_cuda(
        cudaMemcpyAsync(device.mutable_data_ptr(), host.data(), host.size() * sizeof(X), cudaMemcpyHostToDevice, stream),
        "copying to the device");
    check_cuda(cudaStreamSynchronize(stream), "waiting for a copy");
  }
  return device;
}

constexpr int kThreads = 128, kWarps = kThreads / kWarpSize;

// Blocks of kThreads for `count` threads; the kernels walk on in strides of the grid where that is not enough.
inline unsigned grid_for(int64_t count) {
  return static_cast<unsigned>(std::min<int64_t>(ceil_div(count, kThreads), int64_t{1} << 30));
}

__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline int64_t thread_count() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

__global__ void find_ptr_faults(const int64_t* ptr, int64_t examples, int64_t rows, int* faults) {
  for (int64_t i = thread_index(); i < examples; i += thread_count())
    if (const int fault = ptr_fault(ptr, i)) atomicOr(faults, fault);
  if (thread_index() == 0 && (ptr[0] != 0 || ptr[examples] != rows)) atomicOr(faults, kEnds);
}

__global__ void find_ids_faults(Rows side, int* faults) {
  for (int64_t i = thread_index(); i < side.examples; i += thread_count())
    if (const int fault = ids_fault(side, i)) atomicOr(faults, fault);
}

// The entries of ptr and ids of a side in device memory. One wait for ptr, one for ids, which ptr must bound first.
inline void check_entries(const Side& side, cudaStream_t stream) {
  const Rows rows = side.view();
  Tensor flag = torch::stable::new_empty(side.ids, {1}, ScalarType::Int);
  int* faults = static_cast<int*>(flag.mutable_data_ptr());
  check_cuda(cudaMemsetAsync(faults, 0, sizeof(int), stream), "clearing a flag");
  const auto stop_at_faults = [&](bool ids_too) {
    check_cuda(cudaGetLastError(), "launching a check");
    const int found = to_host(faults, 1, stream)[0];
    if (!found) return;
    const auto ptr = to_host(rows.ptr, rows.examples + 1, stream);
    const auto ids = to_host(rows.ids, ids_too ? side.rows() : 0, stream);
    reject_entries(side, {ptr.data(), ids.data(), rows.examples}, side.rows(), found);
  };
  find_ptr_faults<<<grid_for(std::max<int64_t>(1, rows.examples)), kThreads, 0, stream>>>(
      rows.ptr, rows.examples, side.rows(), faults);
  stop_at_faults(false);
  if (!rows.examples) return;
  find_ids_faults<<<grid_for(rows.examples), kThreads, 0, stream>>>(rows, faults);
  stop_at_faults(true);
}

// Whether every row starts at a multiple of 16 bytes.
template <class T>
bool aligned_rows(const Side& side) {
  const auto address = reinterpret_cast<uintptr_t>(side.values.const_data_ptr());
  return address % 16 == 0 && side.stride() * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

}  // namespace
}  // namespace tracinwe
