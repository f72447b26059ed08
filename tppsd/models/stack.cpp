// A stack of Transformer blocks over the newest tokens of rows with a KV cache, as one call: what tppsd.models.compiled calls
// instead of a dozen operators per layer. The arithmetic is that of blocks.py, rotary.py, attnhp.py and attention.py, in float32.
//
// A token's result depends on its row's past alone, to the last bit: every sum runs in an order that neither the number of rows
// nor that of new tokens changes.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 4, TOKENS = 6;  // 24 sums, 4 weights: as many as there are registers for
#elif defined(__AVX__)
constexpr int LANES = 8, TILE = 2, TOKENS = 6;
#else
constexpr int LANES = 4, TILE = 4, TOKENS = 5;
#endif
constexpr int64_t GROUP = 128;  // tokens that go through all layers together: what they need stays in the cache of a core
constexpr int64_t WORTH_A_THREAD = 256;  // tokens times layers: starting one takes as long as a few dozen

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

static inline Vec load(const float *p) { return *(const Vec *)p; }
static inline void store(float *p, Vec v) { *(Vec *)p = v; }
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
  return x < -126.0f ? Vec{} : (Vec)((Ints)p + ((Ints)shifted << 23));
}

static inline Vec bounded(Vec x, float most) { x = x > most ? all(most) : x; return x < -most ? all(-most) : x; }
static inline Vec silu(Vec x) { return x / (1.0f + exp2_(bounded(-LOG2_E * x, 120.0f))); }
static inline Vec tanh_(Vec x) { return 1.0f - 2.0f / (1.0f + exp2_(bounded(2.0f * LOG2_E * x, 40.0f))); }

// --- matrix products ------------------------------------------------------------------------------------------------------
// Weights come in panels of TILE * LANES columns (the last one narrower), each (in, columns) in one piece; widths are multiples
// of 16.

struct Linear {
  const float *weight, *bias;  // bias: nullptr = none
  int64_t in, out;
};

template <int T, int N>
static inline void tile(const float *x, int64_t in, const float *panel, const float *bias, float *y, int64_t out) {
  Vec sums[T][N];
  for (int t = 0; t < T; t++)
    for (int n = 0; n < N; n++) sums[t][n] = bias ? load(bias + n * LANES) : Vec{};
  for (int64_t k = 0; k < in; k++) {
    Vec weights[N];
    for (int n = 0; n < N; n++) weights[n] = load(panel + (k * N + n) * LANES);
    for (int t = 0; t < T; t++)
      for (int n = 0; n < N; n++) sums[t][n] += x[t * in + k] * weights[n];
  }
  for (int t = 0; t < T; t++)
    for (int n = 0; n < N; n++) store(y + t * out + n * LANES, sums[t][n]);
}

template <int N, int T = TOKENS>
static void column(const float *x, int64_t in, const float *panel, const float *bias, float *y, int64_t out, int64_t tokens) {
  for (; tokens >= T; tokens -= T, x += T * in, y += T * out) tile<T, N>(x, in, panel, bias, y, out);
  if constexpr (T > 1)
    if (tokens > 0) column<N, T - 1>(x, in, panel, bias, y, out, tokens);
}

template <int N = TILE>
static void last_column(int num, const float *x, int64_t in, const float *panel, const float *bias, float *y, int64_t out, int64_t tokens) {
  if (num == N) return column<N>(x, in, panel, bias, y, out, tokens);
  if constexpr (N > 1) last_column<N - 1>(num, x, in, panel, bias, y, out, tokens);
}

// y (tokens, out) = x (tokens, in) W + b
static void linear(const Linear &layer, const float *x, float *y, int64_t tokens) {
  for (int64_t first = 0; first < layer.out; first += TILE * LANES) {
    const int num = (int)std::min<int64_t>(TILE, (layer.out - first) / LANES);
    last_column(num, x, layer.in, layer.weight + first * layer.in, layer.bias ? layer.bias + first : nullptr, y + first, layer.out, tokens);
  }
}

// --- norms ----------------------------------------------------------------------------------------------------------------

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

// --- attention ------------------------------------------------------------------------------------------------------------

enum Kind : int64_t { TRANSFORMER, ROTARY, ATTNHP };

struct Layer {  // of ATTNHP: no feed-forward part
  Norm attention_norm;
  Linear to_qkv, from_heads;
  Norm feedforward_norm;
  Linear expand, contract;  // of ROTARY: `expand` gives gates, then values
};

struct Stack {
  int64_t kind, num_layers, dim, num_heads;
  const Layer *layers;
};

struct Pass {
  float *x;                        // (rows, num_new, dim), replaced by the result
  const float *extra;              // (rows, num_new, ...): cos and sin of ROTARY, the time encoding of ATTNHP
  const int64_t *lengths, *depth;  // (rows,) committed tokens; (num_new,) depth of each new one below them
  const uint8_t *seen;             // (num_new, num_nodes + num_new): which uncommitted tokens each sees; nullptr = a chain
  int64_t rows, num_new, num_nodes, max_context;  // nodes of a tree before the new tokens; max_context: 0 = all
  float *cache;                    // (layers, 2, rows, heads, head_dim, capacity); capacity: a multiple of 16
  int64_t capacity, num_threads;
};

// scores[i] = scale * query . keys[., i], of D dimensions more
template <int D>
static inline void score(const float *query, const float *keys, int64_t from, int64_t to, int64_t capacity, bool more, float *scores) {
  for (int64_t i = from; i < to; i += LANES) {
    Vec total = more ? load(scores + i) : Vec{};
    for (int c = 0; c < D; c++) total += query[c] * load(keys + c * capacity + i);
    store(scores + i, total);
  }
}

// attended[c] = sum_i weights[i] values[c][i] / total, of D dimensions
template <int D>
static inline void weigh(const float *weights, const float *values, int64_t from, int64_t to, int64_t capacity, float inverse, float *attended) {
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
static void attend(const float *query, const float *keys, const float *values, int64_t head_dim, int64_t capacity, int64_t first,
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

// New tokens of one row: keys and values into the cache, then every query of every head.
static void attend_row(const Stack &stack, const Pass &pass, int64_t layer, int64_t row, const float *qkv, float *scores, float *attended) {
  const int64_t dim = stack.dim, head_dim = dim / stack.num_heads, capacity = pass.capacity;
  float *keys = pass.cache + (layer * 2 * pass.rows + row) * dim * capacity, *values = keys + pass.rows * dim * capacity;
  const int64_t length = pass.lengths[row], place = length + pass.num_nodes, num_uncommitted = pass.num_nodes + pass.num_new;
  for (int64_t c = 0; c < dim; c++)
    for (int64_t t = 0; t < pass.num_new; t++) {
      keys[c * capacity + place + t] = qkv[t * 3 * dim + dim + c];
      values[c * capacity + place + t] = qkv[t * 3 * dim + 2 * dim + c];
    }
  for (int64_t head = 0; head < stack.num_heads; head++) {
    if (row + 1 < pass.rows)  // the next row's, which a core does not foresee
      for (int64_t c = head * head_dim; c < (head + 1) * head_dim; c++)
        for (int64_t i = 0; i < place; i += 16) {
          __builtin_prefetch(keys + (dim + c) * capacity + i);
          __builtin_prefetch(values + (dim + c) * capacity + i);
        }
    for (int64_t t = 0; t < pass.num_new; t++) {
      const int64_t first = pass.max_context ? std::max<int64_t>(0, length + pass.depth[t] - pass.max_context + 1) : 0;
      const uint8_t *seen = pass.seen ? pass.seen + t * num_uncommitted : nullptr;
      const int64_t offset = head * head_dim, stop = seen ? length + num_uncommitted : place + t + 1;
      // beyond a tree's window lie committed tokens only: what it hides of the tree is in `seen`
      attend(qkv + t * 3 * dim + offset, keys + offset * capacity, values + offset * capacity, head_dim, capacity,
             seen ? std::min(first, length) : first, stop, length, seen, stack.kind == ATTNHP, scores, attended + t * dim + offset);
    }
  }
}

// Queries and keys: dimensions (j, j + head_dim / 2) of every head turned by phase j.
static void turn(float *qkv, const float *rotation, int64_t tokens, int64_t dim, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t t = 0; t < tokens; t++, qkv += 3 * dim, rotation += head_dim)
    for (float *head = qkv; head < qkv + 2 * dim; head += head_dim)
      for (int64_t j = 0; j < half; j++) {
        const float a = head[j], b = head[j + half], cos = rotation[j], sin = rotation[j + half];
        head[j] = a * cos - b * sin;
        head[j + half] = b * cos + a * sin;
      }
}

// --- the stack ------------------------------------------------------------------------------------------------------------

template <class F>
static inline void map(float *y, int64_t size, F f) {  // sizes are multiples of 16
  for (int64_t i = 0; i < size; i += LANES) store(y + i, f(i));
}

// All layers for rows [first, stop), whose tokens are few enough to stay in the cache.
static void run_rows(const Stack &stack, const Pass &pass, int64_t first, int64_t stop) {
  const int64_t dim = stack.dim, head_dim = dim / stack.num_heads, q = pass.num_new, tokens = (stop - first) * q;
  const int64_t width = stack.kind == ATTNHP ? 2 * dim : dim, wide = stack.kind == ATTNHP ? 0 : stack.layers[0].expand.out;
  static thread_local std::vector<float> work;
  const size_t size = tokens * (width + 5 * dim + wide) + pass.capacity + 16;  // 16: to begin at a cache line
  if (work.size() < size) work.resize(size);
  float *normed = (float *)(((uintptr_t)work.data() + 63) / 64 * 64);  // a vector across two of them takes twice as long
  float *qkv = normed + tokens * width, *attended = qkv + tokens * 3 * dim, *update = attended + tokens * dim;
  float *hidden = update + tokens * dim, *scores = hidden + tokens * wide, *x = pass.x + first * q * dim;
  const float *extra = stack.kind == ROTARY ? pass.extra + first * q * head_dim : pass.extra + first * q * dim;
  if (stack.kind == ATTNHP)
    for (int64_t t = 0; t < tokens; t++) std::memcpy(normed + t * width, extra + t * dim, dim * sizeof(float));

  for (int64_t i = 0; i < stack.num_layers; i++) {
    const Layer &layer = stack.layers[i];
    normalise(layer.attention_norm, x, normed + width - dim, tokens, dim, width);
    linear(layer.to_qkv, normed, qkv, tokens);
    if (stack.kind == ROTARY) turn(qkv, extra, tokens, dim, head_dim);
    for (int64_t row = first; row < stop; row++) {
      const int64_t t = (row - first) * q;
      attend_row(stack, pass, i, row, qkv + t * 3 * dim, scores, attended + t * dim);
    }
    linear(layer.from_heads, attended, update, tokens);
    if (stack.kind == ATTNHP) {
      map(x, tokens * dim, [&](int64_t j) { return load(x + j) + tanh_(load(update + j)); });
      continue;
    }
    map(x, tokens * dim, [&](int64_t j) { return load(x + j) + load(update + j); });
    normalise(layer.feedforward_norm, x, normed, tokens, dim, dim);
    linear(layer.expand, normed, hidden, tokens);
    if (stack.kind == ROTARY) {
      const int64_t half = layer.contract.in;
      for (int64_t t = 0; t < tokens; t++) {  // in place: what is written has been read
        const float *gates = hidden + t * 2 * half;
        map(hidden + t * half, half, [&](int64_t j) { return silu(load(gates + j)) * load(gates + half + j); });
      }
    } else {
      map(hidden, tokens * wide, [&](int64_t j) { const Vec h = load(hidden + j); return h < 0.0f ? Vec{} : h; });
    }
    linear(layer.contract, hidden, update, tokens);
    map(x, tokens * dim, [&](int64_t j) { return load(x + j) + load(update + j); });
  }
}

extern "C" int64_t panel_width() { return TILE * LANES; }

extern "C" void run_stack(const Stack *stack, const Pass *pass) {
  const int64_t worth = pass->rows * pass->num_new * stack->num_layers / WORTH_A_THREAD;
  const int64_t num_threads = std::max<int64_t>(1, std::min(pass->num_threads, worth));
  const int64_t per_thread = (pass->rows + num_threads - 1) / num_threads;
  const int64_t group = std::max<int64_t>(1, std::min(per_thread, GROUP / pass->num_new));
  std::atomic<int64_t> next(0);
  const auto work = [&] {
    for (int64_t first; (first = next.fetch_add(group)) < pass->rows;) run_rows(*stack, *pass, first, std::min(pass->rows, first + group));
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < num_threads; i++) others.emplace_back(work);
  work();
  for (auto &thread : others) thread.join();
}
