// Attention of queries over the entries, float or Bf16, of a row's cache, whose vectors along the tokens are whole.
//
// Queries of one head are scored and weighed together, each vector of keys and values being read once for several of
// them. A query's sums run in an order that does not depend on which queries go with it.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

constexpr int QUERIES = TOKENS;  // that are scored together
#if defined(__AVX512F__)
constexpr int WEIGHED = 2, DIMS = 8;  // queries that are weighed together, and their dimensions: 16 sums
#else
constexpr int WEIGHED = 2, DIMS = 4;
#endif

static inline int64_t rounded_down(int64_t i) { return i / LANES * LANES; }
static inline int64_t rounded_up(int64_t i) { return (i + LANES - 1) / LANES * LANES; }

// Entries [first, stop) of a cache.
struct Range {
  int64_t first, stop;
};

// The lanes of the vector at i that are in a range.
static inline Lanes lanes_in(const Range &range, int64_t i) {
  return lanes_between(std::max<int64_t>(0, range.first - i), std::min<int64_t>(LANES, range.stop - i));
}

// Which entries of a cache each of some queries sees: vectors [from, to) hold them, and all queries see all of vectors
// [whole_from, whole_to). Of the other vectors there are masks: for each query, and for what one of them sees at least.
struct Sight {
  int64_t from, whole_from, whole_to, to, first_mask, num;

  bool is_empty() const { return from == to; }
  int64_t mask_of(int64_t i) const {
    return first_mask + (num + 1) * ((i < whole_to ? i - from : i - whole_to + whole_from - from) / LANES);
  }
};

// What `num` queries with these ranges see; masks join those in the vector. nodes (num, num_nodes): which entries each
// sees from entry `length` on; nullptr = all.
static Sight sight_of(const Range *seen, int64_t num, const uint8_t *nodes, int64_t num_nodes, int64_t length,
                      std::vector<Lanes> &masks) {
  Range any = seen[0], every = seen[0];
  for (int64_t t = 1; t < num; t++) {
    any = {std::min(any.first, seen[t].first), std::max(any.stop, seen[t].stop)};
    every = {std::max(every.first, seen[t].first), std::min(every.stop, seen[t].stop)};
  }
  if (nodes) every.stop = std::min(every.stop, length);
  if (any.first >= any.stop) return {0, 0, 0, 0, 0, num};
  Sight sight{rounded_down(any.first), rounded_up(every.first), rounded_down(every.stop), rounded_up(any.stop),
              (int64_t)masks.size(), num};
  if (sight.whole_from >= sight.whole_to) sight.whole_from = sight.whole_to = sight.to;
  for (int64_t i = sight.from; i < sight.to; i += LANES) {
    if (i >= sight.whole_from && i < sight.whole_to) continue;
    for (int64_t t = 0; t < num; t++) {
      Lanes own = lanes_in(seen[t], i);
      for (int64_t j = std::max(i, length); nodes && j < std::min(i + LANES, seen[t].stop); j++)
        if (!nodes[t * num_nodes + j - length]) leave_out(own, (int)(j - i));
      masks.push_back(own);
    }
    masks.push_back(lanes_in(any, i));
  }
  return sight;
}

// What some queries of one head see of a cache: of the history that the row shares with other rows, or of its own.
template <class E>
struct Segment {
  const E *keys, *values;  // (head_dim, capacity)
  int64_t capacity;
  float *scores;           // (queries, capacity), written
  const Sight &sight;
  const Lanes *masks;
};

// scores (T, .) of vectors i, ..., i + N - 1 = queries (T, D) keys (D, .), and the largest of each query.
template <int T, int N, class E>
static inline void score(const float *queries, int64_t stride, int64_t head_dim, const Segment<E> &segment,
    int64_t i, Vec *most) {
  Vec sums[T][N];  // registers, as long as nothing fills all of it at once
  for (int t = 0; t < T; t++)
    for (int n = 0; n < N; n++) sums[t][n] = Vec{};
  const E *own = segment.keys + i;
  float *scores = segment.scores + i;
  const int64_t capacity = segment.capacity;
  for (int64_t c = 0; c < head_dim; c++, own += capacity) {
    Vec keys[N];
    for (int n = 0; n < N; n++) keys[n] = load(own + n * LANES);
    for (int t = 0; t < T; t++)
      for (int n = 0; n < N; n++) sums[t][n] += queries[t * stride + c] * keys[n];
  }
  for (int t = 0; t < T; t++)
    for (int n = 0; n < N; n++) {
      store(scores + t * capacity + n * LANES, sums[t][n]);
      most[t] = larger(most[t], sums[t][n]);
    }
}

// The same of one vector that has masks: -inf for entries that a query does not see. Those that no query sees are not
// read: other threads may be writing them.
template <int T, class E>
static inline void score_masked(const float *queries, int64_t stride, int64_t head_dim, const Segment<E> &segment,
    int64_t i,
                                Vec *most) {
  Vec sums[T];
  for (int t = 0; t < T; t++) sums[t] = Vec{};
  const Lanes *masks = segment.masks + segment.sight.mask_of(i);
  const Lanes any = masks[T];
  const E *own = segment.keys + i;
  for (int64_t c = 0; c < head_dim; c++, own += segment.capacity) {
    const Vec keys = load(own, any);
    for (int t = 0; t < T; t++) sums[t] += queries[t * stride + c] * keys;
  }
  for (int t = 0; t < T; t++) {
    const Vec seen = chosen(masks[t], sums[t], all(-INFINITY));
    store(segment.scores + i + t * segment.capacity, seen);
    most[t] = larger(most[t], seen);
  }
}

// Scores of all vectors that hold what one of T queries sees.
template <int T, class E>
static inline void score_all(const float *queries, int64_t stride, int64_t head_dim, const Segment<E> &segment,
    Vec *most) {
  const Sight sight = segment.sight;
  int64_t i = sight.from;
  for (; i < sight.whole_from; i += LANES) score_masked<T>(queries, stride, head_dim, segment, i, most);
  in_groups<TILE>((sight.whole_to - sight.whole_from) / LANES, [&](auto num, int64_t) {
    score<T, num>(queries, stride, head_dim, segment, i, most);
    i += num * LANES;
  });
  for (; i < sight.to; i += LANES) score_masked<T>(queries, stride, head_dim, segment, i, most);
}

// The weights of T queries in place of their scores, and what they add up to.
template <int T, class E>
static inline void weights_of(const Segment<E> &segment, float scale, const float *offsets, Vec *totals) {
  const int64_t capacity = segment.capacity, from = segment.sight.from, to = segment.sight.to;
  float *scores = segment.scores;
  Vec sums[T], shifts[T];
  for (int t = 0; t < T; t++) sums[t] = totals[t], shifts[t] = all(offsets[t]);
  for (int64_t i = from; i < to; i += LANES)
    for (int t = 0; t < T; t++) {
      const Vec weight = exp2_(load(scores + t * capacity + i) * scale - shifts[t]);
      store(scores + t * capacity + i, weight);
      sums[t] += weight;
    }
  for (int t = 0; t < T; t++) totals[t] = sums[t];
}

// attended[t][c] = inverse[t] * sum_i weights[t][i] values[c][i], with MORE added to what is there, for T queries,
// from `first` on, and D dimensions from c on. (A constant: where it was not, whether a compiler fused the product with
// the sum depended on T.)
// Weights of zero would not hide values that are not finite: no sum takes in an entry that its query does not see.
template <int T, int D, bool MORE, class E>
static inline void weigh(const Segment<E> &segment, int first, int64_t c, const float *inverse, float *attended,
                         int64_t stride) {
  Vec sums[T * D];
  unrolled<T * D>([&](auto i) ALWAYS_INLINE { sums[i] = Vec{}; });
  const int64_t capacity = segment.capacity;
  const float *weights = segment.scores + first * capacity;
  const E *values = segment.values + c * capacity;
  const Sight sight = segment.sight;
  const auto add_masked = [&](int64_t i) ALWAYS_INLINE {
    const Lanes *masks = segment.masks + sight.mask_of(i);
    unrolled<D>([&](auto d) ALWAYS_INLINE {
      const Vec value = load(values + d * capacity + i, masks[sight.num]);
      unrolled<T>([&](auto t) ALWAYS_INLINE {
        Vec &total = sums[t * D + d];
        total = plus_product(total, load(weights + t * capacity + i), value, masks[first + t]);
      });
    });
  };
  for (int64_t i = sight.from; i < sight.whole_from; i += LANES) add_masked(i);
  for (int64_t i = sight.whole_from; i < sight.whole_to; i += LANES)
    unrolled<D>([&](auto d) ALWAYS_INLINE {
      const Vec value = load(values + d * capacity + i);
      unrolled<T>([&](auto t) ALWAYS_INLINE { sums[t * D + d] += load(weights + t * capacity + i) * value; });
    });
  for (int64_t i = sight.whole_to; i < sight.to; i += LANES) add_masked(i);
  alignas(64) float totals[T * D];
  add_lanes<T * D>(sums, totals);
  typedef float Piece __attribute__((vector_size(4 * D), aligned(4), may_alias));
  for (int t = 0; t < T; t++) {
    Piece *own = (Piece *)(attended + t * stride + c);
    if constexpr (MORE) *own += inverse[t] * *(const Piece *)(totals + t * D);
    else *own = inverse[t] * *(const Piece *)(totals + t * D);
  }
}

// f(the number of dimensions as a constant, the first of them), for pieces of DIMS, 4 and 1 that make up all
template <class F>
static inline void by_pieces(int64_t dims, F f) {
  int64_t c = 0;
  for (; c + DIMS <= dims; c += DIMS) f(std::integral_constant<int, DIMS>(), c);
  for (; c + 4 <= dims; c += 4) f(std::integral_constant<int, 4>(), c);
  for (; c < dims; c++) f(std::integral_constant<int, 1>(), c);
}

// One head: its dimensions, from a token's query and result to the next one's, and whether a 1 stands beside the sum.
struct Head {
  int64_t dims, query_stride, attended_stride;
  bool one_plus_sum;
};

// T queries of one head over one or two segments.
template <int T, class E>
static void attend(const Head &head, const float *queries, const Segment<E> *segments, int num_segments,
    float *attended) {
  alignas(64) Vec most[T], totals[T];
  for (int t = 0; t < T; t++) most[t] = all(head.one_plus_sum ? 0.0f : -INFINITY), totals[t] = Vec{};
  for (int s = 0; s < num_segments; s++) score_all<T>(queries, head.query_stride, head.dims, segments[s], most);
  const float scale = LOG2_E / std::sqrt((float)head.dims);
  float offsets[T], inverse[T];
  for (int t = 0; t < T; t++) offsets[t] = largest_of(most[t]) * scale;
  for (int s = 0; s < num_segments; s++) weights_of<T>(segments[s], scale, offsets, totals);
  for (int t = 0; t < T; t++)
    inverse[t] = 1.0f / (sum(totals[t]) + (head.one_plus_sum ? std::exp2(-offsets[t]) : 0.0f));
  const auto weigh_all = [&](const Segment<E> &segment, auto more) {
    by_pieces(head.dims, [&](auto num, int64_t c) {
      in_groups<WEIGHED>(T, [&](auto together, int64_t t) {
        weigh<together, num, more>(segment, t, c, inverse + t, attended + t * head.attended_stride,
                                   head.attended_stride);
      });
    });
  };
  weigh_all(segments[0], std::false_type());
  if (num_segments > 1) weigh_all(segments[1], std::true_type());
}
