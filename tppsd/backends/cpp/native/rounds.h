// Speculative rounds of one row after another: draft, verify, accept, correct, commit, as in
// tppsd/sampling/speculative.py with a draft model and the rule `joint`, number for number. The target's passes are
// compiled, too, or made by Python.
#pragma once

#include <memory>

#include "chain.h"
#include "philox.h"

struct Model {
  const Encoder *encoder;
  const Decoder *decoder;
  const Pass *pass;  // where its cache is; `depth` is of as many tokens as a pass may have
};

struct Rounds {
  double *inter_times, *times;             // (rows, room), written: the events of each row
  int64_t *marks;                          // likewise
  int64_t *num_drafted, *num_accepted;     // (rows, room), written, round by round
  int64_t *num_events, *num_rounds;        // (rows,), written for rows that have a limit; num_rounds begins at zero
  int64_t *num_backlog;                     // (rows,): newest tokens that the draft has not seen, before and after
  const int64_t *ids;                      // (rows, width): those tokens; the last of them is the target's next one
  const double *token_times, *token_inter_times;  // likewise
  const int64_t *keys, *cursors;           // (rows, 2), (rows,): of the noise
  const double *elapsed, *ends;            // (rows,): the silence before the first event
  const int64_t *limits;                   // (rows,): how many events each row wants
  const bool *stops;                       // (num_marks,): marks after which a row wants no more (nullptr = none)
  int64_t room, width, draft_length, most_rounds, in_step;  // in_step: rows go on as long as all do
};

struct HeadPasses {  // a target whose passes Python makes
  const Decoder *decoder;
  int64_t *ids;                 // (rows, most), written: tokens of the newest event and the drafted ones
  double *times, *inter_times;  // likewise
  int64_t *num_new, *num_kept;  // (rows,), written: tokens of each row in a pass, and how many stay; 0 to begin with
  int64_t most;
};

constexpr int64_t NUM_UNIFORMS = 4;  // of a drafted event, of which the first three are used
constexpr int64_t LONGEST_BACKLOG = 2;  // tokens after a round
constexpr int64_t MOST_PROPOSALS = 1000000000, MOST_UNKNOWN = 4096;  // unknown: not a number

// One row of a model.
struct ModelRow {
  const Encoder &encoder;
  const Decoder &decoder;
  Pass pass;
  std::vector<int64_t> ids;
  std::vector<double> times, inter_times, distributions;
  std::vector<float> contexts;

  ModelRow(const Model &model, int64_t row, int64_t most_tokens)
      : encoder(*model.encoder), decoder(*model.decoder), pass(*model.pass), ids(most_tokens), times(most_tokens),
        inter_times(most_tokens), distributions(most_tokens * decoder.width()),
            contexts(most_tokens * encoder.dim + 16) {
    const int64_t entry = pass.is_bf16 ? sizeof(Bf16) : sizeof(float);
    pass.contexts = (float *)(((uintptr_t)contexts.data() + 63) / 64 * 64);  // see `room`
    pass.ids = ids.data(), pass.times = times.data(), pass.inter_times = inter_times.data();
    pass.lengths += row, pass.num_before += row, pass.rows = 1;
    if (pass.shared) pass.shared_slots += row, pass.shared_lengths += row;
    pass.cache = (char *)pass.cache + row * encoder.dim * pass.capacity * entry;
  }

  void put(int64_t at, int64_t id, double time, double inter_time) {
    ids[at] = id, times[at] = time, inter_times[at] = inter_time;
  }

  void move(int64_t num) { *pass.lengths += num, *pass.num_before += num; }

  // The first `num` tokens join the cache; the distributions after those from `first` on.
  void extend(int64_t num, int64_t first) {
    pass.num_new = num;
    run_rows(encoder, pass, 0, 1);
    write_distributions(decoder, pass.contexts + first * encoder.dim, num - first, distributions.data(),
        decoder.width());
    move(num);
  }

  // Likewise with all of their distributions, by a team if there is one.
  void extend(int64_t num, Team *team) {
    if (!team) return extend(num, (int64_t)0);
    pass.num_new = num;
    run_together(encoder, pass, 0, *team, [&](int64_t from, int64_t to) {
      write_distributions(decoder, pass.contexts + from * encoder.dim, to - from,
          distributions.data() + from * decoder.width(), decoder.width());
    });
    move(num);
  }

  const double *distribution(int64_t at) const { return distributions.data() + at * decoder.width(); }
};

// One row of a target whose passes Python makes.
struct HeadRow {
  const Decoder &decoder;
  int64_t *const ids, &num_new, &num_kept;
  double *const times, *const inter_times;
  std::vector<double> distributions;

  HeadRow(const HeadPasses &target, int64_t row)
      : decoder(*target.decoder), ids(target.ids + row * target.most), num_new(target.num_new[row]),
        num_kept(target.num_kept[row]), times(target.times + row * target.most),
            inter_times(target.inter_times + row * target.most),
        distributions(target.most * decoder.width()) {}

  void put(int64_t at, int64_t id, double time, double inter_time) {
    ids[at] = id, times[at] = time, inter_times[at] = inter_time;
  }

  void extend(int64_t num, Team *) { num_new = num; }

  // The pass has been made.
  void take(const float *contexts) { write_distributions(decoder, contexts, num_new, distributions.data(),
      decoder.width()); }

  void move(int64_t num) { num_kept = num_new + num; }

  const double *distribution(int64_t at) const { return distributions.data() + at * decoder.width(); }
};

// Rounds of one row.
template <class Target>
struct Speculation {
  const Rounds &rounds;
  const int64_t row, limit;
  const double end;
  Target target;
  ModelRow draft;
  double *inter_times, *times;  // of the next event
  int64_t *marks, num_left, num_backlog, num_drafted = 0, num_accepted = 0, new_mark = 0;
  bool is_stopped = false;
  double new_inter_time = 0, elapsed;
  Noise noise;
  std::unique_ptr<Team> team;  // that verifies; nullptr = this thread alone

  Speculation(Target &&own_target, const Model &draft_model, const Rounds &rounds, int64_t row, int64_t num_helpers)
      : rounds(rounds), row(row), limit(rounds.limits[row]), end(rounds.ends[row]), target(std::move(own_target)),
        draft(draft_model, row, std::max({rounds.draft_length, rounds.width, LONGEST_BACKLOG})),
        inter_times(rounds.inter_times + row * rounds.room), times(rounds.times + row * rounds.room),
        marks(rounds.marks + row * rounds.room), num_left(limit), num_backlog(rounds.num_backlog[row]),
        elapsed(rounds.elapsed[row]),
        noise{{(uint32_t)rounds.keys[2 * row], (uint32_t)rounds.keys[2 * row + 1]}, (uint32_t)rounds.cursors[row]},
        team(num_helpers > 0 ? new Team(num_helpers) : nullptr) {
    for (int64_t i = 0; i < num_backlog; i++) {
      const int64_t at = row * rounds.width + i;
      draft.put(i, rounds.ids[at], rounds.token_times[at], rounds.token_inter_times[at]);
    }
    target.put(0, draft.ids[num_backlog - 1], draft.times[num_backlog - 1], draft.inter_times[num_backlog - 1]);
  }

  // Events of the draft one after another, right behind those that are committed, until the row wants no more.
  void propose() {
    static thread_local std::vector<double> uniforms;
    uniforms.resize(rounds.draft_length * NUM_UNIFORMS);
    for (int64_t j = 0; j < rounds.draft_length; j++) noise.after(j).draw(uniforms.data() + j * NUM_UNIFORMS, DRAFT, 2);
    draft.extend(num_backlog, num_backlog - 1);
    draft.pass.num_new = 1;
    run_chain(draft.encoder, draft.decoder, draft.pass,
              {inter_times, times, draft.distributions.data(), marks, &num_drafted, uniforms.data(), nullptr, nullptr,
               &target.times[0], &elapsed, &end, &num_left, rounds.stops, rounds.draft_length, NUM_UNIFORMS, true},
              0, 1);
  }

  // The target's distributions, one more than events were drafted.
  void verify() {
    for (int64_t i = 0; i < num_drafted; i++) target.put(i + 1, marks[i] + 1, times[i], inter_times[i]);
    target.extend(num_drafted + 1, team.get());
  }

  double silence_before(int64_t at) const { return at == 0 ? elapsed : 0; }

  // Delta of an event at a position of the draft.
  double log_ratio(int64_t at, double inter_time, int64_t mark) const {
    const double silence = silence_before(at);
    return log_density(target.decoder, target.distribution(at), inter_time, mark, silence) -
           log_density(draft.decoder, draft.distribution(at), inter_time, mark, silence);
  }

  void draw_new(const double *uniforms) {
    new_inter_time = draw(target.decoder, target.distribution(num_accepted), uniforms, &new_mark,
        silence_before(num_accepted));
  }

  void accept() {
    double coins[2];
    for (num_accepted = 0; num_accepted < num_drafted; num_accepted++) {
      noise.after(num_accepted).draw(coins, TEST, 1);
      if (!(std::log(coins[0]) <= log_ratio(num_accepted, inter_times[num_accepted], marks[num_accepted]))) return;
    }
  }

  // One more event: the target's own after a fully accepted draft, else from the adjusted distribution. False:
  // distributions are not densities.
  bool correct() {
    double uniforms[4], coins[2];
    if (num_accepted == num_drafted) {
      noise.after(num_accepted).draw(uniforms, TARGET, 2);
      draw_new(uniforms);
      return true;
    }
    for (int64_t attempt = 0, num_unknown = 0; attempt < MOST_PROPOSALS && num_unknown < MOST_UNKNOWN; attempt++) {
      noise.draw(uniforms, PROPOSAL, 2, num_accepted, attempt);
      noise.draw(coins, PROPOSAL_COIN, 1, num_accepted, attempt);
      draw_new(uniforms);
      const double delta = log_ratio(num_accepted, new_inter_time, new_mark);
      if (coins[0] < -std::expm1(-delta)) return true;
      num_unknown += std::isnan(delta);
    }
    return false;
  }

  // The accepted prefix stays where it is, the new event follows; the caches are rolled back to them by length.
  void commit() {
    const int64_t n = num_accepted, num_cached = num_drafted - 1, num_kept = std::min(n, num_cached);
    target.move(n - num_drafted), draft.move(num_kept - num_cached);
    const double time = target.times[n] + new_inter_time;
    inter_times[n] = new_inter_time, times[n] = time, marks[n] = new_mark;
    if (rounds.stops) is_stopped = std::any_of(marks, marks + n + 1, [&](int64_t mark) { return rounds.stops[mark]; });
    num_backlog = 0;
    if (n == num_drafted) draft.put(num_backlog++, target.ids[n], target.times[n], target.inter_times[n]);
    draft.put(num_backlog++, new_mark + 1, time, new_inter_time);
    target.put(0, new_mark + 1, time, new_inter_time);
    inter_times += n + 1, times += n + 1, marks += n + 1, num_left -= n + 1;
    noise = noise.after(n + 1), elapsed = 0;
  }

  // Does the row want more, and is there room for another round?
  bool goes_on() const {
    return !is_stopped && target.times[0] <= end && num_left > 0 &&
        limit - num_left + rounds.draft_length < rounds.room;
  }

  // False: distributions are not densities.
  bool round() {
    propose();
    verify();
    return conclude();
  }

  // After the target's distributions are there.
  bool conclude() {
    accept();
    if (!correct()) return false;
    commit();
    const int64_t at = row * rounds.room + rounds.num_rounds[row]++;
    rounds.num_drafted[at] = num_drafted, rounds.num_accepted[at] = num_accepted;
    rounds.num_events[row] = limit - num_left, rounds.num_backlog[row] = num_backlog;
    return true;
  }
};
