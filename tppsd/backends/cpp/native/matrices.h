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
constexpr int64_t BLOCK = 64;    // inputs whose weights in a panel stay near a core, with the next ones
constexpr int64_t FEW_TILES = 3; // so many of them take less time than fetching the weights of wide layers

// What is done with the products.
enum class End { STORED, ADDED, RELU };

// What sums begin with: `from` is of the first token, then `stride` numbers on, for each the next one; nullptr = zeros.
struct Begin {
  const float *from;
  int64_t stride;
};

// y (T, N * LANES) = x (T, num) weights + what they begin with; tokens of x lie `in` numbers apart, those of y `out`.
// `lines` cache lines per input are fetched from `ahead` on: what is multiplied next.
template <int T, int N, int LINES, End END, class W>
static inline void tile(const float *x, int64_t in, int64_t num, const W *weights, const Begin &begin, float *y,
                        int64_t out, const char *ahead) {
  Vec sums[T * N];
  unrolled<T * N>([&](auto i) ALWAYS_INLINE {
    sums[i] = begin.from ? load(begin.from + i / N * begin.stride + i % N * LANES) : Vec{};
  });
  for (int64_t k = 0; k < num; k++) {
    for (int line = 0; line < LINES; line++) __builtin_prefetch(ahead + (k * LINES + line) * 64);
    Vec of_input[N];
    unrolled<N>([&](auto n) ALWAYS_INLINE { of_input[n] = load(weights + (k * N + n) * LANES); });
    unrolled<T * N>([&](auto i) ALWAYS_INLINE { sums[i] += x[i / N * in + k] * of_input[i % N]; });
  }
  unrolled<T * N>([&](auto i) ALWAYS_INLINE {
    float *to = y + i / N * out + i % N * LANES;
    store(to, END == End::ADDED ? load(to) + sums[i] : END == End::RELU ? relu(sums[i]) : sums[i]);
  });
}

// All tokens by the weights of `num` inputs in one panel. While a core multiplies, it fetches as many that lie behind
// them, a part with each tile.
template <int N, End END, class W>
static void block(const float *x, int64_t in, int64_t num, const W *weights, const Begin &begin, float *y, int64_t out,
                  int64_t tokens) {
  constexpr int LINES = std::max<int>(1, N * LANES * sizeof(W) / 64);  // per input
  int64_t tiles = (tokens + TOKENS - 1) / TOKENS, left = LINES;
  const char *ahead = (const char *)weights + (tiles == 1 ? AHEAD : num * LINES * 64);
  in_groups<TOKENS>(tokens, [&](auto together, int64_t first) {
    const auto run = [&](auto lines) {
      tile<together, N, lines, END>(x + first * in, in, num, weights, {begin.from + first * begin.stride, begin.stride},
                                    y + first * out, out, ahead);
      ahead += lines * num * 64;
    };
    const int64_t lines = (left + tiles - 1) / tiles;
    left -= lines, tiles--;
    if (lines == LINES) run(std::integral_constant<int, LINES>());
    else if (lines == 2) run(std::integral_constant<int, std::min(2, LINES)>());
    else if (lines == 1) run(std::integral_constant<int, 1>());
    else run(std::integral_constant<int, 0>());
  });
}

// All tokens by one panel. A few tiles go through it block by block: else fetching the next panel takes longer than
// multiplying. Sums go on where they were, so that they are the same to the last bit.
template <int N, End END, class W>
static void column(const float *x, int64_t in, const W *panel, const float *bias, float *y, int64_t out,
                   int64_t tokens) {
  constexpr int64_t MOST = FEW_TILES * TOKENS, WIDTH = N * LANES;
  if (tokens <= TOKENS || tokens > MOST || in <= BLOCK)
    return block<N, END>(x, in, in, panel, {bias, 0}, y, out, tokens);
  alignas(64) float sums[MOST * WIDTH];
  Begin begin{bias, 0};
  int64_t k = 0;
  for (; k + BLOCK < in; k += BLOCK, begin = {sums, WIDTH})
    block<N, End::STORED>(x + k, in, BLOCK, panel + k * WIDTH, begin, sums, WIDTH, tokens);
  block<N, END>(x + k, in, in - k, panel + k * WIDTH, begin, y, out, tokens);
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
