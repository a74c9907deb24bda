// Generated cases of all ops on emulated threads, against plain loops; every order of threads must give the same bits.
//
//     cases <first seed> <cases> <orders of threads for each case>
// Ends with 0 and a line of what was done, or with a word on the first case that is wrong.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "sides.h"

namespace emulated {
std::map<std::string, Function>& registry() {
  static auto* all = new std::map<std::string, Function>;
  return *all;
}
}  // namespace emulated

namespace cases {
namespace {

using Terms = std::tuple<Tensor, Tensor, Tensor>;
using RowDot = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&);
using RowDotTerms =
    Terms(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&);
using PostingDot =
    Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t);

template <class F>
F* op(const char* name) {
  const auto found = emulated::registry().find(name);
  return found == emulated::registry().end() ? nullptr : reinterpret_cast<F*>(found->second);
}

uint64_t seed_now = 0;

[[noreturn]] void wrong(const std::string& what) {
  std::printf("case %llu: %s\n", static_cast<unsigned long long>(seed_now), what.c_str());
  std::fflush(stdout);
  std::_Exit(3);
}

std::vector<char> bytes_of(const Tensor& tensor) {
  size_t bytes = torch::headeronly::bytes_of(tensor.scalar_type());
  for (int64_t d = 0; d < tensor.dim(); ++d) bytes *= static_cast<size_t>(tensor.size(d));
  std::vector<char> host(bytes);
  if (cudaMemcpyAsync(host.data(), tensor.const_data_ptr(), bytes, cudaMemcpyDeviceToHost, nullptr) != cudaSuccess ||
      cudaStreamSynchronize(nullptr) != cudaSuccess)
    wrong("the copy of a result failed");
  return host;
}

template <class X>
std::vector<X> numbers_of(const Tensor& tensor) {
  const std::vector<char> bytes = bytes_of(tensor);
  std::vector<X> numbers(bytes.size() / sizeof(X));
  if (!bytes.empty()) std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

std::vector<double> results_of(const Tensor& tensor, ScalarType dtype) {
  if (tensor.scalar_type() != (dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float))
    wrong("the result has another dtype");
  if (dtype == ScalarType::Double) return numbers_of<double>(tensor);
  const auto narrow = numbers_of<float>(tensor);
  return {narrow.begin(), narrow.end()};
}

struct Term {
  int64_t id;
  long double value, size;
};

// Terms of a pair of examples by two loops.
std::vector<Term> terms_of(const Rows& a, int64_t i, const Rows& b, int64_t j) {
  std::vector<Term> found;
  for (int64_t x = a.ptr[i]; x < a.ptr[i + 1]; ++x)
    for (int64_t y = b.ptr[j]; y < b.ptr[j + 1]; ++y) {
      if (a.ids[x] != b.ids[y]) continue;
      Term term{a.ids[x], 0, 0};
      for (int64_t k = 0; k < a.width; ++k) {
        const long double product = static_cast<long double>(a.values[x * a.width + k]) * b.values[y * b.width + k];
        term.value += product, term.size += std::fabs(product);
      }
      found.push_back(term);
    }
  return found;
}

struct Case {
  Rows a, b;
  Lists lists;
  std::vector<int64_t> pairs;
  Layout layout_a, layout_b;
};

struct Answers {
  std::vector<char> scores, posted, terms;
  bool operator==(const Answers& other) const {
    return scores == other.scores && posted == other.posted && terms == other.terms;
  }
};

// The host waits once in a call, for what was found in the entries; once more for the places of many tests.
template <class Call>
auto with_waits(const Call& call, int allowed = 1) {
  const int before = emulated::waits();
  auto result = call();
  if (emulated::waits() - before > allowed) wrong("the host waited " + std::to_string(emulated::waits() - before) + " times");
  return result;
}

Tensor scores_of(const Rows& a, Layout layout_a, const Rows& b, Layout layout_b, Random& random) {
  const Tensor ptr_a = on_device(a.ptr), ids_a = on_device(a.ids), values_a = values_on_device(a, layout_a, random),
               ptr_b = on_device(b.ptr), ids_b = on_device(b.ids), values_b = values_on_device(b, layout_b, random);
  const auto call = [&] { return op<RowDot>("row_dot")(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b); };
  return with_waits(call, a.examples() > 256 ? 2 : 1);
}

Tensor posted_scores(const Rows& a, const Lists& lists, Layout layout, Random& random) {
  const Tensor ptr_a = on_device(a.ptr), ids_a = on_device(a.ids), values_a = values_on_device(a, Layout::plain, random),
               ptr_b = on_device(lists.ptr), ids_b = on_device(lists.ids), examples_b = on_device(lists.examples),
               values_b = values_on_device(lists.values, layout, random);
  const auto call = [&] {
    return op<PostingDot>("posting_dot")(ptr_a, ids_a, values_a, ptr_b, ids_b, examples_b, values_b, lists.num_examples);
  };
  return with_waits(call, a.examples() > 256 ? 2 : 1);
}

Tensor pairs_on_device(const std::vector<int64_t>& pairs) {
  return {on_device(pairs), {static_cast<int64_t>(pairs.size() / 2), 2}, {2, 1}, 0};
}

Terms terms_by_op(const Case& c, Random& random) {
  const Tensor ptr_a = on_device(c.a.ptr), ids_a = on_device(c.a.ids), values_a = values_on_device(c.a, c.layout_a, random),
               ptr_b = on_device(c.b.ptr), ids_b = on_device(c.b.ids), values_b = values_on_device(c.b, c.layout_b, random),
               pairs = pairs_on_device(c.pairs);
  return with_waits([&] {
    return op<RowDotTerms>("row_dot_terms")(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b, pairs);
  });
}

bool is_close(double got, long double expected, long double size, ScalarType dtype) {
  return std::fabs(got - expected) <= size * (dtype == ScalarType::Double ? 1e-14L : 2e-6L);
}

void check_scores(const Case& c, const Tensor& scores, const char* what) {
  const int64_t n = c.a.examples(), m = c.b.examples();
  if (scores.size(0) != n || scores.size(1) != m) wrong(std::string(what) + ": another shape");
  const auto got = results_of(scores, c.a.dtype);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j) {
      long double expected = 0, size = 0;
      for (const Term& term : terms_of(c.a, i, c.b, j)) expected += term.value, size += term.size;
      if (!is_close(got[i * m + j], expected, size, c.a.dtype))
        wrong(std::string(what) + "[" + std::to_string(i) + ", " + std::to_string(j) + "] is " +
              std::to_string(got[i * m + j]) + ", expected " + std::to_string(static_cast<double>(expected)));
    }
}

// Terms, and that those of a pair add up to its score, bit for bit: both are the same sums.
template <class S>
void check_terms(const Case& c, const Terms& terms, const Tensor& scores) {
  const auto pair = numbers_of<int64_t>(std::get<0>(terms)), id = numbers_of<int64_t>(std::get<1>(terms));
  const auto term = numbers_of<S>(std::get<2>(terms)), whole = numbers_of<S>(scores);
  size_t at = 0;
  for (size_t p = 0; p < c.pairs.size() / 2; ++p) {
    const int64_t i = c.pairs[2 * p], j = c.pairs[2 * p + 1];
    S sum = 0;
    for (const Term& expected : terms_of(c.a, i, c.b, j)) {
      if (at == pair.size()) wrong("row_dot_terms: too few");
      if (pair[at] != static_cast<int64_t>(p) || id[at] != expected.id) wrong("row_dot_terms: another pair or id");
      if (!is_close(term[at], expected.value, expected.size, c.a.dtype)) wrong("row_dot_terms: another product");
      sum += term[at++];
    }
    if (std::memcmp(&sum, &whole[i * c.b.examples() + j], sizeof sum) && sum != 0)
      wrong("the terms of a pair do not add up to the bits of its score");
  }
  if (at != pair.size()) wrong("row_dot_terms: too many");
}

Answers answer(const Case& c, Random& random, bool check) {
  Answers answers;
  const Tensor scores = scores_of(c.a, c.layout_a, c.b, c.layout_b, random);
  if (check) check_scores(c, scores, "row_dot");
  answers.scores = bytes_of(scores);
  const Terms terms = terms_by_op(c, random);
  if (check) c.a.dtype == ScalarType::Double ? check_terms<double>(c, terms, scores) : check_terms<float>(c, terms, scores);
  for (const Tensor& part : {std::get<0>(terms), std::get<1>(terms), std::get<2>(terms)}) {
    const auto bytes = bytes_of(part);
    answers.terms.insert(answers.terms.end(), bytes.begin(), bytes.end());
  }
  if (op<PostingDot>("posting_dot")) {
    const Tensor posted = posted_scores(c.a, c.lists, c.layout_b, random);
    if (check) check_scores(c, posted, "posting_dot");
    answers.posted = bytes_of(posted);
    if (answers.posted != answers.scores) wrong("posting_dot and row_dot differ in bits");
  }
  return answers;
}

// A part of the examples, in a call of their own: the same bits.
void check_parts(const Case& c, const Answers& whole, Random& random) {
  const int64_t n = c.a.examples(), m = c.b.examples();
  if (!n || !m) return;
  const int64_t i = below(random, n), j = below(random, m);
  const int64_t rows = 1 + below(random, n - i), columns = 1 + below(random, m - j);
  const Rows a = examples_of(c.a, i, i + rows), b = examples_of(c.b, j, j + columns);
  const auto part = bytes_of(scores_of(a, Layout::plain, b, Layout::plain, random));
  const int64_t bytes = c.a.dtype == ScalarType::Double ? 8 : 4;
  for (int64_t r = 0; r < rows; ++r)
    if (std::memcmp(part.data() + r * columns * bytes, whole.scores.data() + ((i + r) * m + j) * bytes,
                    static_cast<size_t>(columns * bytes)))
      wrong("a score has other bits in a smaller call");
}

// One entry made wrong: refused in words that name the side, whatever the entry.
void check_refusals(const Case& c, Random& random) {
  for (int which = 0; which < 9; ++which) {  // ptr and ids of both sides, then posting lists
    Case bad = c;
    Rows& side = which % 2 ? bad.b : bad.a;
    const int64_t wild[] = {-1, int64_t{1} << 40, -(int64_t{1} << 62), side.rows() + 1};
    std::string words = which % 2 || which >= 4 ? "side b: expected " : "side a: expected ";
    if (which < 2) {
      const bool end = below(random, 3) == 0;
      if (!end && side.examples() < 2) continue;
      const auto at = static_cast<size_t>(end ? side.examples() * below(random, 2) : 1 + below(random, side.examples() - 1));
      side.ptr[at] = end ? side.ptr[at] + 1 + below(random, 3) : wild[below(random, 4)];
      words += which % 2 ? "ptr_b " : "ptr_a ";
      words += end ? "to run from 0" : "never to fall";
    } else if (which < 4) {
      if (!side.rows()) continue;
      const auto at = static_cast<size_t>(below(random, side.rows()));
      const bool negative = below(random, 2) || at == 0;
      side.ids[at] = negative ? -1 - below(random, 9) : side.ids[at - 1];
      const bool starts = std::find(side.ptr.begin(), side.ptr.end(), static_cast<int64_t>(at)) != side.ptr.end();
      if (!negative && starts) continue;  // another example may begin with any id
      words += which % 2 ? "ids_b " : "ids_a ";
    } else {
      if (!op<PostingDot>("posting_dot") || !bad.lists.examples.size() || !bad.a.rows()) continue;
      const auto at = static_cast<size_t>(below(random, static_cast<int64_t>(bad.lists.examples.size())));
      const bool first = at == 0 || bad.lists.values.ids[at - 1] != bad.lists.values.ids[at];  // of its list
      const int64_t kind = below(random, first ? 2 : 3);
      const int64_t value = kind == 0   ? wild[below(random, 3)]
                            : kind == 1 ? bad.lists.num_examples
                                        : bad.lists.examples[at - 1];
      if (std::find(bad.a.ids.begin(), bad.a.ids.end(), bad.lists.values.ids[at]) == bad.a.ids.end()) continue;
      if (!bad.a.examples() || !bad.lists.num_examples) continue;
      bad.lists.examples[at] = value;
      words += "examples_b to ascend";
    }
    for (int call = 0; call < 3; ++call) {
      if ((call == 2) != (which >= 4)) continue;
      try {
        if (call == 0) scores_of(bad.a, Layout::plain, bad.b, Layout::plain, random);
        if (call == 1) terms_by_op(bad, random);
        if (call == 2) posted_scores(bad.a, bad.lists, Layout::plain, random);
      } catch (const std::runtime_error& error) {
        if (std::string(error.what()).find(words) == std::string::npos)
          wrong("refused in other words: " + std::string(error.what()) + " (expected: " + words + ")");
        continue;
      }
      wrong("what is not sound was not refused: " + words);
    }
  }
  if (c.a.examples() && c.b.examples()) {
    Case bad = c;
    bad.pairs = {0, 0, below(random, 2) ? -1 : bad.a.examples(), 0};
    try {
      terms_by_op(bad, random);
    } catch (const std::runtime_error& error) {
      if (std::string(error.what()).find("expected pairs") != std::string::npos) return;
      wrong("a bad pair was refused in other words: " + std::string(error.what()));
    }
    wrong("a bad pair was not refused");
  }
}

// Each call of the runtime fails in turn: an error in words, and the next call is right again.
void check_failures(const Case& c, Random& random, const Answers& expected) {
  const Tensor ptr_a = on_device(c.a.ptr), ids_a = on_device(c.a.ids), values_a = values_on_device(c.a, c.layout_a, random),
               ptr_b = on_device(c.b.ptr), ids_b = on_device(c.b.ids), values_b = values_on_device(c.b, c.layout_b, random);
  for (int n = 1;; ++n) {
    emulated::fail_call(n);
    try {
      op<RowDot>("row_dot")(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b);
      if (emulated::failed()) wrong("a failure of CUDA went unnoticed");
      break;
    } catch (const std::runtime_error& error) {
      if (std::string(error.what()).find("CUDA error") == std::string::npos) wrong("a failure in other words");
    }
  }
  emulated::fail_call(0);
  if (bytes_of(scores_of(c.a, c.layout_a, c.b, c.layout_b, random)) != expected.scores) wrong("a failure left something");
}

template <size_t COUNT>
int64_t one_of(Random& random, const int64_t (&choices)[COUNT]) {
  return choices[below(random, COUNT)];
}

Case draw(Random& random) {
  const ScalarType dtypes[] = {ScalarType::Float, ScalarType::Double, ScalarType::Half, ScalarType::BFloat16};
  Shape shape{};
  shape.dtype = dtypes[below(random, 4)];
  const int64_t kind = below(random, 20);
  shape.width = kind < 12 ? below(random, 41) : one_of(random, {1, 63, 64, 65, 127, 128, 129, 255, 257, 384, 511, 768, 769});
  shape.vocabulary = one_of(random, {1, 2, 5, 12, 40});
  shape.most = below(random, shape.vocabulary + 1);
  shape.scale = one_of(random, {1, 1000, (int64_t{1} << 31) + 7, int64_t{1} << 40, int64_t{1} << 56});
  int64_t n = below(random, 8), m = below(random, 8);
  if (below(random, 6) == 0) n = below(random, 2), m = below(random, 2);
  if (kind == 0) n = one_of(random, {1, 33, 70, 129, 300});
  if (kind == 1) m = one_of(random, {1, 33, 70, 300, 700});
  if (kind < 2) shape.width = below(random, 9);
  if (kind == 2) n = 20 + below(random, 60), m = 20 + below(random, 100), shape.vocabulary = one_of(random, {1, 3, 9});
  Case c;
  shape.examples = n;
  c.a = random_rows(shape, random);
  shape.examples = m;
  c.b = random_rows(shape, random);
  c.lists = lists_of(c.b);
  const int64_t pairs = n && m ? below(random, 9) : 0;
  for (int64_t p = 0; p < pairs; ++p) c.pairs.push_back(below(random, n)), c.pairs.push_back(below(random, m));
  const bool plain = below(random, 2) == 0;
  c.layout_a = plain ? Layout::plain : static_cast<Layout>(below(random, kLayouts));
  c.layout_b = plain ? Layout::plain : static_cast<Layout>(below(random, kLayouts));
  return c;
}

void run(uint64_t seed, int orders) {
  seed_now = seed;
  Random random(seed);
  const Case c = draw(random);
  emulated::hold_back(seed % 2);
  const auto set_order = [&](int o) {
    emulated::set_order(static_cast<emulated::Order>((seed + static_cast<uint64_t>(o) * 2) % emulated::kOrders), seed);
  };
  set_order(0);
  const Answers first = answer(c, random, true);
  for (int o = 1; o < orders; ++o) {
    set_order(o);
    if (!(answer(c, random, false) == first)) wrong("another order of threads, other bits");
  }
  check_parts(c, first, random);
  if (seed % 4 == 0) check_refusals(c, random);
  if (seed % 32 == 0) check_failures(c, random, first);
}

}  // namespace
}  // namespace cases

int main(int count, char** words) {
  if (count != 4) return std::fprintf(stderr, "usage: cases <first seed> <cases> <orders>\n"), 2;
  const auto first = std::strtoull(words[1], nullptr, 10), cases = std::strtoull(words[2], nullptr, 10);
  for (uint64_t seed = first; seed < first + cases; ++seed) cases::run(seed, std::atoi(words[3]));
  emulated::hold_back(false);
  std::printf("%llu cases\n", cases);
  return 0;
}
