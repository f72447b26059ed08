// Products with the matrices of linear layers, and norms.
//
// Weights come in panels of TILE * LANES columns (the last one narrower), each (in, columns) in one piece; widths are
// multiples of 16.
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

// What is done with the products.
enum class End { STORED, ADDED, RELU };

// y (T, N * LANES) = x (T, in) panel + bias. `lines` cache lines per input are fetched from `ahead` on: what is
// multiplied next.
template <int T, int N, int LINES, End END, class W>
static inline void tile(const float *x, int64_t in, const W *panel, const float *bias, float *y, int64_t out,
    const char *ahead) {
  Vec sums[T][N];
  for (int t = 0; t < T; t++)
    for (int n = 0; n < N; n++) sums[t][n] = bias ? load(bias + n * LANES) : Vec{};
  for (int64_t k = 0; k < in; k++) {
    for (int line = 0; line < LINES; line++) __builtin_prefetch(ahead + (k * LINES + line) * 64);
    Vec weights[N];
    for (int n = 0; n < N; n++) weights[n] = load(panel + (k * N + n) * LANES);
    for (int t = 0; t < T; t++)
      for (int n = 0; n < N; n++) sums[t][n] += x[t * in + k] * weights[n];
  }
  for (int t = 0; t < T; t++)
    for (int n = 0; n < N; n++) {
      float *to = y + t * out + n * LANES;
      store(to, END == End::ADDED ? load(to) + sums[t][n] : END == End::RELU ? relu(sums[t][n]) : sums[t][n]);
    }
}

// All tokens by one panel of weights. While a core multiplies, it fetches the next panel, a part with each tile.
template <int N, End END, class W>
static void column(const float *x, int64_t in, const W *panel, const float *bias, float *y, int64_t out,
    int64_t tokens) {
  constexpr int LINES = std::max<int>(1, N * LANES * sizeof(W) / 64);  // per input, of a panel
  const int64_t tiles = (tokens + TOKENS - 1) / TOKENS, bytes = in * LINES * 64;
  const char *ahead = (const char *)panel + (tiles == 1 ? AHEAD : bytes), *end = ahead + bytes;
  in_groups<TOKENS>(tokens, [&](auto num, int64_t first) {
    const auto run = [&](auto lines) {
      tile<num, N, lines, END>(x + first * in, in, panel, bias, y + first * out, out, ahead);
      ahead += lines * in * 64;
    };
    if (ahead >= end) run(std::integral_constant<int, 0>());
    else if (tiles == 1) run(std::integral_constant<int, LINES>());
    else if (tiles < 4) run(std::integral_constant<int, std::max(1, LINES / 2)>());
    else run(std::integral_constant<int, std::max(1, LINES / 4)>());
  });
}

template <End END, class W>
static void multiply(const Linear &layer, const W *weight, const float *x, float *y, int64_t tokens) {
  for (int64_t first = 0; first < layer.out; first += TILE * LANES)
    with_constant<TILE>(std::min<int64_t>(TILE, (layer.out - first) / LANES), [&](auto num) {
      const float *bias = layer.bias ? layer.bias + first : nullptr;
      column<num, END>(x, layer.in, weight + first * layer.in, bias, y + first, layer.out, tokens);
    });
}

// y (tokens, out) = x (tokens, in) W + b, or added to y, or its positive part.
template <End END = End::STORED>
static void linear(const Linear &layer, const float *x, float *y, int64_t tokens) {
  if (layer.is_bf16) return multiply<END>(layer, (const Bf16 *)layer.weight, x, y, tokens);
  multiply<END>(layer, (const float *)layer.weight, x, y, tokens);
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
