// Vector loops for one instruction set: dot products of rows, order of ids. simd.h includes this file once for each, with these set:
//   TRACINWE_ISA     the namespace
//   TRACINWE_BYTES   bytes of a vector register
//   TRACINWE_TILE_A  test rows in a register tile: TILE_A × 4 sums, 4 rows of b and 1 of a must fit the registers
//   TRACINWE_F16C    1 where the hardware converts float16
//
// The order of additions is fixed, whatever the tile: one vector sum per pair of rows, columns in order, then the lanes
// folded by halves. So a pair's product has the same bits in every tile, block and thread.

namespace TRACINWE_ISA {

typedef float floats __attribute__((vector_size(TRACINWE_BYTES)));
typedef double doubles __attribute__((vector_size(TRACINWE_BYTES)));
typedef uint32_t words __attribute__((vector_size(TRACINWE_BYTES)));
typedef uint16_t half_words __attribute__((vector_size(TRACINWE_BYTES / 2)));

template <class S>
struct vector_of;
template <>
struct vector_of<float> {
  using type = floats;
  using mask = int32_t __attribute__((vector_size(TRACINWE_BYTES)));
};
template <>
struct vector_of<double> {
  using type = doubles;
  using mask = int64_t __attribute__((vector_size(TRACINWE_BYTES)));
};
template <class S>
constexpr int lanes = TRACINWE_BYTES / sizeof(S);
constexpr int kTileA = TRACINWE_TILE_A;

// ------------------------------------------------------------------------------------------------------------ loading

// By types that may lie anywhere: memcpy of 32 bytes GCC does through the stack, and AVX2 took seven times as long.
typedef float anywhere_floats __attribute__((vector_size(TRACINWE_BYTES), aligned(4), may_alias));
typedef double anywhere_doubles __attribute__((vector_size(TRACINWE_BYTES), aligned(8), may_alias));
TRACINWE_INLINE void load(floats& v, const float* p) { v = *reinterpret_cast<const anywhere_floats*>(p); }
TRACINWE_INLINE void load(doubles& v, const double* p) { v = *reinterpret_cast<const anywhere_doubles*>(p); }

#if TRACINWE_F16C && TRACINWE_BYTES == 64
// Intrinsics in their masked forms, all lanes on: GCC warns that the plain ones read an uninitialised register.
using Halves = __m256i;
TRACINWE_INLINE Halves halves(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
TRACINWE_INLINE void widen(floats& v, Halves bits, const BFloat16*) {
  const __m512i wide = _mm512_maskz_slli_epi32(0xFFFF, _mm512_maskz_cvtepu16_epi32(0xFFFF, bits), 16);
  std::memcpy(&v, &wide, sizeof v);
}
TRACINWE_INLINE void widen(floats& v, Halves bits, const Half*) {
  const __m512 wide = _mm512_maskz_cvtph_ps(0xFFFF, bits);
  std::memcpy(&v, &wide, sizeof v);
}
#elif TRACINWE_F16C
using Halves = __m128i;
TRACINWE_INLINE Halves halves(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
TRACINWE_INLINE void widen(floats& v, Halves bits, const BFloat16*) {
  const __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
  std::memcpy(&v, &wide, sizeof v);
}
TRACINWE_INLINE void widen(floats& v, Halves bits, const Half*) {
  const __m256 wide = _mm256_cvtph_ps(bits);
  std::memcpy(&v, &wide, sizeof v);
}
#endif

#if TRACINWE_F16C
template <class T>
TRACINWE_INLINE void load(floats& v, const T* p) {
  widen(v, halves(p), p);
}
#else
TRACINWE_INLINE void load(floats& v, const BFloat16* p) {  // a bfloat16 is the upper half of a float32
  half_words bits;
  std::memcpy(&bits, p, sizeof bits);
  v = reinterpret_cast<floats>(__builtin_convertvector(bits, words) << 16);
}
TRACINWE_INLINE void load(floats& v, const Half* p) {
  floats wide = {};
  for (int lane = 0; lane < lanes<float>; ++lane) wide[lane] = static_cast<float>(p[lane]);
  v = wide;
}
#endif

// The first `count` < lanes elements, zeros behind them: a row ends where the next, or unmapped memory, begins. By masks
// where there are some: through memory, 100 columns cost 1.8 times what 112 do.
template <class V, class T>
TRACINWE_INLINE void load_tail(V& v, const T* p, int64_t count) {
  alignas(64) unsigned char bytes[TRACINWE_BYTES] = {};
  std::memcpy(bytes, p, static_cast<size_t>(count) * sizeof(T));
  load(v, reinterpret_cast<const T*>(bytes));
}
#if TRACINWE_F16C && TRACINWE_BYTES == 64
TRACINWE_INLINE void load_tail(floats& v, const float* p, int64_t count) {
  const __m512 first = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
  std::memcpy(&v, &first, sizeof v);
}
TRACINWE_INLINE void load_tail(doubles& v, const double* p, int64_t count) {
  const __m512d first = _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), p);
  std::memcpy(&v, &first, sizeof v);
}
template <class T, std::enable_if_t<sizeof(T) == 2, int> = 0>
TRACINWE_INLINE void load_tail(floats& v, const T* p, int64_t count) {
  widen(v, _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p), p);
}
#elif TRACINWE_F16C
TRACINWE_INLINE __m256i first_words(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
TRACINWE_INLINE void load_tail(floats& v, const float* p, int64_t count) {
  const __m256 first = _mm256_maskload_ps(p, first_words(count));
  std::memcpy(&v, &first, sizeof v);
}
TRACINWE_INLINE void load_tail(doubles& v, const double* p, int64_t count) {
  const __m256d first = _mm256_maskload_pd(p, first_words(2 * count));
  std::memcpy(&v, &first, sizeof v);
}
#endif

// ------------------------------------------------------------------------------------------------------------ folding

// Half of a fold: element e of the result comes from this element of (x, y) laid end to end; upper: the one to add.
// Groups of 2 · half lanes become groups of half. Down to 16 bytes the groups of x come before those of y; below, they
// alternate within each 16 bytes, where shuffling is cheap.
template <class S>
constexpr int fold_source(int element, int half, bool upper) {
  const int row = 16 / static_cast<int>(sizeof(S)), all = lanes<S>;
  const int span = half >= row ? all : row;  // x and y fill half a span each
  const int base = element / span * span, within = element % span;
  const bool from_y = within >= span / 2;
  const int e = from_y ? within - span / 2 : within;
  return base + (from_y ? all : 0) + e / half * 2 * half + e % half + (upper ? half : 0);
}

#if defined(__clang__)
#define TRACINWE_SHUFFLE(upper) __builtin_shufflevector(x, y, fold_source<S>(I, half, upper)...)
#else
#define TRACINWE_SHUFFLE(upper) __builtin_shuffle(x, y, typename vector_of<S>::mask{fold_source<S>(I, half, upper)...})
#endif
template <class S, int half, class V, int... I>
TRACINWE_INLINE void fold(V& out, const V& x, const V& y, std::integer_sequence<int, I...>) {
  out = TRACINWE_SHUFFLE(false) + TRACINWE_SHUFFLE(true);
}
#undef TRACINWE_SHUFFLE

template <class S, int count, int half, class V>
TRACINWE_INLINE void fold_all(V* sums) {
  if constexpr (half >= 1) {
    constexpr int left = count > 1 ? count / 2 : 1;
    constexpr auto all = std::make_integer_sequence<int, lanes<S>>{};
    for (int m = 0; m < left; ++m) {
      V folded;
      fold<S, half>(folded, sums[count > 1 ? 2 * m : 0], sums[count > 1 ? 2 * m + 1 : 0], all);
      sums[m] = folded;
    }
    fold_all<S, left, half / 2>(sums);
  }
}

// Where the total of each of `count` vectors lies once they are folded into one: the same folds, run on names.
template <class S, int count>
struct Places {
  int of[count] = {};
  constexpr Places() {
    int owner[count][lanes<S>] = {};
    for (int c = 0; c < count; ++c)
      for (int l = 0; l < lanes<S>; ++l) owner[c][l] = c;
    int left = count;
    for (int half = lanes<S> / 2; half >= 1; half /= 2) {
      const int next = left > 1 ? left / 2 : 1;
      for (int m = 0; m < next; ++m) {
        int folded[lanes<S>] = {};
        for (int l = 0; l < lanes<S>; ++l) {
          const int from = fold_source<S>(l, half, false);
          folded[l] = owner[left > 1 ? 2 * m + from / lanes<S> : 0][from % lanes<S>];
        }
        for (int l = 0; l < lanes<S>; ++l) owner[m][l] = folded[l];
      }
      left = next;
    }
    for (int l = lanes<S> - 1; l >= 0; --l) of[owner[0][l]] = l;
  }
};

// Totals of `count` (a power of two) vectors.
template <class S, int count, class V>
TRACINWE_INLINE void totals(V* sums, S* out) {
  if constexpr (count > lanes<S>) {
    totals<S, count / 2>(sums, out);
    totals<S, count / 2>(sums + count / 2, out + count / 2);
  } else {
    constexpr Places<S, count> places;
    fold_all<S, count, lanes<S> / 2>(sums);
    S folded[lanes<S>];
    std::memcpy(folded, sums, sizeof folded);
    for (int c = 0; c < count; ++c) out[c] = folded[places.of[c]];
  }
}

// ------------------------------------------------------------------------------------------------------------ tiles

constexpr int power_of_two_from(int n) { return n <= 1 ? 1 : 2 * power_of_two_from((n + 1) / 2); }

// out[t * NB + s] = ⟨row t of a, row s of b⟩. Rows of a are packed and padded with zeros to whole vectors. On the way the
// rows ahead[0:FETCH] are asked for, step by step, into L2: more lines can be under way there than into L1.
template <int NA, int NB, int FETCH, class S, class T>
TRACINWE_INLINE void tile(const S* a, int64_t pitch, const T* const* b, const T* const* ahead, int64_t width, S* out) {
  using V = typename vector_of<S>::type;
  constexpr int count = power_of_two_from(NA) * NB;
  V sums[count] = {};
  const auto step = [&](int64_t k, int64_t tail) __attribute__((always_inline)) {
    V rows_b[NB] = {};
    for (int s = 0; s < NB; ++s) {
      if (tail)
        load_tail(rows_b[s], b[s] + k, tail);
      else
        load(rows_b[s], b[s] + k);
    }
    if (!tail)
      for (int f = 0; f < FETCH; ++f) __builtin_prefetch(ahead[f] + k, 0, 2);
    for (int t = 0; t < NA; ++t) {
      V row_a;
      load(row_a, a + t * pitch + k);
      for (int s = 0; s < NB; ++s) sums[t * NB + s] += row_a * rows_b[s];
    }
  };
  int64_t k = 0;
  for (; k + lanes<S> <= width; k += lanes<S>) step(k, 0);
  if (k < width) step(k, width - k);
  totals<S, count>(sums, out);
}

// out[s] = ⟨a, row s of b⟩ for rows one after another in memory, each read to its end before the next: so the hardware
// sees one stream. With `ahead` > 0 the row that many elements on is asked for besides.
template <int COUNT, class S, class T>
TRACINWE_INLINE void in_turn(const S* a, const T* b, int64_t stride, int64_t width, int64_t ahead, S* out) {
  using V = typename vector_of<S>::type;
  V sums[COUNT];
#pragma GCC unroll 1  // unrolled, the rows' loops would be jammed into one that takes turns
  for (int s = 0; s < COUNT; ++s) {
    const T* row = b + s * stride;
    if (ahead)
      for (int64_t k = 0; k < width; k += 64 / sizeof(T)) __builtin_prefetch(row + ahead + k, 0, 2);
    int64_t k = 0;
    V sum = {}, row_a, row_b;
#pragma GCC unroll 4
    for (; k + lanes<S> <= width; k += lanes<S>) {
      load(row_a, a + k);
      load(row_b, row + k);
      sum += row_a * row_b;
    }
    if (k < width) {
      load(row_a, a + k);
      load_tail(row_b, row + k, width - k);
      sum += row_a * row_b;
    }
    sums[s] = sum;
  }
  totals<S, COUNT>(sums, out);
}

// out[c] = ⟨row c of a, row c of b⟩, c < COUNT: rows that share nothing.
template <int COUNT, class S, class TA, class TB>
TRACINWE_INLINE void each(const TA* const* a, const TB* const* b, const TB* const* ahead, int64_t width, S* out) {
  using V = typename vector_of<S>::type;
  V sums[COUNT] = {};
  int64_t k = 0;
  for (; k + lanes<S> <= width; k += lanes<S>)
    for (int c = 0; c < COUNT; ++c) {
      V row_a, row_b;
      load(row_a, a[c] + k);
      load(row_b, b[c] + k);
      __builtin_prefetch(ahead[c] + k, 0, 2);  // into L2: 1.5 times the rate of into L1
      sums[c] += row_a * row_b;
    }
  if (k < width)
    for (int c = 0; c < COUNT; ++c) {
      V row_a, row_b;
      load_tail(row_a, a[c] + k, width - k);
      load_tail(row_b, b[c] + k, width - k);
      sums[c] += row_a * row_b;
    }
  totals<S, COUNT>(sums, out);
}

// -------------------------------------------------------------------------------------------------- one token's products

// scores[example of b, example of a] += ⟨row, row⟩ for NB training rows that have the token and all its test rows.
template <int NB, class S, class T>
TRACINWE_INLINE void rows_by_list(
    const S* packed, int64_t pitch, const int32_t* examples_a, int64_t length, const T* const* b, Ahead<T>& ahead,
    S* const* cells, int64_t width) {
  const auto part = [&](auto na, auto fetch, int64_t p) __attribute__((always_inline)) {
    constexpr int NA = decltype(na)::value, FETCH = decltype(fetch)::value;
    S out[power_of_two_from(NA) * NB];
    tile<NA, NB, FETCH>(packed + p * pitch, pitch, b, ahead.next, width, out);
    ahead.next += FETCH;
    for (int s = 0; s < NB; ++s)
      for (int t = 0; t < NA; ++t) cells[s][examples_a[p + t]] += out[t * NB + s];
  };
  const auto any = [&](auto fetch, int64_t p) __attribute__((always_inline)) -> int64_t {
    const int64_t left = length - p;
    if (left >= kTileA) return part(std::integral_constant<int, kTileA>{}, fetch, p), kTileA;
    if constexpr (kTileA > 3)
      if (left == 3) return part(std::integral_constant<int, 3>{}, fetch, p), 3;
    if constexpr (kTileA > 2)
      if (left == 2) return part(std::integral_constant<int, 2>{}, fetch, p), 2;
    return part(std::integral_constant<int, 1>{}, fetch, p), 1;
  };
  // At least as many rows are asked for as are read, and more where tiles find b in the cache: what a token of many test
  // rows computes hides what the next, of few, must wait for. Spread over the tiles, because asking for 4 rows within one
  // keeps its own loads waiting (20,000 x 64 examples, D = 768: 207 ms in one tile, 197 spread).
  int64_t room = ahead.room(b + NB), p = 0;
  if (length <= kTileA) {
    if (room >= 4)
      any(std::integral_constant<int, 4>{}, 0);
    else
      any(std::integral_constant<int, 0>{}, 0);
    return;
  }
  if (length < 4 * kTileA)
    for (; p < length && room >= 2; room -= 2) p += any(std::integral_constant<int, 2>{}, p);
  else
    for (; p < length && room >= 1; room -= 1) p += any(std::integral_constant<int, 1>{}, p);
  while (p < length) p += any(std::integral_constant<int, 0>{}, p);
}

// Training rows b[0:count] of one token against its test rows.
template <class S, class T>
void list(
    const S* packed, int64_t pitch, const int32_t* examples_a, int64_t length, const T* const* b, int64_t count,
    Ahead<T>& ahead, S* const* cells, int64_t width) {
  int64_t e = 0;
  for (; e + 4 <= count; e += 4) rows_by_list<4>(packed, pitch, examples_a, length, b + e, ahead, cells + e, width);
  if (e + 2 <= count) {
    rows_by_list<2>(packed, pitch, examples_a, length, b + e, ahead, cells + e, width);
    e += 2;
  }
  if (e < count) rows_by_list<1>(packed, pitch, examples_a, length, b + e, ahead, cells + e, width);
}

// scores[(examples[c] - begin) · pitch] += ⟨a, row c of b⟩ for rows one after another in memory, of ascending examples.
//
// The cells are found between the products: during a pass of its own nothing is read from memory. Rows of half types are
// asked for 8 kB ahead besides, or the products wait for them at every page, where the hardware stops reading ahead
// (bfloat16, D = 128, 158,000 rows: 1.76 ms with the pass, 1.67 without, 1.48 asked for). float32 keeps memory busy as it
// is, and asking costs a tenth at D = 384.
template <class S, class T>
void run(
    const S* a, const T* b, int64_t stride, const int64_t* examples, int64_t begin, int64_t count, S* scores,
    int64_t pitch, int64_t width) {
  constexpr int kAtOnce = 4;
  constexpr int64_t bytes_ahead = sizeof(T) == 2 ? 8192 : 0;
  const int64_t rows_ahead = bytes_ahead / std::max<int64_t>(64, width * static_cast<int64_t>(sizeof(T)));
  S out[kAtOnce];
  int64_t c = 0;
  const auto up_to = [&](int64_t end, int64_t ahead) __attribute__((always_inline)) {
    for (; c + kAtOnce <= end; c += kAtOnce) {
      in_turn<kAtOnce>(a, b + c * stride, stride, width, ahead, out);
      for (int s = 0; s < kAtOnce; ++s) scores[(examples[c + s] - begin) * pitch] += out[s];
    }
  };
  if (rows_ahead) up_to(count - rows_ahead, rows_ahead * stride);
  up_to(count, 0);
  for (; c < count; ++c) {
    in_turn<1>(a, b + c * stride, stride, width, 0, out);
    scores[(examples[c] - begin) * pitch] += out[0];
  }
}

// *cells[c] += ⟨row c of a, row c of b⟩ for c < count, in that order.
template <class S, class TA, class TB>
void pairs(const TA* const* a, const TB* const* b, int64_t count, int64_t distance, S* const* cells, int64_t width) {
  constexpr int kAtOnce = 4;
  S out[kAtOnce];
  int64_t c = 0;
  for (; c + kAtOnce <= count; c += kAtOnce) {
    each<kAtOnce>(a + c, b + c, b + c + distance, width, out);
    for (int s = 0; s < kAtOnce; ++s) *cells[c + s] += out[s];
  }
  for (; c < count; ++c) {
    each<1>(a + c, b + c, b + c, width, out);
    *cells[c] += out[0];
  }
}

// ------------------------------------------------------------------------------------------------------------ ids

// Two plain loops' worth of facts in one pass over the ids; no branch, so that the compiler can use vectors.
inline Order scan_order(const int64_t* ids, int64_t count) {
  int64_t steps_down = 0, signs = count ? ids[0] : 0;
  for (int64_t i = 1; i < count; ++i) {
    steps_down += ids[i] <= ids[i - 1];
    signs |= ids[i];
  }
  return {steps_down, signs < 0};
}

}  // namespace TRACINWE_ISA
