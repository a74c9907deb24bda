// The watch over memory: of every piece, who wrote last and who has read since, in which stretch between barriers.
//
// Pieces are of two bytes; in larger memory of 16 until somebody writes less, since most is read and written in sixteens.
#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "emulator.h"

namespace emulated {
namespace {

constexpr size_t kCoarse = 16, kFine = 2;  // a half is the least that a thread writes

// Whether device memory is somebody else's (torch's, as tensors of the CPU): then nothing is known of its bounds.
#ifdef EMULATED_FOREIGN
constexpr bool kForeign = true;
#else
constexpr bool kForeign = false;
#endif

// Readers since the last write that nothing orders: one thread, or several of a warp, a block, a grid.
enum class Readers : uint8_t { none, thread, warp, block, grid };

struct Cell {
  Who writer{}, reader{};
  Readers readers = Readers::none;
  bool written = false, by_atomic = false, host_wrote = false;
};

struct Watched {
  size_t size;
  Space space;
  size_t grain;
  std::vector<Cell> cells;

  void split() {
    std::vector<Cell> fine((size + kFine - 1) / kFine);
    for (size_t c = 0; c < fine.size(); ++c) fine[c] = cells[c * kFine / grain];
    cells = std::move(fine);
    grain = kFine;
  }
};

std::map<const unsigned char*, Watched>& watched() {
  static auto* all = new std::map<const unsigned char*, Watched>;
  return *all;
}

Watched* last_found = nullptr;
const unsigned char* last_start = nullptr;

Watched* find(const unsigned char* at) {
  if (last_found && at >= last_start && at < last_start + last_found->size) return last_found;
  auto next = watched().upper_bound(at);
  if (next == watched().begin()) return nullptr;
  --next;
  if (at >= next->first + next->second.size) return nullptr;
  last_start = next->first;
  return last_found = &next->second;
}

// Whether what `earlier` did is known to have happened before what `now` does.
bool ordered(const Who& earlier, const Who& now) {
  if (earlier.launch != now.launch) return true;
  if (earlier.block != now.block) return false;
  if (earlier.block_epoch != now.block_epoch || earlier.thread == now.thread) return true;
  return earlier.thread / 32 == now.thread / 32 && earlier.warp_epoch != now.warp_epoch;
}

void add_reader(Cell& cell, const Who& now) {
  const Who& old = cell.reader;
  Readers among = Readers::thread;
  if (cell.readers != Readers::none && old.launch == now.launch) {
    if (old.block != now.block || cell.readers == Readers::grid)
      among = Readers::grid;
    else if (old.block_epoch == now.block_epoch) {
      if (old.thread / 32 != now.thread / 32 || cell.readers == Readers::block)
        among = Readers::block;
      else if ((old.warp_epoch == now.warp_epoch) && (old.thread != now.thread || cell.readers == Readers::warp))
        among = Readers::warp;
    }
  }
  cell.readers = among;
  cell.reader = now;
}

bool after_readers(const Cell& cell, const Who& now) {
  switch (cell.readers) {
    case Readers::none: return true;
    case Readers::thread: return ordered(cell.reader, now);
    case Readers::grid: return cell.reader.launch != now.launch;
    default:
      if (cell.reader.launch != now.launch) return true;
      if (cell.reader.block != now.block) return false;
      if (cell.reader.block_epoch != now.block_epoch) return true;
      return cell.readers == Readers::warp && cell.reader.thread / 32 == now.thread / 32 &&
             cell.reader.warp_epoch != now.warp_epoch;
  }
}

struct Place {
  Watched* memory;
  size_t first, last;  // cells
};

Place place_of(const void* at, size_t bytes, const char* doing, bool writes) {
  const auto* byte = static_cast<const unsigned char*>(at);
  Watched* memory = find(byte);
  if (!memory) fault("%s of %zu bytes at %p, which is nobody's memory on the device", doing, bytes, at);
  const size_t offset = static_cast<size_t>(byte - last_start);
  if (offset + bytes > memory->size)
    fault("%s of %zu bytes at %zu of an allocation of %zu", doing, bytes, offset, memory->size);
  if (writes && memory->grain == kCoarse && (offset % kCoarse || (bytes % kCoarse && offset + bytes < memory->size)))
    memory->split();
  return {memory, offset / memory->grain, (offset + bytes + memory->grain - 1) / memory->grain};
}

}  // namespace

bool sees_all = false;

Allocation::Allocation(size_t bytes, Space space) : bytes_(static_cast<unsigned char*>(std::malloc(bytes ? bytes : 1))) {
  std::memset(bytes_, 0xA7, bytes);
  const size_t grain = bytes < 256 ? kFine : kCoarse;
  if (bytes) watched()[bytes_] = {bytes, space, grain, std::vector<Cell>((bytes + grain - 1) / grain)};
}

Allocation::~Allocation() {
  last_found = nullptr;
  watched().erase(bytes_);
  std::free(bytes_);
}

void note_access(const void* at, size_t bytes, Access access) {
  if (!bytes || kForeign) return;
  const Place place = place_of(at, bytes, access == Access::read ? "a read" : "a write", access != Access::read);
  if (!sees_all) return;
  const Who now = who();
  const char* space = place.memory->space == Space::shared ? "shared" : "device";
  for (size_t c = place.first; c < place.last; ++c) {
    Cell& cell = place.memory->cells[c];
    if (access != Access::write && !cell.written) fault("a read of %s memory that was never written", space);
    const bool both_atomic = access == Access::atomic && cell.by_atomic;
    if (cell.written && !cell.host_wrote && !both_atomic && !ordered(cell.writer, now))
      fault("race in %s memory: written by thread %u of block %u, %s by another", space, cell.writer.thread,
            cell.writer.block, access == Access::read ? "read" : "written");
    if (access == Access::read) {
      add_reader(cell, now);
      continue;
    }
    if (!after_readers(cell, now))
      fault("race in %s memory: read by thread %u of block %u, written by another", space, cell.reader.thread,
            cell.reader.block);
    cell = {now, {}, Readers::none, true, access == Access::atomic, false};
  }
}

void note_host_access(const void* at, size_t bytes) {
  const auto* byte = static_cast<const unsigned char*>(at);
  if (find(byte)) fault("the host touches %zu bytes of device memory", bytes);
}

void note_filled(const void* at, size_t bytes) {
  if (!bytes || kForeign) return;
  const Place place = place_of(at, bytes, "a copy", true);
  for (size_t c = place.first; c < place.last; ++c) place.memory->cells[c] = {{}, {}, Readers::none, true, false, true};
}

void note_copied_out(const void* at, size_t bytes) {
  if (!bytes || kForeign) return;
  const Place place = place_of(at, bytes, "a copy to the host", false);
  if (!sees_all) return;
  for (size_t c = place.first; c < place.last; ++c)
    if (!place.memory->cells[c].written) fault("a copy to the host of memory that was never written");
}

}  // namespace emulated
