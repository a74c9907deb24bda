// Sums over all that comes before, by one block.
#pragma once

#include "device.h"

namespace tracinwe {
namespace {

#ifdef CUDA_EMULATED  // so that small cases take several steps
constexpr int kScanThreads = 128;
#else
constexpr int kScanThreads = 1024;
#endif

// K running sums at once. `before` is what the earlier steps added up; shared memory of ScanRoom<K>.
template <int K>
struct ScanRoom {
  int64_t of_warps[kWarpSize + 1][K];
};

template <int K>
__device__ inline void inclusive_in_warp(int64_t (&value)[K]) {
  const int lane = lane_index();
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
      const int64_t lower = __shfl_up_sync(kAllLanes, value[k], static_cast<unsigned>(distance));
      if (lane >= distance) value[k] += lower;
    }
}

// value becomes the sum over the threads before this one, plus before; before grows by the sum over all.
template <int K>
__device__ inline void scan_block(int64_t (&value)[K], int64_t (&before)[K], ScanRoom<K>* room) {
  const int lane = lane_index(), warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  int64_t sum[K];
#pragma unroll
  for (int k = 0; k < K; ++k) sum[k] = value[k];
  inclusive_in_warp(sum);
  if (lane == kWarpSize - 1)
#pragma unroll
    for (int k = 0; k < K; ++k) room->of_warps[warp][k] = sum[k];
  __syncthreads();
  if (warp == 0) {
    int64_t whole[K], mine[K];
#pragma unroll
    for (int k = 0; k < K; ++k) whole[k] = mine[k] = lane < warps ? room->of_warps[lane][k] : 0;
    inclusive_in_warp(whole);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      room->of_warps[lane][k] = whole[k] - mine[k];
      if (lane == kWarpSize - 1) room->of_warps[kWarpSize][k] = whole[k];
    }
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) {
    value[k] = before[k] + room->of_warps[warp][k] + sum[k] - value[k];
    before[k] += room->of_warps[kWarpSize][k];
  }
  __syncthreads();  // before the next step writes there
}

}  // namespace
}  // namespace tracinwe
