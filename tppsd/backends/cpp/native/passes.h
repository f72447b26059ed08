// Cached passes of the encoders: the arithmetic of blocks.py, rotary.py, attnhp.py and attention.py.
//
// A token's result depends on its row's past alone, and in a chain to the last bit: every sum runs in an order that
// neither the number of rows nor that of new tokens changes.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>

#include "attention.h"
#include "matrices.h"
#include "team.h"

enum Kind : int64_t { TRANSFORMER, ROTARY, ATTNHP };

struct Layer {  // of ATTNHP: no feed-forward part
  Norm attention_norm;
  Linear to_qkv, from_heads;
  Norm feedforward_norm;
  Linear expand, contract;  // of ROTARY: `expand` gives gates, then values
};

struct Encoder {
  int64_t kind, num_layers, dim, num_heads, num_marks, num_phases;
  const Layer *layers;
  Norm norm;
  const float *marks, *inter_time;       // (token ids, dim); (2, dim): of standardised log tau and of its tanh
  // (num_phases,): a phase is their products with time and number of tokens before
  const double *of_time, *of_order;
  double time_scale, log_mean, log_std, min_inter_time;
};

struct Pass {
  float *contexts;                       // (rows, num_new, dim), written
  int64_t *ids;                          // (rows, num_new)
  double *times, *inter_times;           // likewise
  // (rows,): entries of the cache that are committed, and tokens, dropped ones included
  int64_t *lengths, *num_before;
  const int64_t *depth;                  // (num_new,): tokens between the committed ones and each new one
  // (num_new, num_nodes + num_new): which uncommitted ones each sees; nullptr = a chain
  const uint8_t *seen;
  int64_t rows, num_new, num_nodes, max_context;  // nodes of a tree before the new tokens; max_context: 0 = all
  // float or Bf16 (layers, 2, cache_rows, heads, head_dim, capacity), at the first row
  void *cache;
  int64_t capacity, cache_rows, is_bf16, num_threads;  // capacity: a multiple of 16
  // (layers, 2, shared_rows, heads, head_dim, shared_capacity): histories, each shared by the rows with its slot;
  // nullptr = none
  const void *shared;
  const int64_t *shared_slots, *shared_lengths;  // (rows,)
  int64_t shared_capacity, shared_rows;
};

// --- tokens ----------------------------------------------------------------------------------------------------------

// x (dim): the embedded token; waves (2 num_phases): [sin, cos] of its phases, of ROTARY [cos, sin]. TRANSFORMER adds
// them to x.
static void embed(const Encoder &encoder, const Pass &pass, int64_t row, int64_t t, float *x, float *waves) {
  const int64_t token = row * pass.num_new + t, id = pass.ids[token], num = encoder.num_phases;
  const bool is_event = id >= 1 && id <= encoder.num_marks;
  const double log_tau = std::log(std::max(pass.inter_times[token], encoder.min_inter_time));
  const float standardised = is_event ? (float)((log_tau - encoder.log_mean) / encoder.log_std) : 0.0f;
  const float bounded = std::tanh(standardised), *marks = encoder.marks + id * encoder.dim, *map_tau =
      encoder.inter_time;
  for (int64_t i = 0; i < encoder.dim; i++) x[i] =
      marks[i] + (standardised * map_tau[i] + bounded * map_tau[encoder.dim + i]);
  const double time = pass.times[token] / encoder.time_scale, order = (double)(pass.num_before[row] + pass.depth[t]);
  const bool cos_first = encoder.kind == ROTARY;
  for (int64_t j = 0; j < num; j++) {
    const double phase = time * encoder.of_time[j] + order * encoder.of_order[j];
    waves[j + num * cos_first] = (float)std::sin(phase);
    waves[j + num * !cos_first] = (float)std::cos(phase);
  }
  if (encoder.kind == TRANSFORMER)
    for (int64_t i = 0; i < encoder.dim; i++) x[i] += waves[i];
}

// --- layers ----------------------------------------------------------------------------------------------------------

// Keys and values of new tokens [from, to) of one row into its cache. Of several tokens, whole vectors: a core waits
// less for memory than with many stores to the same places.
template <class E, class Part>
static void write_row(const Encoder &encoder, const Pass &pass, const Part &part, E *cache, int64_t layer, int64_t row,
                      const float *qkv) {
  const int64_t dim = encoder.dim, capacity = pass.capacity, place = pass.lengths[row] + pass.num_nodes;
  const int64_t from_keys = pass.cache_rows * dim * capacity;  // to values
  E *entries = cache + (layer * 2 * pass.cache_rows + row) * dim * capacity + place;
  for (int64_t which = 1; which < 3; which++, entries += from_keys)
    for (int64_t t = part.from; t < part.to; t += LANES) {
      const int num = (int)std::min<int64_t>(LANES, part.to - t);
      const float *own = qkv + (t - part.from) * 3 * dim + which * dim;
      for (int64_t c = 0; c < dim; c += LANES) {
        if (num == 1) {
          for (int64_t i = c; i < c + LANES; i++) put(entries + i * capacity + t, own[i]);
          continue;
        }
        Vec block[LANES];
        for (int i = 0; i < LANES; i++) block[i] = i < num ? load(own + i * 3 * dim + c) : Vec{};
        transpose(block, std::make_integer_sequence<int, LANES>());
        for (int i = 0; i < LANES; i++) store_first(entries + (c + i) * capacity + t, block[i], num);
      }
    }
}

// What the tokens of one row see in a group of them that are attended together: of the history that the row shares with
// others, and of its own entries. It is the same for all layers and heads.
struct Group {
  Sight shared, own;
};

// Rows that are attended together, by their places in the order of a pass: one, or several of one new token each that
// share a history.
struct Block {
  int64_t first, num;
};

// Entries that new token t of a row sees.
struct Seen {
  Range shared, own;
};

static Seen seen_by(const Pass &pass, int64_t row, int64_t t) {
  const int64_t length = pass.lengths[row], place = length + pass.num_nodes, num_before = length + pass.depth[t];
  const int64_t num_shared = pass.shared ? pass.shared_lengths[row] : 0;
  int64_t first = pass.max_context ? std::max<int64_t>(0, num_before - pass.max_context + 1) : 0;
  if (pass.seen) first = std::min(first, length);  // what a window hides of a tree is in `seen`
  const int64_t num_hidden = pass.max_context ? num_shared + num_before + 1 - pass.max_context : 0;
  return {{std::min(num_shared, std::max<int64_t>(0, num_hidden)), num_shared},
          {first, pass.seen ? place + pass.num_new : place + t + 1}};
}

// Groups of new tokens [from, to) of one row.
template <class Part>
static void see(const Pass &pass, const Part &part, int64_t row, std::vector<Group> &groups,
    std::vector<Lanes> &masks) {
  const int64_t length = pass.lengths[row], num_uncommitted = pass.num_nodes + pass.num_new;
  in_groups<QUERIES>(part.to - part.from, [&](auto num, int64_t at) {
    Range shared[num], own[num];
    for (int i = 0; i < num; i++) {
      const Seen seen = seen_by(pass, row, part.from + at + i);
      shared[i] = seen.shared, own[i] = seen.own;
    }
    const uint8_t *nodes = pass.seen ? pass.seen + (part.from + at) * num_uncommitted : nullptr;
    groups.push_back({sight_of(shared, num, nullptr, 0, 0, masks), sight_of(own, num, nodes, num_uncommitted, length,
        masks)});
  });
}

static bool shares_history(const Pass &pass, int64_t row) { return pass.shared && pass.shared_lengths[row]; }

// Rows [first, stop), those of a history side by side where each has one new token: it is then read once for several.
static void order_rows(const Pass &pass, int64_t first, int64_t stop, std::vector<int64_t> &rows) {
  rows.resize(stop - first);
  std::iota(rows.begin(), rows.end(), first);
  if (!pass.shared || pass.num_new > 1) return;
  const auto slot = [&](int64_t row) { return shares_history(pass, row) ? pass.shared_slots[row] : -1; };
  std::sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) {
    return slot(a) != slot(b) ? slot(a) < slot(b) : a < b;
  });
}

// The blocks of rows, and their groups.
template <class Part>
static void see_blocks(const Pass &pass, const Part &part, const std::vector<int64_t> &rows,
    std::vector<Block> &blocks, std::vector<Group> &groups, std::vector<Lanes> &masks) {
  const bool is_one_token = pass.num_new == 1 && !pass.seen;
  for (size_t first = 0, num_alike; first < rows.size(); first += num_alike) {
    const auto is_alike = [&](int64_t row) {
      return shares_history(pass, row) && pass.shared_slots[row] == pass.shared_slots[rows[first]];
    };
    num_alike = 1;
    if (is_one_token && is_alike(rows[first]))
      while (first + num_alike < rows.size() && is_alike(rows[first + num_alike])) num_alike++;
    in_groups<QUERIES>(num_alike, [&](auto num, int64_t at) {
      const int64_t *own = rows.data() + first + at;
      blocks.push_back({(int64_t)first + at, num});
      if (num == 1) return see(pass, part, *own, groups, masks);
      Range shared[num];
      for (int i = 0; i < num; i++) shared[i] = seen_by(pass, own[i], 0).shared;
      const Sight together = sight_of(shared, num, nullptr, 0, 0, masks);
      for (int i = 0; i < num; i++) {
        const Range alone = seen_by(pass, own[i], 0).own;
        groups.push_back({together, sight_of(&alone, 1, nullptr, 0, 0, masks)});
      }
    });
  }
}

// Fetches what a head of a row attends to of its own entries: a core does not foresee that one dimension's follow
// another's.
template <class E>
static inline void fetch_head(const Encoder &encoder, const Pass &pass, const E *cache, int64_t layer, int64_t row,
    int64_t head) {
  const int64_t head_dim = encoder.dim / encoder.num_heads, num = pass.lengths[row] + pass.num_nodes;
  const E *keys = cache + ((layer * 2 * pass.cache_rows + row) * encoder.dim + head * head_dim) * pass.capacity;
  const E *values = keys + pass.cache_rows * encoder.dim * pass.capacity;
  for (int64_t c = 0; c < head_dim; c++)
    for (int64_t i = 0; i < num; i += 64 / (int64_t)sizeof(E)) {
      __builtin_prefetch(keys + c * pass.capacity + i);
      __builtin_prefetch(values + c * pass.capacity + i);
    }
}

// Fetches where the keys and values of new tokens will be written.
template <class E, class Part>
static inline void fetch_places(const Encoder &encoder, const Pass &pass, const Part &part, E *cache, int64_t layer,
    int64_t row) {
  const int64_t dim = encoder.dim, place = pass.lengths[row] + pass.num_nodes;
  for (int64_t which = 0; which < 2; which++) {
    const E *entries = cache + ((layer * 2 + which) * pass.cache_rows + row) * dim * pass.capacity;
    for (int64_t c = 0; c < dim; c++, entries += pass.capacity) {
      __builtin_prefetch(entries + place + part.from, 1);
      __builtin_prefetch(entries + place + part.to - 1, 1);
    }
  }
}

// The queries of one head of new tokens [from, to) of a block of num rows. group: its first; queries, own_scores,
// attended: of its first token.
template <class E, class Part>
static void attend_block(const Encoder &encoder, const Pass &pass, const Part &part, const int64_t *rows, int64_t num,
                         const Group *group, const Lanes *masks, const E *cache, int64_t layer, int64_t head,
                         const float *queries, const float *own_scores, float *weights, float *attended) {
  const int64_t dim = encoder.dim, head_dim = dim / encoder.num_heads, offset = head * head_dim;
  const Head size{head_dim, 3 * dim, dim, encoder.kind == ATTNHP};
  const auto segment = [&](const E *entries, int64_t rows, int64_t capacity, int64_t at, const Sight &sight,
      float *room) {
    const E *keys = entries + ((layer * 2 * rows + at) * dim + offset) * capacity;
    return Segment<E>{keys, keys + rows * dim * capacity, capacity, room, sight, masks};
  };
  const auto shared = [&] {
    return segment((const E *)pass.shared, pass.shared_rows, pass.shared_capacity, pass.shared_slots[*rows],
        group->shared, weights);
  };
  const auto own = [&](int64_t row, const Sight &sight, float *room) {
    return segment(cache, pass.cache_rows, pass.capacity, row, sight, room);
  };
  queries += offset, attended += offset;
  if (num > 1 && !group->shared.is_empty())
    return with_constant<QUERIES>(num, [&](auto num) {
      Segment<E> segments[1 + num] = {shared()};
      float *room = weights + num * pass.shared_capacity;
      for (int i = 0; i < num; i++, room += pass.capacity) segments[1 + i] = own(rows[i], group[i].own, room);
      attend<num, true>(size, queries, own_scores, segments, 2, attended);
    });
  for (const int64_t *row = rows; row < rows + num; row++)
    in_groups<QUERIES>(part.to - part.from, [&](auto num, int64_t) {
      const bool shares = pass.shared && !group->shared.is_empty();
      const Segment<E> segments[] = {shares ? shared() : own(*row, group->own, weights),
          own(*row, group->own, weights + num * pass.shared_capacity)};
      attend<num, false>(size, queries, own_scores, segments + !shares, 1 + shares, attended);
      queries += num * 3 * dim, own_scores += num, attended += num * dim, group++;
    });
}

// Queries in units of which scores are powers of two, and what each scores with its own key: own_scores (heads,
// tokens).
static void scale_queries(float *qkv, int64_t tokens, int64_t dim, int64_t head_dim, float *own_scores) {
  const float scale = LOG2_E / std::sqrt((float)head_dim);
  for (int64_t t = 0; t < tokens; t++, qkv += 3 * dim) {
    map(qkv, dim, [&](int64_t i) { return scale * load(qkv + i); });
    for (int64_t head = 0; head < dim / head_dim; head++) {
      const float *query = qkv + head * head_dim;
      Vec products = {};
      for (int64_t c = 0; c < head_dim; c += LANES) {
        const Lanes lanes = lanes_between(0, std::min<int64_t>(LANES, head_dim - c));
        products += load(query + c, lanes) * load(query + dim + c, lanes);
      }
      own_scores[head * tokens + t] = sum(products);
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

// All new tokens.
struct Whole {
  int64_t from, to;
  void announce_and_wait(int64_t) const {}
};

// Some of the new tokens of a chain. Other threads run the tokens before them, whose keys and values every layer needs,
// and the tokens behind them, whose entries of the cache are never read here: they may be written at the same time.
struct Share {
  int64_t from, to, number;
  std::atomic<int64_t> *num_layers;  // of each share: the number of layers whose keys and values it has written

  void announce_and_wait(int64_t layer) const {
    num_layers[number].store(layer + 1, std::memory_order_release);
    for (int64_t i = 0; i < number; i++)
      wait_until([&] { return num_layers[i].load(std::memory_order_acquire) > layer; });
  }

  // After a failure: nobody may wait for this share, and what the others compute is thrown away.
  void give_up() const { num_layers[number].store(std::numeric_limits<int64_t>::max(), std::memory_order_release); }
};

// A part of the new tokens of rows [first, stop): of several rows, the whole.
template <class Part>
static void run_part(const Encoder &encoder, const Pass &pass, int64_t first, int64_t stop, const Part &part) {
  const int64_t dim = encoder.dim, head_dim = dim / encoder.num_heads, q = part.to - part.from, tokens =
      (stop - first) * q;
  const bool is_attnhp = encoder.kind == ATTNHP;
  const int64_t width = is_attnhp ? 2 * dim : dim, wide = is_attnhp ? 0 : encoder.layers[0].expand.out;
  const int64_t num_weights = QUERIES * (pass.capacity + pass.shared_capacity);
  float *x = room<0>(tokens * (width + 7 * dim + wide + encoder.num_heads) + num_weights);
  float *normed = x + tokens * dim, *qkv = normed + tokens * width;
  float *attended = qkv + tokens * 3 * dim, *update = attended + tokens * dim, *waves = update + tokens * dim;
  float *hidden = waves + tokens * dim, *weights = hidden + tokens * wide, *own_scores = weights + num_weights;
  static thread_local std::vector<int64_t> rows;
  order_rows(pass, first, stop, rows);
  for (int64_t i = 0; i < tokens; i++)  // of ATTNHP the time encoding goes into every layer, beside the normed tokens
    embed(encoder, pass, rows[i / q], part.from + i % q, x + i * dim,
          is_attnhp ? normed + i * width : waves + i * 2 * encoder.num_phases);

  static thread_local std::vector<Block> blocks;
  static thread_local std::vector<Group> groups;
  static thread_local std::vector<Lanes> masks;
  blocks.clear(), groups.clear(), masks.clear();
  see_blocks(pass, part, rows, blocks, groups, masks);
  const int64_t num_groups = groups.size() / rows.size();

  for (int64_t i = 0; i < encoder.num_layers; i++) {
    const Layer &layer = encoder.layers[i];
    const auto in_cache = [&](auto f) { pass.is_bf16 ? f((Bf16 *)pass.cache) : f((float *)pass.cache); };
    in_cache([&](auto *cache) {
      for (int64_t row : rows) fetch_places(encoder, pass, part, cache, i, row);
      for (int64_t j = 0; j < blocks.front().num; j++) fetch_head(encoder, pass, cache, i, rows[j], 0);
    });
    normalise(layer.attention_norm, x, normed + width - dim, tokens, dim, width);
    linear(layer.to_qkv, normed, qkv, tokens);
    if (encoder.kind == ROTARY) turn(qkv, waves, tokens, dim, head_dim);
    in_cache([&](auto *cache) {
      for (size_t j = 0; j < rows.size(); j++) write_row(encoder, pass, part, cache, i, rows[j], qkv + j * q * 3 * dim);
      part.announce_and_wait(i);
      scale_queries(qkv, tokens, dim, head_dim, own_scores);
      // a history that several rows share is read once per head
      for (int64_t head = 0; head < encoder.num_heads; head++)
        for (const Block &block : blocks) {
          const int64_t t = block.first * q;
          const bool is_last = &block == &blocks.back();
          if (!is_last || head + 1 < encoder.num_heads) {
            const Block &next = is_last ? blocks.front() : *(&block + 1);
            for (int64_t j = 0; j < next.num; j++)
              fetch_head(encoder, pass, cache, i, rows[next.first + j], head + is_last);
          }
          attend_block(encoder, pass, part, rows.data() + block.first, block.num,
                       groups.data() + block.first * num_groups, masks.data(), cache, i, head, qkv + t * 3 * dim,
                       own_scores + head * tokens + t, weights, attended + t * dim);
        }
    });
    if (is_attnhp) {
      linear(layer.from_heads, attended, update, tokens);
      map(x, tokens * dim, [&](int64_t j) { return load(x + j) + tanh_(load(update + j)); });
      continue;
    }
    linear<End::ADDED>(layer.from_heads, attended, x, tokens);
    normalise(layer.feedforward_norm, x, normed, tokens, dim, dim);
    if (encoder.kind == ROTARY) {
      linear(layer.expand, normed, hidden, tokens);
      const int64_t half = layer.contract.in;
      for (int64_t t = 0; t < tokens; t++) {  // in place: what is written has been read
        const float *gates = hidden + t * 2 * half;
        map(hidden + t * half, half, [&](int64_t j) { return silu(load(gates + j)) * load(gates + half + j); });
      }
    } else {
      linear<End::RELU>(layer.expand, normed, hidden, tokens);
    }
    linear<End::ADDED>(layer.contract, hidden, x, tokens);
  }
  for (size_t j = 0; j < rows.size(); j++)
    normalise(encoder.norm, x + j * q * dim, pass.contexts + (rows[j] * pass.num_new + part.from) * dim, q, dim, dim);
}

// All of a pass for rows [first, stop).
static void run_rows(const Encoder &encoder, const Pass &pass, int64_t first, int64_t stop) {
  run_part(encoder, pass, first, stop, Whole{0, pass.num_new});
}

// Runs a pass over a chain of new tokens of one row by a team, and after(from, to) for every share of the tokens.
template <class F>
static void run_together(const Encoder &encoder, const Pass &pass, int64_t row, Team &team, F after) {
  const int64_t num = std::min(team.size(), pass.num_new);
  std::atomic<int64_t> num_layers[MOST_PARTS] = {};
  team.run(num, [&](int64_t i) {
    const Share share{i * pass.num_new / num, (i + 1) * pass.num_new / num, i, num_layers};
    try {
      run_part(encoder, pass, row, row + 1, share);
    } catch (...) {
      share.give_up();
      throw;
    }
    after(share.from, share.to);
  });
}
