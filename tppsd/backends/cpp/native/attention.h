// Attention of one query over the entries, float or Bf16, of a row's cache, whose vectors along the tokens are whole.
#pragma once

#include <algorithm>
#include <type_traits>

#include "vectors.h"

// Calls f(i, load) for every vector of entries that holds some of [first, stop), in this order; `load` reads none but those:
// other threads may be writing the entries behind them, and weights of zero would not hide values that are not finite.
template <class F>
static inline void for_entries(int64_t first, int64_t stop, F f) {
  const auto read_whole = [](const auto *p) { return load(p); };
  int64_t i = first / LANES * LANES;
  const auto read_some = [&](const auto *p) {
    return load_lanes(p, (int)std::max<int64_t>(0, first - i), (int)std::min<int64_t>(LANES, stop - i));
  };
  if (i < first) f(i, read_some), i += LANES;
  for (; i + LANES <= stop; i += LANES) f(i, read_whole);
  if (i < stop) f(i, read_some);
}

// scores[i] = query . keys[., i], of D dimensions, or of D more
template <int D, class E>
static inline void score(const float *query, const E *keys, int64_t first, int64_t stop, int64_t capacity, bool more,
                         float *scores) {
  Vec wanted[D];  // or compilers fetch every number anew for every vector of keys
  for (int c = 0; c < D; c++) wanted[c] = all(query[c]);
  for_entries(first, stop, [&](int64_t i, auto read) {
    Vec total = more ? load(scores + i) : Vec{};
    for (int c = 0; c < D; c++) total += wanted[c] * read(keys + c * capacity + i);
    store(scores + i, total);
  });
}

// attended[c] = inverse * sum_i weights[i] values[c][i], of D dimensions
template <int D, class E>
static inline void weigh(const float *weights, const E *values, int64_t first, int64_t stop, int64_t capacity, float inverse, bool more,
                         float *attended) {
  Vec sums[D] = {};
  for_entries(first, stop, [&](int64_t i, auto read) {
    for (int c = 0; c < D; c++) sums[c] += load(weights + i) * read(values + c * capacity + i);
  });
  for (int c = 0; c < D; c++) attended[c] = (more ? attended[c] : 0.0f) + sum(sums[c]) * inverse;
}

// f(the number of dimensions as a constant, the first of them), for pieces of 8, 4 and 1 that make up all
template <class F>
static inline void by_pieces(int64_t dims, F f) {
  int64_t c = 0;
  for (; c + 8 <= dims; c += 8) f(std::integral_constant<int, 8>(), c);
  for (; c + 4 <= dims; c += 4) f(std::integral_constant<int, 4>(), c);
  for (; c < dims; c++) f(std::integral_constant<int, 1>(), c);
}

// Entries [first, stop) of a row, for one head: of the history that it shares with other rows, or its own.
template <class E>
struct Segment {
  const E *keys, *values;  // (head_dim, capacity)
  int64_t capacity, first, stop;
  float *scores;  // room for the capacity

  int64_t from() const { return first / LANES * LANES; }
  int64_t to() const { return (stop + LANES - 1) / LANES * LANES; }
};

// The weights of a segment in place of its scores, and what they add up to.
template <class E>
static inline Vec weights_of(const Segment<E> &segment, float largest, float scale) {
  Vec total = {};
  for (int64_t i = segment.from(); i < segment.to(); i += LANES) {
    const Vec weight = exp2_((load(segment.scores + i) - largest) * scale);
    store(segment.scores + i, weight);
    total += weight;
  }
  return total;
}

// One query of one head over one or two segments. `seen` masks entries of the last one, from `length` on.
template <class E>
static void attend(const float *query, const Segment<E> *segments, int num_segments, int64_t head_dim, int64_t length,
                   const uint8_t *seen, bool one_plus_sum, float *attended) {
  Vec most = all(one_plus_sum ? 0.0f : -INFINITY);
  for (int s = 0; s < num_segments; s++) {
    const Segment<E> &own = segments[s];
    by_pieces(head_dim, [&](auto num, int64_t c) {
      score<num>(query + c, own.keys + c * own.capacity, own.first, own.stop, own.capacity, c > 0, own.scores);
    });
    for (int64_t i = own.from(); i < own.first; i++) own.scores[i] = -INFINITY;
    for (int64_t i = own.stop; i < own.to(); i++) own.scores[i] = -INFINITY;
    if (seen && s + 1 == num_segments)
      for (int64_t i = std::max(own.first, length); i < own.stop; i++)
        if (!seen[i - length]) own.scores[i] = -INFINITY;
    for (int64_t i = own.from(); i < own.to(); i += LANES) most = larger(most, load(own.scores + i));
  }
  const float scale = LOG2_E / std::sqrt((float)head_dim), largest = largest_of(most);
  Vec total = {};
  for (int s = 0; s < num_segments; s++) total += weights_of(segments[s], largest, scale);
  const float inverse = 1.0f / (sum(total) + (one_plus_sum ? std::exp2(-largest * scale) : 0.0f));
  for (int s = 0; s < num_segments; s++) {
    const Segment<E> &own = segments[s];
    by_pieces(head_dim, [&](auto num, int64_t c) {
      weigh<num>(own.scores, own.values + c * own.capacity, own.first, own.stop, own.capacity, inverse, s > 0, attended + c);
    });
  }
}
