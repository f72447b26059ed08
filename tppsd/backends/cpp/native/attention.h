// Attention of one query over the entries, float or Bf16, of a row's cache, whose vectors along the tokens are whole.
#pragma once

#include <algorithm>
#include <type_traits>

#include "vectors.h"

// scores[i] = query . keys[., i], of D dimensions, or of D more
template <int D, class E>
static inline void score(const float *query, const E *keys, int64_t from, int64_t to, int64_t capacity, bool more,
                         float *scores) {
  Vec wanted[D];  // or compilers fetch every number anew for every vector of keys
  for (int c = 0; c < D; c++) wanted[c] = all(query[c]);
  for (int64_t i = from; i < to; i += LANES) {
    Vec total = more ? load(scores + i) : Vec{};
    for (int c = 0; c < D; c++) total += wanted[c] * load(keys + c * capacity + i);
    store(scores + i, total);
  }
}

// attended[c] = inverse * sum_i weights[i] values[c][i], of D dimensions
template <int D, class E>
static inline void weigh(const float *weights, const E *values, int64_t from, int64_t to, int64_t capacity, float inverse,
                         float *attended) {
  Vec sums[D] = {};
  for (int64_t i = from; i < to; i += LANES)
    for (int c = 0; c < D; c++) sums[c] += load(weights + i) * load(values + c * capacity + i);
  for (int c = 0; c < D; c++) attended[c] = sum(sums[c]) * inverse;
}

// f(the number of dimensions as a constant, the first of them), for pieces of 8, 4 and 1 that make up all
template <class F>
static inline void by_pieces(int64_t dims, F f) {
  int64_t c = 0;
  for (; c + 8 <= dims; c += 8) f(std::integral_constant<int, 8>(), c);
  for (; c + 4 <= dims; c += 4) f(std::integral_constant<int, 4>(), c);
  for (; c < dims; c++) f(std::integral_constant<int, 1>(), c);
}

// One query of one head over entries [first, stop) of its row; `scores` has room for the capacity.
template <class E>
static void attend(const float *query, const E *keys, const E *values, int64_t head_dim, int64_t capacity, int64_t first,
                   int64_t stop, int64_t length, const uint8_t *seen, bool one_plus_sum, float *scores, float *attended) {
  const int64_t from = first / LANES * LANES, to = (stop + LANES - 1) / LANES * LANES;
  by_pieces(head_dim, [&](auto num, int64_t c) {
    score<num>(query + c, keys + c * capacity, from, to, capacity, c > 0, scores);
  });
  for (int64_t i = from; i < first; i++) scores[i] = -INFINITY;
  for (int64_t i = stop; i < to; i++) scores[i] = -INFINITY;
  if (seen)
    for (int64_t i = std::max(first, length); i < stop; i++)
      if (!seen[i - length]) scores[i] = -INFINITY;
  Vec most = all(one_plus_sum ? 0.0f : -INFINITY);
  for (int64_t i = from; i < to; i += LANES) most = larger(most, load(scores + i));
  const float scale = LOG2_E / std::sqrt((float)head_dim), largest = largest_of(most);
  Vec total = {};
  for (int64_t i = from; i < to; i += LANES) {
    const Vec weight = exp2_((load(scores + i) - largest) * scale);
    store(scores + i, weight);
    total += weight;
  }
  const float inverse = 1.0f / (sum(total) + (one_plus_sum ? std::exp2(-largest * scale) : 0.0f));
  by_pieces(head_dim, [&](auto num, int64_t c) {
    weigh<num>(scores, values + c * capacity, from, to, capacity, inverse, attended + c);
  });
}
