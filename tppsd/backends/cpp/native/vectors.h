// Vectors as wide as the processor's registers, and the functions that Transformers take of them.
#pragma once

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

static inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

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

// Of each of NUM vectors, a block of lanes that add up to what all of its lanes do.
template <int NUM>
static inline ALWAYS_INLINE Vec blocks_of(const Vec *vectors) {
  if constexpr (NUM == 1) {
    return *vectors;
  } else {
    constexpr auto lanes = std::make_integer_sequence<int, LANES>();
    const Vec a = blocks_of<NUM / 2>(vectors), b = blocks_of<NUM / 2>(vectors + NUM / 2);
    return halves_of<LANES / NUM, false>(a, b, lanes) + halves_of<LANES / NUM, true>(a, b, lanes);
  }
}

// Blocks of LENGTH lanes folded to one lane each, which come first.
template <int LENGTH>
static inline ALWAYS_INLINE Vec folded_blocks(Vec v) {
  if constexpr (LENGTH > 1) {
    constexpr auto lanes = std::make_integer_sequence<int, LANES>();
    return folded_blocks<LENGTH / 2>(halves_of<LENGTH / 2, false>(v, v, lanes) + halves_of<LENGTH / 2, true>(v, v,
        lanes));
  }
  return v;
}

// totals[i] = what all lanes of vector i add up to, for powers of two and sums of them. All together they take a
// quarter of the instructions of one after the other. In which order the lanes of a vector meet does not depend on the
// others: as in `sum`.
template <int NUM>
static inline ALWAYS_INLINE void add_lanes(const Vec *vectors, float *totals) {
  if constexpr (NUM > LANES) {
    add_lanes<LANES>(vectors, totals), add_lanes<NUM - LANES>(vectors + LANES, totals + LANES);
  } else {
    const Vec folded = folded_blocks<LANES / NUM>(blocks_of<NUM>(vectors));
    std::memcpy(totals, &folded, NUM * sizeof(float));
  }
}

constexpr float LOG2_E = 1.44269504f;

#if defined(__AVX512F__)
// 2^(i / 32), in two registers
alignas(64) constexpr float POWERS[32] = {
  1.000000000e+00f, 1.021897149e+00f, 1.044273782e+00f, 1.067140401e+00f, 1.090507733e+00f, 1.114386743e+00f,
      1.138788635e+00f, 1.163724859e+00f,
  1.189207115e+00f, 1.215247360e+00f, 1.241857812e+00f, 1.269050957e+00f, 1.296839555e+00f, 1.325236643e+00f,
      1.354255547e+00f, 1.383909882e+00f,
  1.414213562e+00f, 1.445180807e+00f, 1.476826146e+00f, 1.509164428e+00f, 1.542210825e+00f, 1.575980845e+00f,
      1.610490332e+00f, 1.645755478e+00f,
  1.681792831e+00f, 1.718619298e+00f, 1.756252160e+00f, 1.794709075e+00f, 1.834008086e+00f, 1.874167634e+00f,
      1.915206561e+00f, 1.957144124e+00f};

// 2^x for x < 128, 0 below -126: 2^(i / 32) of the nearest i, which lies in the lowest bits of x + 1.5 * 2^18, times a
// polynomial (minimax, relative error 6e-8; 2e-7 as all of it is evaluated) of what is left.
static inline Vec exp2_(Vec x) {
  const Vec shifted = x + 393216.0f, near = shifted - 393216.0f, rest = x - near;
  const Vec power = (Vec)_mm512_permutex2var_ps(_mm512_load_ps(POWERS), (__m512i)shifted, _mm512_load_ps(POWERS + 16));
  const Vec p = (2.402267869e-01f * rest + 6.931573295e-01f) * rest + 1.0f;
  const __mmask16 is_large = _mm512_cmp_ps_mask((__m512)x, (__m512)all(-126.0f), _CMP_NLT_UQ);
  return (Vec)_mm512_maskz_scalef_ps(is_large, (__m512)(power * p), (__m512)near);
}
#else
// 2^x for x < 128, 0 below -126: a polynomial (minimax, relative error 8e-8 as it is evaluated) of what is left of the
// nearest whole number, which lies in the lowest bits of x + 1.5 * 2^23.
static inline Vec exp2_(Vec x) {
  const Vec shifted = x + 12582912.0f, rest = x - (shifted - 12582912.0f);
  Vec p = all(1.534581190e-4f);
  for (float c : {1.339993122e-3f, 9.618488957e-3f, 5.550328777e-2f, 2.402264689e-1f, 6.931472057e-1f, 1.0f}) p =
      p * rest + c;
  return x < -126.0f ? Vec{} : (Vec)((Words)p + ((Words)shifted << 23));  // of unsigned numbers, which may overflow
}
#endif

static inline Vec bounded(Vec x, float most) { x = x > most ? all(most) : x; return x < -most ? all(-most) : x; }
static inline Vec relu(Vec x) { return x < 0.0f ? Vec{} : x; }
static inline Vec silu(Vec x) { return x / (1.0f + exp2_(bounded(-LOG2_E * x, 120.0f))); }
static inline Vec tanh_(Vec x) { return 1.0f - 2.0f / (1.0f + exp2_(bounded(2.0f * LOG2_E * x, 40.0f))); }

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
