// Events one after another, each drawn from the distribution after those before it.
#pragma once

#include "distributions.h"
#include "passes.h"
#include "philox.h"

struct Chain {
  // (rows, num) twice, written; (rows, num or 1, width): of each row the first is given
  double *inter_times, *times, *distributions;
  int64_t *marks, *num_drawn;          // (rows, num), (rows,), written
  const double *uniforms;              // (rows, num, num_uniforms), of which the first three are used; or nullptr, and
  const int64_t *keys, *cursors;       // (rows, 2), (rows,): the streams of the rows, of which TARGET is the purpose
  const double *last_times, *elapsed;  // (rows,): where each chain begins; the silence after that (nullptr = none)
  const double *ends;                  // (rows,): where its row wants no more (nullptr = nowhere)
  const int64_t *limits;               // (rows,): how many events each row wants
  const bool *stops;                   // (num_marks,): marks after which a row wants no more (nullptr = none)
  int64_t num, num_uniforms, keeps_distributions;  // are the distributions of all events kept, or that of the newest?

  // from row to row
  int64_t stride(const Decoder &decoder) const { return (keeps_distributions ? num : 1) * decoder.width(); }
  // from event to event
  int64_t step(const Decoder &decoder) const { return keeps_distributions * decoder.width(); }

  // The uniforms of event j of a row; room (4): for those that are drawn here.
  const double *uniforms_of(int64_t row, int64_t j, double *room) const {
    if (uniforms) return uniforms + (row * num + j) * num_uniforms;
    const Noise noise{{(uint32_t)keys[2 * row], (uint32_t)keys[2 * row + 1]}, (uint32_t)cursors[row]};
    noise.after(j).draw(room, TARGET, 2);
    return room;
  }
};

// Tokens (rows,) of the newest events, written.
struct Newest {
  int64_t *ids;
  double *times, *inter_times;
};

// Event j of rows [first, stop). Does one of them want no more?
static bool draw_next(const Decoder &decoder, const Chain &chain, const Newest &newest, int64_t j, int64_t first,
    int64_t stop) {
  bool is_done = false;
  for (int64_t row = first; row < stop; row++) {
    const int64_t at = row * chain.num + j;
    const double *distribution = chain.distributions + row * chain.stride(decoder) + j * chain.step(decoder);
    const double elapsed = chain.elapsed && j == 0 ? chain.elapsed[row] : 0;
    double room[4];
    const double tau = draw(decoder, distribution, chain.uniforms_of(row, j, room), chain.marks + at, elapsed);
    const double time = (j ? chain.times[at - 1] : chain.last_times[row]) + tau;
    chain.inter_times[at] = tau, chain.times[at] = time;
    if (chain.ends) is_done |= !(time <= chain.ends[row]) || j + 1 >= chain.limits[row];
    if (chain.stops) is_done |= chain.stops[chain.marks[at]];
    chain.num_drawn[row] = j + 1;
    newest.ids[row] = chain.marks[at] + 1, newest.times[row] = time, newest.inter_times[row] = tau;
  }
  return is_done || j + 1 == chain.num;
}

// Distributions of event j of rows [first, stop), after their contexts.
static void write_next(const Decoder &decoder, const Chain &chain, const float *contexts, int64_t j, int64_t first,
    int64_t stop) {
  double *distributions = chain.distributions + first * chain.stride(decoder) + j * chain.step(decoder);
  write_distributions(decoder, contexts + first * decoder.to_mixture.in, stop - first, distributions,
      chain.stride(decoder));
}

// Rows [first, stop), until one of them wants no more. Pass: of one token per row, whose fields are used up on the way.
static void run_chain(const Encoder &encoder, const Decoder &decoder, const Pass &pass, const Chain &chain,
    int64_t first,
                      int64_t stop) {
  const Newest newest{pass.ids, pass.times, pass.inter_times};
  for (int64_t j = 0; !draw_next(decoder, chain, newest, j, first, stop); j++) {
    run_rows(encoder, pass, first, stop);
    for (int64_t row = first; row < stop; row++) pass.lengths[row]++, pass.num_before[row]++;
    write_next(decoder, chain, pass.contexts, j + 1, first, stop);
  }
}
