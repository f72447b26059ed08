// Attention of queries over the entries, float or Bf16, of a row's cache, whose vectors along the tokens are whole.
//
// Queries of one head are scored and weighed together, each vector of keys and values being read once for several of
// them. A query's sums run in an order that does not depend on which queries go with it.
//
// Weights are 2^(score - offset), the offset being the score of a query with its own key: so they add up to 1 or more,
// and exponentials are taken while scores are in registers, as nothing waits for the largest of all. A query whose
// weights are huge all the same begins again with its largest score as the offset.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

constexpr int QUERIES = TOKENS;  // that are attended together
// How many vectors of keys they are scored with at once, and how many dimensions of values T of them are weighed with:
// as many sums as there are registers for, beside what an exponential needs.
#if defined(__AVX512F__)
constexpr int KEYS = 3;
constexpr int dims_of(int T) { return T <= 3 ? 8 : 4; }
#else
constexpr int KEYS = 2;
constexpr int dims_of(int T) { return T <= 3 ? 4 : 2; }
#endif
constexpr float HUGE_TOTAL = 0x1p60f;  // of weights: they times values must stay finite

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

// One head: its dimensions, from a token's query and result to the next one's, and whether a 1 stands beside the sum.
struct Head {
  int64_t dims, query_stride, attended_stride;
  bool one_plus_sum;
};

// What some queries of one head see of a cache: of the history that the row shares with other rows, or of its own.
template <class E>
struct Segment {
  const E *keys, *values;  // (head_dim, capacity)
  int64_t capacity;
  float *weights;          // (queries, capacity), written
  Sight sight;
  const Lanes *masks;
};

// use(t, score) of queries t = 0, ..., T - 1, less their offsets, with vector i of a segment, ..., i + N - 1.
template <int T, int N, class E, class F>
static inline ALWAYS_INLINE void score(const Head &head, const float *queries, const float *offsets,
                                       const Segment<E> &segment, int64_t i, F use) {
  Vec sums[T * N];
  unrolled<T * N>([&](auto j) ALWAYS_INLINE { sums[j] = all(-offsets[j / N]); });
  const E *own = segment.keys + i;
  for (int64_t c = 0; c < head.dims; c++, own += segment.capacity) {
    Vec keys[N];
    unrolled<N>([&](auto n) ALWAYS_INLINE { keys[n] = load(own + n * LANES); });
    unrolled<T * N>([&](auto j) ALWAYS_INLINE { sums[j] += queries[j / N * head.query_stride + c] * keys[j % N]; });
  }
  unrolled<T * N>([&](auto j) ALWAYS_INLINE {
    use(std::integral_constant<int, j / N>(), i + j % N * LANES, sums[j]);
  });
}

// The same of one vector that has masks, those of query `first` and on. Entries that no query sees are not read: other
// threads may be writing them.
template <int T, class E, class F>
static inline ALWAYS_INLINE void score_masked(const Head &head, const float *queries, const float *offsets,
                                              const Segment<E> &segment, int first, int64_t i, F use) {
  Vec sums[T];
  unrolled<T>([&](auto t) ALWAYS_INLINE { sums[t] = all(-offsets[t]); });
  const Lanes *masks = segment.masks + segment.sight.mask_of(i);
  const Lanes any = masks[segment.sight.num];
  const E *own = segment.keys + i;
  for (int64_t c = 0; c < head.dims; c++, own += segment.capacity) {
    const Vec keys = load(own, any);
    unrolled<T>([&](auto t) ALWAYS_INLINE { sums[t] += queries[t * head.query_stride + c] * keys; });
  }
  unrolled<T>([&](auto t) ALWAYS_INLINE { use(t, i, sums[t], masks[first + t]); });
}

// whole(t, i, score) or masked(t, i, score, the lanes that are seen) of all vectors that T queries, from `first` on,
// see of a segment.
template <int T, class E, class Whole, class Masked>
static inline ALWAYS_INLINE void score_all(const Head &head, const float *queries, const float *offsets,
                                           const Segment<E> &segment, int first, Whole whole, Masked masked) {
  const Sight sight = segment.sight;
  int64_t i = sight.from;
  for (; i < sight.whole_from; i += LANES) score_masked<T>(head, queries, offsets, segment, first, i, masked);
  in_groups<KEYS>((sight.whole_to - sight.whole_from) / LANES, [&](auto num, int64_t) {
    score<T, num>(head, queries, offsets, segment, i, whole);
    i += num * LANES;
  });
  for (; i < sight.to; i += LANES) score_masked<T>(head, queries, offsets, segment, first, i, masked);
}

// The weights of T queries, from `first` on; what they add up to is added to the totals.
template <int T, class E>
static void find_weights(const Head &head, const float *queries, const float *offsets, const Segment<E> &segment,
                         int first, Vec *totals) {
  Vec sums[T];
  unrolled<T>([&](auto t) ALWAYS_INLINE { sums[t] = totals[t]; });
  float *weights = segment.weights + first * segment.capacity;
  const auto keep = [&](auto t, int64_t i, Vec weight) ALWAYS_INLINE {
    store(weights + t * segment.capacity + i, weight);
    sums[t] += weight;
  };
  score_all<T>(head, queries, offsets, segment, first,
    [&](auto t, int64_t i, Vec score) ALWAYS_INLINE { keep(t, i, exp2_(score)); },
    [&](auto t, int64_t i, Vec score, Lanes seen) ALWAYS_INLINE { keep(t, i, chosen(seen, exp2_(score), Vec{})); });
  unrolled<T>([&](auto t) ALWAYS_INLINE { totals[t] = sums[t]; });
}

// A query once more, with its largest score as the offset; of AttNHP at least 0, the 1 beside the sum being 2^0. firsts:
// its number among the queries of each segment. Returns what its weights add up to.
template <class E>
static float find_again(const Head &head, const float *query, const Segment<E> *segments, const int *firsts,
                        int num_segments, float *offset) {
  alignas(64) Vec most[] = {all(head.one_plus_sum ? 0.0f : -INFINITY)}, total[] = {Vec{}};
  *offset = 0;
  for (int s = 0; s < num_segments; s++)
    score_all<1>(head, query, offset, segments[s], firsts[s],
      [&](auto, int64_t, Vec score) ALWAYS_INLINE { *most = larger(*most, score); },
      [&](auto, int64_t, Vec score, Lanes seen) ALWAYS_INLINE {
        *most = larger(*most, chosen(seen, score, all(-INFINITY)));
      });
  *offset = largest_of(*most);
  for (int s = 0; s < num_segments; s++) find_weights<1>(head, query, offset, segments[s], firsts[s], total);
  return sum(*total);
}

// attended[t][c] = inverse[t] * sum_i weights[t][i] values[c][i], with MORE added to what is there, for T queries and D
// dimensions from c on. (MORE is a constant: where it was not, whether a compiler fused the product with the sum depended
// on T.)
// Weights of zero would not hide values that are not finite: no sum takes in an entry that its query does not see.
template <int T, int D, bool MORE, class E>
static inline void weigh(const Segment<E> &segment, int64_t c, const float *inverse, float *attended,
                         int64_t stride) {
  Vec sums[T * D];
  unrolled<T * D>([&](auto i) ALWAYS_INLINE { sums[i] = Vec{}; });
  const int64_t capacity = segment.capacity;
  const float *weights = segment.weights;
  const E *values = segment.values + c * capacity;
  const Sight sight = segment.sight;
  const auto add_masked = [&](int64_t i) ALWAYS_INLINE {
    const Lanes *masks = segment.masks + sight.mask_of(i);
    unrolled<D>([&](auto d) ALWAYS_INLINE {
      const Vec value = load(values + d * capacity + i, masks[sight.num]);
      unrolled<T>([&](auto t) ALWAYS_INLINE {
        Vec &total = sums[t * D + d];
        total = plus_product(total, load(weights + t * capacity + i), value, masks[t]);
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
  fold_lanes<Sum, T * D>(sums, totals);
  typedef float Piece __attribute__((vector_size(4 * D), aligned(4), may_alias));
  for (int t = 0; t < T; t++) {
    Piece *own = (Piece *)(attended + t * stride + c);
    if constexpr (MORE) *own += inverse[t] * *(const Piece *)(totals + t * D);
    else *own = inverse[t] * *(const Piece *)(totals + t * D);
  }
}

// f(the number of dimensions as a constant, the first of them), for pieces of MOST, 4 and 1 that make up all
template <int MOST, class F>
static inline void by_pieces(int64_t dims, F f) {
  int64_t c = 0;
  for (; c + MOST <= dims; c += MOST) f(std::integral_constant<int, MOST>(), c);
  for (; c + 4 <= dims; c += 4) f(std::integral_constant<int, 4>(), c);
  for (; c < dims; c++) f(std::integral_constant<int, 1>(), c);
}

// inverse[t] * sum of weighted values of a segment, with MORE added to what is there, of all dimensions.
template <int T, bool MORE, class E>
static inline void weigh_all(const Head &head, const Segment<E> &segment, const float *inverse, float *attended) {
  by_pieces<dims_of(T)>(head.dims, [&](auto num, int64_t c) {
    weigh<T, num, MORE>(segment, c, inverse, attended, head.attended_stride);
  });
}

// T queries of one head, in units of which scores are powers of two, over what they see of one or two segments: of the
// first together; of the second together as well, or each of its own one (a second segment per query), as queries of
// several rows do that share a history. own_scores (T): those with their own keys.
template <int T, bool EACH, class E>
static void attend(const Head &head, const float *queries, const float *own_scores, const Segment<E> *segments,
                   int num_segments, float *attended) {
  alignas(64) Vec sums[T];
  float offsets[T], totals[T], inverse[T];
  const int64_t stride = head.query_stride;
  for (int t = 0; t < T; t++) sums[t] = Vec{}, offsets[t] = head.one_plus_sum ? 0 : own_scores[t];
  find_weights<T>(head, queries, offsets, segments[0], 0, sums);
  if constexpr (EACH)
    for (int t = 0; t < T; t++) find_weights<1>(head, queries + t * stride, offsets + t, segments[1 + t], 0, sums + t);
  else if (num_segments > 1) find_weights<T>(head, queries, offsets, segments[1], 0, sums);
  fold_lanes<Sum, T>(sums, totals);
  for (int t = 0; t < T; t++)
    if (!(totals[t] < HUGE_TOTAL)) {
      const Segment<E> own[] = {segments[0], segments[EACH ? 1 + t : num_segments - 1]};
      const int firsts[] = {t, EACH ? 0 : t};
      totals[t] = find_again(head, queries + t * stride, own, firsts, num_segments, offsets + t);
    }
  for (int t = 0; t < T; t++)
    inverse[t] = 1.0f / (totals[t] + (head.one_plus_sum ? std::exp2(-offsets[t]) : 0.0f));
  weigh_all<T, false>(head, segments[0], inverse, attended);
  if constexpr (EACH)
    for (int t = 0; t < T; t++)
      weigh_all<1, true>(head, segments[1 + t], inverse + t, attended + t * head.attended_stride);
  else if (num_segments > 1) weigh_all<T, true>(head, segments[1], inverse, attended);
}
