// CUDA's threads on one processor: the threads of a block are fibers that take turns, in an order that can be chosen.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulated {

struct Index {
  unsigned x, y, z;
};

// In which order threads (and blocks) get their turns. A turn ends where a thread waits for others; in `interleaved`, also
// at memory accesses drawn at random (in the build that watches accesses).
enum class Order { ascending, descending, random, by_warp, interleaved };
constexpr int kOrders = 5;

void set_order(Order order, uint64_t seed);

// Prints what was found and ends the process: after a fault nothing that follows can be trusted.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ------------------------------------------------------------------------------------- called from device code
Index thread_index();
Index block_index();
Index block_size();
Index grid_size();
void* shared_memory();
void block_barrier();
void warp_barrier(unsigned mask);
// Every lane of `mask` gives `bytes` and sees what all gave: slot(lane) until its next exchange.
const unsigned char* exchange(unsigned mask, const void* mine, size_t bytes);
constexpr size_t kSlot = 64;
int lane();
void turn_may_end();
// Copies that land when they are waited for, as cp.async's do.
void copy_later(void* to, const void* from, size_t given, size_t bytes);
void end_group();
void wait_for_groups(int but);

// ------------------------------------------------------------------------------------- called by the runtime
struct Launch {
  void (*invoke)(const void* arguments);
  const void* arguments;
  size_t arguments_size;
  Index grid, block;
  size_t shared;
};
void run(const Launch& launch);
bool in_kernel();

// Who is running, for the watch over memory.
struct Who {
  uint32_t launch, block, thread, block_epoch, warp_epoch;
};
Who who();
bool on_a_stack(const void* at);
bool is_argument(const void* at);

}  // namespace emulated
