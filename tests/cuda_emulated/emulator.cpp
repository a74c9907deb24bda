// Fibers, barriers and exchanges between lanes. Built without sanitizers: it switches stacks.
#include "emulator.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <numeric>
#include <random>
#include <vector>

#include "memory.h"

namespace emulated {
namespace {

constexpr unsigned kLanes = 32, kMostThreads = 1024;
constexpr size_t kStack = 128 << 10;

enum class State { ready, at_block_barrier, at_warp_barrier, ended };

struct Copy {
  void* to;
  const void* from;
  size_t given, bytes;
};

struct Fiber {
  void* jump[5];  // of __builtin_setjmp: no system call, which swapcontext makes two of
  ucontext_t context;
  bool started = false;
  State state = State::ended;
  unsigned mask = 0;
  bool orders_memory = false;
  uint32_t index = 0;
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

struct Warp {
  uint32_t meetings = 0, epoch = 0;  // the latter counts those that order memory: a shuffle does not
  unsigned char slots[2][kLanes * kSlot];
};

Fiber scheduler;
auto& fibers = *new std::vector<Fiber*>;  // kept to the end
std::vector<Warp> warps;
unsigned char* stacks = nullptr;
Fiber* current = nullptr;  // null between kernels
const Launch* launch_now = nullptr;
Index block_now{};
uint32_t launch_count = 0, block_number = 0, block_epoch = 0;
void* shared_now = nullptr;
Order order_now = Order::ascending;
std::mt19937_64 draw;
int until_turn_ends = 0;

void body(int index) {
  for (;;) {  // one round for each block: fibers are kept
    launch_now->invoke(launch_now->arguments);
    Fiber& self = *fibers[static_cast<size_t>(index)];
    if (!self.open.empty() || !self.groups.empty()) fault("thread %d ended with copies that it did not wait for", index);
    self.state = State::ended;
    block_barrier();  // hands over; comes back for the next block
  }
}

__attribute__((noinline)) void switch_to(Fiber& from, Fiber& to) {
  current = &to == &scheduler ? nullptr : &to;
  if (__builtin_setjmp(from.jump)) return;
  if (to.started) __builtin_longjmp(to.jump, 1);
  to.started = true;
  setcontext(&to.context);
}

void make_fibers(unsigned count) {
  if (!stacks) {
    stacks = static_cast<unsigned char*>(
        mmap(nullptr, kStack * kMostThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) fault("no memory for stacks");
    scheduler.started = true;
  }
  while (fibers.size() < count) {
    auto* fiber = new Fiber;
    fiber->index = static_cast<uint32_t>(fibers.size());
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = stacks + kStack * fiber->index;
    fiber->context.uc_stack.ss_size = kStack;
    makecontext(&fiber->context, reinterpret_cast<void (*)()>(body), 1, static_cast<int>(fiber->index));
    fibers.push_back(fiber);
  }
  warps.resize(fibers.size() / kLanes + 1);
}

void yield() { switch_to(*current, scheduler); }

// The threads in the order of their turns; drawn anew where it is random.
void line_up(std::vector<uint32_t>& line) {
  std::iota(line.begin(), line.end(), 0u);
  if (order_now == Order::descending) std::reverse(line.begin(), line.end());
  if (order_now == Order::random || order_now == Order::interleaved) std::shuffle(line.begin(), line.end(), draw);
  if (order_now == Order::by_warp) {
    std::vector<uint32_t> rank((line.size() + kLanes - 1) / kLanes);
    std::iota(rank.begin(), rank.end(), 0u);
    std::shuffle(rank.begin(), rank.end(), draw);
    std::stable_sort(line.begin(), line.end(), [&](uint32_t a, uint32_t b) { return rank[a / kLanes] < rank[b / kLanes]; });
  }
}

// Lets go of whoever waits for a barrier that all have reached. False where nobody can go on.
bool open_barriers(unsigned threads) {
  unsigned at_block = 0, ended = 0;
  bool opened = false;
  for (unsigned first = 0; first < threads; first += kLanes) {
    unsigned waiting = 0, wanted = 0;
    bool ordering = true;
    for (unsigned t = first; t < std::min(first + kLanes, threads); ++t) {
      at_block += fibers[t]->state == State::at_block_barrier;
      ended += fibers[t]->state == State::ended;
      if (fibers[t]->state != State::at_warp_barrier) continue;
      waiting |= 1u << (t - first);
      wanted |= fibers[t]->mask;
      ordering &= fibers[t]->orders_memory;
    }
    if (!waiting || (wanted & ~waiting)) continue;
    for (unsigned t = first; t < std::min(first + kLanes, threads); ++t)
      if (waiting >> (t - first) & 1) {
        if (fibers[t]->mask != wanted) fault("lanes of one warp meet with different masks");
        fibers[t]->state = State::ready;
      }
    ++warps[first / kLanes].meetings;
    warps[first / kLanes].epoch += ordering;
    opened = true;
  }
  if (at_block == threads) {
    for (unsigned t = 0; t < threads; ++t) fibers[t]->state = State::ready;
    ++block_epoch;
    opened = true;
  } else if (at_block && at_block + ended == threads) {
    fault("%u of %u threads wait at a barrier, the others have ended", at_block, threads);
  }
  return opened;
}

void run_block(const Launch& launch) {
  const unsigned threads = launch.block.x;
  std::vector<uint32_t> line(threads);
  for (unsigned t = 0; t < threads; ++t) fibers[t]->state = State::ready;
  ++block_epoch;
  for (;;) {
    line_up(line);
    unsigned ended = 0;
    bool moved = false;
    for (const uint32_t t : line) {
      if (fibers[t]->state == State::ready) {
        moved = true;
        switch_to(scheduler, *fibers[t]);
      }
      ended += fibers[t]->state == State::ended;
    }
    if (ended == threads) return;
    if (!open_barriers(threads) && !moved) fault("deadlock: every thread waits for one that will not come");
  }
}

}  // namespace

void fault(const char* format, ...) {
  std::va_list words;
  va_start(words, format);
  std::fflush(stdout);
  std::fprintf(stderr, "FAULT: ");
  std::vfprintf(stderr, format, words);
  if (current)
    std::fprintf(stderr, " (launch %u, block %u, thread %u)", launch_count, block_number, current->index);
  std::fprintf(stderr, "\n");
  _exit(9);
}

void set_order(Order order, uint64_t seed) {
  order_now = order;
  draw.seed(seed);
  until_turn_ends = 1 + static_cast<int>(draw() % 64);
}

Index thread_index() { return {current->index, 0, 0}; }
Index block_index() { return block_now; }
Index block_size() { return launch_now->block; }
Index grid_size() { return launch_now->grid; }
void* shared_memory() { return shared_now; }
int lane() { return static_cast<int>(current->index % kLanes); }
bool in_kernel() { return current != nullptr; }
Who who() {
  return {launch_count, block_number, current->index, block_epoch, warps[current->index / kLanes].epoch};
}
bool on_a_stack(const void* at) {
  const auto* byte = static_cast<const unsigned char*>(at);
  return stacks && byte >= stacks && byte < stacks + kStack * kMostThreads;
}
bool is_argument(const void* at) {
  const auto* byte = static_cast<const unsigned char*>(at);
  const auto* first = static_cast<const unsigned char*>(launch_now->arguments);
  return byte >= first && byte < first + launch_now->arguments_size;
}

void block_barrier() {
  if (current->state != State::ended) current->state = State::at_block_barrier;
  yield();
}

void meet(unsigned mask, bool orders_memory) {
  const unsigned first = current->index / kLanes * kLanes;
  const unsigned lanes = std::min(kLanes, launch_now->block.x - first);
  if (!(mask >> lane() & 1)) fault("a lane that is not in its own mask");
  current->state = State::at_warp_barrier;
  current->mask = lanes == kLanes ? mask : mask & ((1u << lanes) - 1);
  current->orders_memory = orders_memory;
  yield();
}

void warp_barrier(unsigned mask) { meet(mask, true); }

const unsigned char* exchange(unsigned mask, const void* mine, size_t bytes) {
  if (bytes > kSlot) fault("an exchange of %zu bytes", bytes);
  Warp& warp = warps[current->index / kLanes];
  unsigned char* slots = warp.slots[warp.meetings % 2];  // the other half may still be read
  std::memcpy(slots + kSlot * static_cast<size_t>(lane()), mine, bytes);
  meet(mask, false);
  return slots;
}

void turn_may_end() {
  if (order_now != Order::interleaved || --until_turn_ends > 0) return;
  until_turn_ends = 1 + static_cast<int>(draw() % 64);
  yield();
}

void copy_later(void* to, const void* from, size_t given, size_t bytes) {
  note_access(from, given, Access::read);
  note_access(to, bytes, Access::write);  // it may land at once,
  current->open.push_back({to, from, given, bytes});
}

void end_group() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

void wait_for_groups(int but) {
  while (static_cast<int>(current->groups.size()) > but) {
    for (const Copy& copy : current->groups.front()) {
      note_access(copy.to, copy.bytes, Access::write);  // or as late as here
      std::memcpy(copy.to, copy.from, copy.given);
      std::memset(static_cast<unsigned char*>(copy.to) + copy.given, 0, copy.bytes - copy.given);
    }
    current->groups.pop_front();
  }
}

void run(const Launch& launch) {
  if (launch.block.x == 0 || launch.block.x > kMostThreads || launch.grid.x == 0) fault("a launch of no or too many threads");
  if (launch.shared > (48 << 10)) fault("%zu bytes of shared memory: 48 KiB is what a kernel gets unasked", launch.shared);
  make_fibers(launch.block.x);
  launch_now = &launch;
  ++launch_count;
  std::vector<uint32_t> blocks(launch.grid.x);
  line_up(blocks);
  for (const uint32_t block : blocks) {
    block_number = block;
    block_now = {block, 0, 0};
    Allocation shared(launch.shared, Space::shared);
    shared_now = shared.bytes();
    run_block(launch);
  }
  launch_now = nullptr;
}

}  // namespace emulated
