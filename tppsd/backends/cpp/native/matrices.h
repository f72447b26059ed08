// Products with the matrices of linear layers, and norms.
//
// Weights come in panels of TILE * LANES columns (the last one narrower), each (in, columns) in one piece; widths are multiples
// of 16.
#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

struct Linear {
  const void *weight;  // float or Bf16
  const float *bias;   // nullptr = none
  int64_t in, out, is_bf16;
};

constexpr int64_t AHEAD = 2048;  // bytes that are fetched before they are needed: more than a core foresees

template <int T, int N, class W>
static inline void tile(const float *x, int64_t in, const W *panel, const float *bias, float *y, int64_t out) {
  Vec sums[T][N];
  for (int t = 0; t < T; t++)
    for (int n = 0; n < N; n++) sums[t][n] = bias ? load(bias + n * LANES) : Vec{};
  for (int64_t k = 0; k < in; k++) {
    if constexpr (T == 1)  // weights are all that takes time
      for (int64_t byte = 0; byte < N * LANES * (int64_t)sizeof(W); byte += 64)
        __builtin_prefetch((const char *)(panel + k * N * LANES) + AHEAD + byte);
    Vec weights[N];
    for (int n = 0; n < N; n++) weights[n] = load(panel + (k * N + n) * LANES);
    for (int t = 0; t < T; t++)
      for (int n = 0; n < N; n++) sums[t][n] += x[t * in + k] * weights[n];
  }
  for (int t = 0; t < T; t++)
    for (int n = 0; n < N; n++) store(y + t * out + n * LANES, sums[t][n]);
}

template <int N, int T = TOKENS, class W>
static void column(const float *x, int64_t in, const W *panel, const float *bias, float *y, int64_t out, int64_t tokens) {
  for (; tokens >= T; tokens -= T, x += T * in, y += T * out) tile<T, N>(x, in, panel, bias, y, out);
  if constexpr (T > 1)
    if (tokens > 0) column<N, T - 1>(x, in, panel, bias, y, out, tokens);
}

template <int N = TILE, class W>
static void last_column(int num, const float *x, int64_t in, const W *panel, const float *bias, float *y, int64_t out,
                        int64_t tokens) {
  if (num == N) return column<N>(x, in, panel, bias, y, out, tokens);
  if constexpr (N > 1) last_column<N - 1>(num, x, in, panel, bias, y, out, tokens);
}

template <class W>
static void multiply(const Linear &layer, const W *weight, const float *x, float *y, int64_t tokens) {
  for (int64_t first = 0; first < layer.out; first += TILE * LANES) {
    const int num = (int)std::min<int64_t>(TILE, (layer.out - first) / LANES);
    const float *bias = layer.bias ? layer.bias + first : nullptr;
    last_column(num, x, layer.in, weight + first * layer.in, bias, y + first, layer.out, tokens);
  }
}

// y (tokens, out) = x (tokens, in) W + b
static void linear(const Linear &layer, const float *x, float *y, int64_t tokens) {
  if (layer.is_bf16) return multiply(layer, (const Bf16 *)layer.weight, x, y, tokens);
  multiply(layer, (const float *)layer.weight, x, y, tokens);
}

struct Norm {
  const float *weight, *bias;  // bias: nullptr = RMSNorm, else LayerNorm
  double eps;
};

static void normalise(const Norm &norm, const float *x, float *y, int64_t tokens, int64_t dim, int64_t y_stride) {
  for (int64_t t = 0; t < tokens; t++, x += dim, y += y_stride) {
    Vec total = {}, squares = {};
    if (norm.bias)
      for (int64_t i = 0; i < dim; i += LANES) total += load(x + i);
    const float mean = sum(total) / dim;
    for (int64_t i = 0; i < dim; i += LANES) squares += (load(x + i) - mean) * (load(x + i) - mean);
    const float scale = 1.0f / std::sqrt(sum(squares) / dim + (float)norm.eps);
    for (int64_t i = 0; i < dim; i += LANES) {
      const Vec normed = (load(x + i) - mean) * scale * load(norm.weight + i);
      store(y + i, norm.bias ? normed + load(norm.bias + i) : normed);
    }
  }
}

// Room for floats, one for each `Use`, that begins at a cache line: a vector across two of them takes twice as long.
template <int Use>
static float *room(int64_t size) {
  static thread_local std::vector<float> kept;
  if ((int64_t)kept.size() < size + 16) kept.resize(size + 16);
  return (float *)(((uintptr_t)kept.data() + 63) / 64 * 64);
}
