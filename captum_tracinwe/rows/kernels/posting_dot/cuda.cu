// posting_dot on CUDA: the same products and the same sums as row_dot's, of training rows that lie token by token already.
//
// They are worked off by training examples, a range of them at a time: in every list, which ascends, a range is one run. The
// host waits once, at the end, to learn whether the entries were sound; with more than kMaxTests tests once before, too.

#include <torch/csrc/stable/library.h>

#include "cuda/products.h"
#include "cuda/score_tile.h"

namespace tracinwe {
namespace {

// Training examples begin:end.
struct Range {
  int64_t begin, end;
};

// The run of each list that lies in the range. The ends of all runs are looked for in the whole list, so that the runs
// share it out without a gap even where it is out of order; what is wrong then shows as they are read, or here.
__global__ void find_runs(Faults* faults, Lists lists, ListEntries entries, Range range) {
  if (any(faults)) return;
  const int count = *lists.count;
  for (int64_t list = thread_index(); list < count; list += thread_count()) {
    const int entry = lists.entry[list];
    const int64_t head = entries.ptr[entry], tail = entries.ptr[entry + 1];
    const int64_t from = range.begin == 0 ? head : lower_bound(entries.examples, head, tail, range.begin);
    const int64_t to = range.end == entries.num_examples ? tail : lower_bound(entries.examples, head, tail, range.end);
    const bool sound = from <= to && to - from <= range.end - range.begin;
    if (!sound) note_list(faults, entry);
    lists.first_b[list] = from;
    lists.count_b[list] = sound ? static_cast<int>(to - from) : 0;
  }
}

// What of a list belongs to the examples of a block.
struct Run {
  int64_t from, to;
};
template <class S>
size_t sum_bytes(int64_t tests) {
  return kSumThreads * sizeof(Run) + kSumThreads / kWarpSize * sizeof(int64_t) + score_bytes<S>(tests);
}

template <class S>
__global__ void __launch_bounds__(kSumThreads) add_lists(
    const Faults* faults, Lists lists, const int64_t* examples, Range range, const S* products, Scores<S> out) {
  if (any(faults) || faults->list) return;  // an example twice in a list would have two threads at its sums
  Run* const runs = shared_as<Run>();
  auto* const filled = reinterpret_cast<unsigned*>(runs + kSumThreads);  // of each warp the lanes with a run
  S* const sums = reinterpret_cast<S*>(filled + 2 * kSumThreads / kWarpSize);
  const int thread = static_cast<int>(threadIdx.x), count = *lists.count;
  const int64_t pitch = score_pitch(out.tests);
  for (int64_t first = range.begin + static_cast<int64_t>(blockIdx.x) * kOwned<S>; first < range.end;
       first += static_cast<int64_t>(gridDim.x) * kOwned<S>) {
    const int64_t left = range.end - first;
    const int owned = left < kOwned<S> ? static_cast<int>(left) : kOwned<S>;
    out.read(sums, first, owned, true);
    for (int base = 0; base < count; base += kSumThreads) {
      const int list = base + thread;
      Run run{0, 0};
      if (list < count) {
        const int64_t begin = lists.first_b[list], end = begin + lists.count_b[list];
        run.from = lower_bound(examples, begin, end, first);
        run.to = lower_bound(examples, run.from, end, first + owned);
      }
      runs[thread] = run;
      const unsigned mine = __ballot_sync(kAllLanes, run.from < run.to);
      if (lane_index() == 0) filled[thread / kWarpSize] = mine;
      __syncthreads();
      for (int warp = 0; warp < kSumThreads / kWarpSize; ++warp)
        for (unsigned bits = filled[warp]; bits; bits &= bits - 1) {
          const int at = warp * kWarpSize + __ffs(bits) - 1, of = base + at;
          const int64_t from = runs[at].from;
          const int tests = lists.tests(of), cells = static_cast<int>(runs[at].to - from) * tests;
          const S* const some = products + lists.product[of] + (from - lists.first_b[of]) * tests;
          const int* const owners = lists.owners + lists.start[of];
          for (int cell = thread; cell < cells; cell += kSumThreads)
            sums[(examples[from + cell / tests] - first) * pitch + owners[cell % tests]] += some[cell];
          __syncthreads();  // the next list adds to these sums with other threads
        }
      __syncthreads();  // before the runs are replaced
    }
    __syncthreads();
    out.write(sums, first, owned);
    __syncthreads();  // before the sums are cleared
  }
}

template <class T>
void fill_scores(
    const Side& a, const Side& b, const Tensor& tokens, Tensor& scores, Scratch& scratch, Faults* faults,
    cudaStream_t stream) {
  using S = sum_t<T>;
  const int64_t m = scores.size(1), entries = b.examples(), most_tests = std::min(a.examples(), kMaxTests);
  const int64_t most_rows_a = most_test_rows(a, stream);  // the most products of one training example
  const int64_t most_examples =
      b.rows() * most_tests <= kMaxProducts ? m
                                                : std::min(m, std::max<int64_t>(1, kMaxProducts / std::max<int64_t>(1, most_rows_a)));
  const int64_t most_products = std::min(b.rows() * most_tests, most_examples * most_rows_a);
  const int64_t tiles = most_tiles(b.rows(), std::min(most_rows_a, entries), most_tests);
  TestLists tests(a, most_rows_a, entries, tiles, scratch, faults, stream);
  auto* const products = scratch.array<S>(most_products);
  const TokenTable table{tokens.const_data_ptr<int64_t>(), entries};
  const ListEntries list_entries{b.view().ids, b.view().ptr, m};
  for (int64_t first = 0; first < a.examples(); first += kMaxTests) {
    const int64_t last = std::min(a.examples(), first + kMaxTests);
    tests.make(table, first, last);
    const Scores<S> out{static_cast<S*>(scores.mutable_data_ptr()), first, last - first, m};
    for (Range range{0, std::min(m, most_examples)}; range.begin < m;
         range = {range.end, std::min(m, range.end + most_examples)}) {
      launch(
          "finding runs", find_runs, grid_for(tests.most()), kThreads, 0, stream, faults, tests.lists, list_entries, range);
      tests.lay_out_products<false>();
      launch_products<T>(a, b, nullptr, list_entries, tiles, tests.lists, faults, products, stream);
      launch(
          "adding products", add_lists<S>, grid_for(range.end - range.begin, kOwned<S>), kSumThreads,
          sum_bytes<S>(out.tests), stream, faults, tests.lists, list_entries.examples, range, products, out);
    }
  }
}

Tensor posting_dot(
    const Tensor& ptr_a, const Tensor& ids_a, const Tensor& values_a, const Tensor& ptr_b, const Tensor& ids_b,
    const Tensor& examples_b, const Tensor& values_b, int64_t num_examples) {
  const Side a = checked_shapes("a", ptr_a, ids_a, values_a);
  const Side b = checked_shapes("b", ptr_b, examples_b, values_b, "examples");
  check_alike(a, b);
  const Tensor tokens = checked_lists(b, ids_b, num_examples);
  const torch::stable::accelerator::DeviceGuard guard(a.values.get_device_index());
  const cudaStream_t stream = current_stream(a);
  Scratch scratch(a.ids);
  Faults* const faults = new_faults(scratch, stream);
  launch(
      "checking rows", find_list_faults, grid_for(a.rows() + a.examples() + b.examples() + 2), kThreads, 0, stream, a.view(),
      a.rows(), b.view(), b.rows(), tokens.const_data_ptr<int64_t>(), faults);
  Tensor scores = new_result(a, {a.examples(), num_examples});
  if (a.examples() && num_examples)
    with_type(a, [&](auto type) { fill_scores<decltype(type)>(a, b, tokens, scores, scratch, faults, stream); });
  const Faults found = to_host(faults, 1, stream)[0];
  if (found.side[0]) reject_side(a, found.side[0], stream);
  if (found.side[1] & (kEnds | kFalls)) reject_side(b, found.side[1], stream);
  if (found.side[1]) {
    const auto ids = to_host(tokens.const_data_ptr<int64_t>(), b.examples(), stream);
    for (int64_t t = 0; t < b.examples(); ++t)
      if (ids[t] < 0 || (t && ids[t] <= ids[t - 1])) reject_lists(b, ids.data(), t);
  }
  if (found.list)
    reject_list(b, to_host(tokens.const_data_ptr<int64_t>() + found.list + kLastList, 1, stream)[0], num_examples);
  return scores;
}

}  // namespace
}  // namespace tracinwe

STABLE_TORCH_LIBRARY_IMPL(captum_tracinwe, CUDA, m) {
  m.impl("posting_dot", TORCH_BOX(&tracinwe::posting_dot));
}
