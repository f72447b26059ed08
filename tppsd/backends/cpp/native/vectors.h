// Vectors as wide as the processor's registers, and the functions that Transformers take of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
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

// Lanes [low, high) of the vector at p, and zeros in place of the other lanes, which are not read.
static inline Vec load_lanes(const float *p, int low, int high) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << high) - (1u << low)), p);
#elif defined(__AVX2__)
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7};
  return (Vec)_mm256_maskload_ps(p, (__m256i)(lane >= low & lane < high));
#else
  Vec lanes = {};
  for (int i = low; i < high; i++) lanes[i] = p[i];
  return lanes;
#endif
}
static inline Vec load_lanes(const Bf16 *p, int low, int high) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const __m256i lanes = _mm256_maskz_loadu_epi16((__mmask16)((1u << high) - (1u << low)), p);
  return (Vec)((Words)_mm512_cvtepu16_epi32(lanes) << 16);
#else
  Words lanes = {};
  for (int i = low; i < high; i++) lanes[i] = p[i].bits;
  return (Vec)(lanes << 16);
#endif
}

static inline void put(float *p, float x) { *p = x; }
static inline void put(Bf16 *p, float x) {  // to the nearest, of two as near to the even one
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  p->bits = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline Vec all(float x) { return Vec{} + x; }

static inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

// Halves onto one another: a few instructions where one by one would be as many as there are lanes.
template <int N, class F>
static inline float folded(const float *v, F f) {
  if constexpr (N == 1) {
    return *v;
  } else {
    typedef float Half __attribute__((vector_size(2 * N), aligned(4), may_alias));
    const Half half = f(*(const Half *)v, *(const Half *)(v + N / 2));
    return folded<N / 2>((const float *)&half, f);
  }
}
static inline float sum(Vec v) { return folded<LANES>((const float *)&v, [](auto a, auto b) { return a + b; }); }
static inline float largest_of(Vec v) { return folded<LANES>((const float *)&v, [](auto a, auto b) { return a > b ? a : b; }); }

constexpr float LOG2_E = 1.44269504f;

// 2^x for x < 128, 0 below -126: a polynomial (minimax, relative error 8e-8 as it is evaluated) of what is left of the nearest
// whole number, which lies in the lowest bits of x + 1.5 * 2^23.
static inline Vec exp2_(Vec x) {
  const Vec shifted = x + 12582912.0f, rest = x - (shifted - 12582912.0f);
  Vec p = all(1.534581190e-4f);
  for (float c : {1.339993122e-3f, 9.618488957e-3f, 5.550328777e-2f, 2.402264689e-1f, 6.931472057e-1f, 1.0f}) p = p * rest + c;
  return x < -126.0f ? Vec{} : (Vec)((Words)p + ((Words)shifted << 23));  // of unsigned numbers, which may overflow
}

static inline Vec bounded(Vec x, float most) { x = x > most ? all(most) : x; return x < -most ? all(-most) : x; }
static inline Vec relu(Vec x) { return x < 0.0f ? Vec{} : x; }
static inline Vec silu(Vec x) { return x / (1.0f + exp2_(bounded(-LOG2_E * x, 120.0f))); }
static inline Vec tanh_(Vec x) { return 1.0f - 2.0f / (1.0f + exp2_(bounded(2.0f * LOG2_E * x, 40.0f))); }

template <class F>
static inline void map(float *y, int64_t size, F f) {  // sizes are multiples of 16
  for (int64_t i = 0; i < size; i += LANES) store(y + i, f(i));
}
