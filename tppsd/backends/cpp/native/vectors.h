// Vectors as wide as the processor's registers, and the functions that Transformers take of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 4, TOKENS = 6;  // 24 sums, 4 weights: as many as there are registers for
#elif defined(__AVX__)
constexpr int LANES = 8, TILE = 2, TOKENS = 6;
#else
constexpr int LANES = 4, TILE = 4, TOKENS = 5;
#endif

#define ALWAYS_INLINE __attribute__((always_inline))

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

static inline Vec load(const float *p) { return *(const Vec *)p; }
static inline void store(float *p, Vec v) { *(Vec *)p = v; }

// The upper half of a float.
struct Bf16 {
  uint16_t bits;
};
typedef uint16_t Shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

static inline Words widened(const Bf16 *p) {
#if defined(__AVX512F__)  // what compilers make of a conversion are six instructions
  return (Words)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
#else
  return __builtin_convertvector(*(const Shorts *)p, Words);
#endif
}
static inline Vec load(const Bf16 *p) { return (Vec)(widened(p) << 16); }

// Some of the lanes of a vector.
#if defined(__AVX512F__)
typedef __mmask16 Lanes;
static inline Lanes lanes_between(int64_t low, int64_t high) { return low < high ? (1u << high) - (1u << low) : 0; }
#else
typedef Ints Lanes;
static inline Lanes lanes_between(int64_t low, int64_t high) {
  Ints lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  return (lane >= (int)low) & (lane < (int)high);
}
#endif
static inline bool is_among(Lanes lanes, int i) {
#if defined(__AVX512F__)
  return lanes >> i & 1;
#else
  return lanes[i];
#endif
}
static inline void leave_out(Lanes &lanes, int i) {
#if defined(__AVX512F__)
  lanes &= ~(1u << i);
#else
  lanes[i] = 0;
#endif
}
// a in some lanes, b in the others
static inline Vec chosen(Lanes lanes, Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_mask_blend_ps(lanes, (__m512)b, (__m512)a);
#else
  return lanes ? a : b;
#endif
}

// Some lanes of the vector at p, and zeros in place of the other lanes, which are not read.
static inline Vec load(const float *p, Lanes lanes) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(lanes, p);
#elif defined(__AVX2__)
  return (Vec)_mm256_maskload_ps(p, (__m256i)lanes);
#else
  Vec x = {};
  for (int i = 0; i < LANES; i++)
    if (lanes[i]) x[i] = p[i];
  return x;
#endif
}
static inline Vec load(const Bf16 *p, Lanes lanes) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return (Vec)((Words)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p)) << 16);
#else
  Words x = {};
  for (int i = 0; i < LANES; i++)
    if (is_among(lanes, i)) x[i] = p[i].bits;
  return (Vec)(x << 16);
#endif
}

// total + a * b in some of the lanes, the total in the others
static inline Vec plus_product(Vec total, Vec a, Vec b, Lanes lanes) {
#if defined(__AVX512F__)
  return (Vec)_mm512_mask3_fmadd_ps((__m512)a, (__m512)b, (__m512)total, lanes);
#else
  return chosen(lanes, total + a * b, total);
#endif
}

static inline void put(float *p, float x) { *p = x; }
static inline void put(Bf16 *p, float x) {  // to the nearest, of two as near to the even one
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  p->bits = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The first `num` lanes to p.
static inline void store_first(float *p, Vec x, int num) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, lanes_between(0, num), (__m512)x);
#else
  for (int i = 0; i < num; i++) p[i] = x[i];
#endif
}
static inline void store_first(Bf16 *p, Vec x, int num) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const Words bits = (Words)x, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  _mm256_mask_storeu_epi16(p, lanes_between(0, num), _mm512_cvtepi32_epi16((__m512i)rounded));
#else
  for (int i = 0; i < num; i++) put(p + i, x[i]);
#endif
}

static inline Vec all(float x) { return Vec{} + x; }

// a > b ? a : b, and a < b ? a : b: one instruction, where compilers make two of these words
static inline Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
static inline Vec smaller(Vec a, Vec b) { return -larger(-a, -b); }

// The lanes I of two vectors behind one another.
template <int... I>
static inline Vec lanes_of(Vec a, Vec b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, Ints{I...});
#endif
}

// Of every block of 2 * HALF lanes of two vectors behind one another: the first half, or the second.
template <int HALF, bool SECOND, int... I>
static inline Vec halves_of(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return lanes_of(a, b, std::integer_sequence<int, (I / HALF * 2 * HALF + I % HALF + SECOND * HALF)...>());
}

// f(i as a constant) for i from 0 to N - 1: what compilers keep in registers where they would keep an array that a loop
// fills in memory.
template <class F, int... I>
static inline ALWAYS_INLINE void unrolled(F f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>()), ...);
}
template <int N, class F>
static inline ALWAYS_INLINE void unrolled(F f) {
  unrolled(f, std::make_integer_sequence<int, N>());
}

// Rows and columns exchanged, of LANES vectors: vectors i and i + LANES / 2 are interleaved, as many times as halves a
// vector has.
template <int HALVES = LANES, int... I>
static inline void transpose(Vec *vectors, std::integer_sequence<int, I...> lanes) {
  if constexpr (HALVES > 1) {
    Vec next[LANES];
    unrolled<LANES / 2>([&](auto i) ALWAYS_INLINE {
      const Vec a = vectors[i], b = vectors[i + LANES / 2];
      next[2 * i] = lanes_of(a, b, std::integer_sequence<int, (I / 2 + I % 2 * LANES)...>());
      next[2 * i + 1] = lanes_of(a, b, std::integer_sequence<int, (LANES / 2 + I / 2 + I % 2 * LANES)...>());
    });
    unrolled<LANES>([&](auto i) ALWAYS_INLINE { vectors[i] = next[i]; });
    transpose<HALVES / 2>(vectors, lanes);
  }
}

// f over all lanes of a vector, by halves: a few instructions where one by one would be as many as there are lanes.
template <int HALF = LANES / 2, class F>
static inline float over_lanes(Vec v, F f) {
  if constexpr (HALF == 0) return v[0];
  else return over_lanes<HALF / 2>(f(v, halves_of<HALF, true>(v, v, std::make_integer_sequence<int, LANES>())), f);
}
static inline float sum(Vec v) { return over_lanes(v, [](Vec a, Vec b) { return a + b; }); }
static inline float largest_of(Vec v) { return over_lanes(v, larger); }

struct Sum {
  Vec operator()(Vec a, Vec b) const { return a + b; }
};
struct Largest {
  Vec operator()(Vec a, Vec b) const { return larger(a, b); }
};

// Of each of NUM vectors, a block of lanes that fold to what all of its lanes do.
template <class F, int NUM>
static inline ALWAYS_INLINE Vec blocks_of(const Vec *vectors) {
  if constexpr (NUM == 1) {
    return *vectors;
  } else {
    constexpr auto lanes = std::make_integer_sequence<int, LANES>();
    const Vec a = blocks_of<F, NUM / 2>(vectors), b = blocks_of<F, NUM / 2>(vectors + NUM / 2);
    return F()(halves_of<LANES / NUM, false>(a, b, lanes), halves_of<LANES / NUM, true>(a, b, lanes));
  }
}

// Blocks of LENGTH lanes folded to one lane each, which come first.
template <class F, int LENGTH>
static inline ALWAYS_INLINE Vec folded_blocks(Vec v) {
  if constexpr (LENGTH > 1) {
    constexpr auto lanes = std::make_integer_sequence<int, LANES>();
    return folded_blocks<F, LENGTH / 2>(
        F()(halves_of<LENGTH / 2, false>(v, v, lanes), halves_of<LENGTH / 2, true>(v, v, lanes)));
  }
  return v;
}

constexpr int power_of_two(int most) { return most < 2 ? 1 : 2 * power_of_two(most / 2); }

// folded[i] = what all lanes of vector i fold to. Many together take a quarter of the instructions of one after the
// other. In which order the lanes of a vector meet does not depend on the others: as in `sum`.
template <class F, int NUM>
static inline ALWAYS_INLINE void fold_lanes(const Vec *vectors, float *folded) {
  constexpr int FIRST = std::min(LANES, power_of_two(NUM));
  const Vec first = folded_blocks<F, LANES / FIRST>(blocks_of<F, FIRST>(vectors));
  std::memcpy(folded, &first, FIRST * sizeof(float));
  if constexpr (NUM > FIRST) fold_lanes<F, NUM - FIRST>(vectors + FIRST, folded + FIRST);
}

constexpr float LOG2_E = 1.44269504f;

// 2^x for x < 128, but at least 2^LEAST_POWER, which is nothing beside 1: below 2^-126 some processors take a hundred
// times as long. A power of two times a polynomial (minimax, relative error 2e-7 as all of it is evaluated).
constexpr float LEAST_POWER = -100.0f;
static inline Vec exp2_(Vec x) {
  x = larger(all(LEAST_POWER), x);
#if defined(__AVX512DQ__)
  const Vec rest = (Vec)_mm512_reduce_ps((__m512)x, 1);  // what is left of the next whole number below
  Vec p = all(1.867100596e-3f);
  for (float c : {9.017093107e-3f, 5.579986796e-2f, 2.401644588e-1f, 6.931512952e-1f, 1.0f}) p = p * rest + c;
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)x);
#else  // of the nearest whole number, which lies in the lowest bits of x + 1.5 * 2^23
  const Vec shifted = x + 12582912.0f, rest = x - (shifted - 12582912.0f);
  Vec p = all(1.534581190e-4f);
  for (float c : {1.339993122e-3f, 9.618488957e-3f, 5.550328777e-2f, 2.402264689e-1f, 6.931472057e-1f, 1.0f}) p =
      p * rest + c;
  return (Vec)((Words)p + ((Words)shifted << 23));  // of unsigned numbers, which may overflow
#endif
}

static inline Vec relu(Vec x) { return larger(Vec{}, x); }
static inline Vec silu(Vec x) { return x / (1.0f + exp2_(smaller(all(120.0f), -LOG2_E * x))); }
static inline Vec tanh_(Vec x) { return 1.0f - 2.0f / (1.0f + exp2_(smaller(all(40.0f), 2.0f * LOG2_E * x))); }

// f(n as a constant), for n from 1 to MOST
template <int MOST, class F>
static inline void with_constant(int64_t n, F f) {
  if (n == MOST) return f(std::integral_constant<int, MOST>());
  if constexpr (MOST > 1) with_constant<MOST - 1>(n, f);
}

// f(the size of a group as a constant, its first member), for groups of MOST or fewer members that make up `num`. Sizes
// differ by one at most: a small group takes more time per member than a large one.
template <int MOST, class F>
static inline void in_groups(int64_t num, F f) {
  const int64_t groups = (num + MOST - 1) / MOST;
  for (int64_t group = 0, first = 0; group < groups; group++) {
    const int64_t size = num / groups + (group < num % groups);
    with_constant<MOST>(size, [&](auto constant) { f(constant, first); });
    first += size;
  }
}

template <class F>
static inline void map(float *y, int64_t size, F f) {  // sizes are multiples of 16
  for (int64_t i = 0; i < size; i += LANES) store(y + i, f(i));
}
