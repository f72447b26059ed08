// The memory layout of every structure that structures.py mirrors. A change here is a change there.
#pragma once

#include <cstddef>
#include <type_traits>

#include "chain.h"
#include "rounds.h"
#include "views.h"

constexpr int64_t ABI_VERSION = 3;  // of the exported functions; library.py has the same number

#define MIRRORED_STRUCTURES(SIZE, FIELD) \
  SIZE(Linear, 40) FIELD(Linear, weight, 0) FIELD(Linear, bias, 8) FIELD(Linear, in, 16) FIELD(Linear, out, 24) \
    FIELD(Linear, is_bf16, 32) \
  SIZE(Norm, 24) FIELD(Norm, weight, 0) FIELD(Norm, bias, 8) FIELD(Norm, eps, 16) \
  SIZE(Layer, 208) FIELD(Layer, attention_norm, 0) FIELD(Layer, to_qkv, 24) FIELD(Layer, from_heads, 64) \
    FIELD(Layer, feedforward_norm, 104) FIELD(Layer, expand, 128) FIELD(Layer, contract, 168) \
  SIZE(Encoder, 144) FIELD(Encoder, kind, 0) FIELD(Encoder, num_layers, 8) FIELD(Encoder, dim, 16) \
    FIELD(Encoder, num_heads, 24) FIELD(Encoder, num_marks, 32) FIELD(Encoder, num_phases, 40) \
    FIELD(Encoder, layers, 48) \
    FIELD(Encoder, norm, 56) FIELD(Encoder, marks, 80) FIELD(Encoder, inter_time, 88) FIELD(Encoder, of_time, 96) \
    FIELD(Encoder, of_order, 104) FIELD(Encoder, time_scale, 112) FIELD(Encoder, log_mean, 120) \
    FIELD(Encoder, log_std, 128) \
    FIELD(Encoder, min_inter_time, 136) \
  SIZE(Pass, 176) FIELD(Pass, contexts, 0) FIELD(Pass, ids, 8) FIELD(Pass, times, 16) FIELD(Pass, inter_times, 24) \
    FIELD(Pass, lengths, 32) FIELD(Pass, num_before, 40) FIELD(Pass, depth, 48) FIELD(Pass, seen, 56) \
    FIELD(Pass, rows, 64) \
    FIELD(Pass, num_new, 72) FIELD(Pass, num_nodes, 80) FIELD(Pass, max_context, 88) FIELD(Pass, cache, 96) \
    FIELD(Pass, capacity, 104) FIELD(Pass, cache_rows, 112) FIELD(Pass, is_bf16, 120) FIELD(Pass, num_threads, 128) \
    FIELD(Pass, shared, 136) FIELD(Pass, shared_slots, 144) FIELD(Pass, shared_lengths, 152) \
    FIELD(Pass, shared_capacity, 160) FIELD(Pass, shared_rows, 168) \
  SIZE(Decoder, 224) FIELD(Decoder, marks, 0) FIELD(Decoder, num_components, 8) FIELD(Decoder, num_features, 16) \
    FIELD(Decoder, num_marks, 24) FIELD(Decoder, to_mixture, 32) FIELD(Decoder, from_context, 72) \
    FIELD(Decoder, to_logits, 112) FIELD(Decoder, least_log_std, 152) FIELD(Decoder, largest_log_std, 160) \
    FIELD(Decoder, log_mean, 168) FIELD(Decoder, log_std, 176) FIELD(Decoder, from_time, 184) \
    FIELD(Decoder, from_time_bias, 192) FIELD(Decoder, mix_time, 200) FIELD(Decoder, logits, 208) \
    FIELD(Decoder, logits_bias, 216) \
  SIZE(Chain, 128) FIELD(Chain, inter_times, 0) FIELD(Chain, times, 8) FIELD(Chain, distributions, 16) \
      FIELD(Chain, marks, 24) \
    FIELD(Chain, num_drawn, 32) FIELD(Chain, uniforms, 40) FIELD(Chain, keys, 48) FIELD(Chain, cursors, 56) \
    FIELD(Chain, last_times, 64) FIELD(Chain, elapsed, 72) FIELD(Chain, ends, 80) FIELD(Chain, limits, 88) \
    FIELD(Chain, stops, 96) FIELD(Chain, num, 104) FIELD(Chain, num_uniforms, 112) \
    FIELD(Chain, keeps_distributions, 120) \
  SIZE(Newest, 24) FIELD(Newest, ids, 0) FIELD(Newest, times, 8) FIELD(Newest, inter_times, 16) \
  SIZE(Model, 24) FIELD(Model, encoder, 0) FIELD(Model, decoder, 8) FIELD(Model, pass, 16) \
  SIZE(Rounds, 176) FIELD(Rounds, inter_times, 0) FIELD(Rounds, times, 8) FIELD(Rounds, marks, 16) \
    FIELD(Rounds, num_drafted, 24) FIELD(Rounds, num_accepted, 32) FIELD(Rounds, num_events, 40) \
    FIELD(Rounds, num_rounds, 48) FIELD(Rounds, num_backlog, 56) FIELD(Rounds, ids, 64) FIELD(Rounds, token_times, 72) \
    FIELD(Rounds, token_inter_times, 80) FIELD(Rounds, keys, 88) FIELD(Rounds, cursors, 96) \
    FIELD(Rounds, elapsed, 104) \
    FIELD(Rounds, ends, 112) FIELD(Rounds, limits, 120) FIELD(Rounds, stops, 128) FIELD(Rounds, room, 136) \
    FIELD(Rounds, width, 144) \
    FIELD(Rounds, draft_length, 152) FIELD(Rounds, most_rounds, 160) FIELD(Rounds, in_step, 168) \
  SIZE(HeadPasses, 56) FIELD(HeadPasses, decoder, 0) FIELD(HeadPasses, ids, 8) FIELD(HeadPasses, times, 16) \
    FIELD(HeadPasses, inter_times, 24) FIELD(HeadPasses, num_new, 32) FIELD(HeadPasses, num_kept, 40) \
    FIELD(HeadPasses, most, 48) \
  SIZE(Views, 48) FIELD(Views, num_dims, 0) FIELD(Views, sizes, 8) FIELD(Views, of_distributions, 16) \
      FIELD(Views, of_first, 24) \
    FIELD(Views, of_second, 32) FIELD(Views, of_third, 40)

#define CHECK_SIZE(S, size) static_assert(sizeof(S) == size, "structures.py has another size of " #S);
#define CHECK_OFFSET(S, field, offset) \
  static_assert(offsetof(S, field) == offset, "structures.py has another offset of " #S "." #field);
MIRRORED_STRUCTURES(CHECK_SIZE, CHECK_OFFSET)

// One field of a structure as this library reads it; a whole structure has the name "" and its size as its offset.
struct MirroredField {
  const char *structure, *field;
  int64_t offset, kind;  // kind: 'p' a pointer, 'd' a double, 'i' an int64_t, 's' a structure
};

template <class T>
constexpr char kind_of() {
  static_assert(!std::is_arithmetic<T>::value || sizeof(T) == 8, "numbers of mirrored structures have 64 bits");
  return std::is_pointer<T>::value ? 'p' : std::is_floating_point<T>::value ? 'd' : std::is_integral<T>::value ?
      'i' : 's';
}

#define DESCRIBE_SIZE(S, size) {#S, "", sizeof(S), 's'},
#define DESCRIBE_FIELD(S, field, offset) {#S, #field, offsetof(S, field), kind_of<decltype(S::field)>()},
static const MirroredField MIRRORED_FIELDS[] = {MIRRORED_STRUCTURES(DESCRIBE_SIZE, DESCRIBE_FIELD)};
