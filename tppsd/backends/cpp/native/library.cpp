// What tppsd.models.stand_ins.compiled calls instead of hundreds of operators.

#include <atomic>
#include <deque>
#include <system_error>
#include <thread>
#include <vector>

#include "chain.h"
#include "laws.h"
#include "passes.h"
#include "rounds.h"
#include "views.h"

constexpr int64_t GROUP = 128;  // tokens that go through all layers together: what they need stays in the cache of a core
constexpr int64_t NEAR = 6 << 20;       // bytes of keys and values that stay near a core from event to event of a chain:
constexpr int64_t FEWEST = 4, MOST = 16;  // of so many rows
constexpr int64_t WORTH_A_THREAD = 256;  // tokens times layers: starting one takes as long as a few dozen
constexpr int64_t WORTH_A_TEAM = 40;     // likewise, of a pass that is one of many

// run(first, stop) for all rows, in groups of them, by as many threads as `worth` says.
template <class F>
static void share(int64_t rows, int64_t largest_group, int64_t worth, int64_t most_threads, F run) {
  const int64_t num_threads = std::max<int64_t>(1, std::min({most_threads, rows, worth / WORTH_A_THREAD}));
  const int64_t per_thread = (rows + num_threads - 1) / num_threads;
  const int64_t group = std::max<int64_t>(1, std::min(per_thread, largest_group));
  std::atomic<int64_t> next(0);
  const auto work = [&] {
    for (int64_t first; (first = next.fetch_add(group)) < rows;) run(first, std::min(rows, first + group));
  };
  std::vector<std::thread> others;
  try {
    for (int64_t i = 1; i < num_threads; i++) others.emplace_back(work);
  } catch (const std::system_error &) {  // as many as the system allows
  }
  work();
  for (auto &thread : others) thread.join();
}

// Rounds of all rows in step.
struct OperatedRounds {
  const Operated target;
  const Model draft;
  const Rounds rounds;
  std::deque<Speculation<OperatedRow>> rows;
  int64_t longest = 0;

  OperatedRounds(const Operated &target, const Model &draft, const Rounds &rounds) : target(target), draft(draft), rounds(rounds) {
    for (int64_t row = 0; row < draft.pass->rows; row++)
      rows.emplace_back(OperatedRow(this->target, row), this->draft, this->rounds, row, 0);
  }

  // run(row, its number) for all that want something
  template <class F>
  void for_rows(F run) {
    const int64_t num = rows.size(), worth = num * rounds.draft_length * draft.encoder->num_layers;
    share(num, 1, worth, draft.pass->num_threads, [&](int64_t row, int64_t) {
      if (rounds.limits[row] > 0) run(rows[row], row);
    });
  }

  int64_t propose() {
    for_rows([](auto &row, int64_t) { row.propose(), row.verify(); });
    return longest = *std::max_element(target.num_new, target.num_new + rows.size());
  }

  int64_t conclude(const float *contexts) {
    std::atomic<int64_t> num_failed(0), num_ended(0);
    for_rows([&](auto &row, int64_t number) {
      row.target.take(contexts + number * longest * target.decoder->to_mixture.in);
      num_failed += !row.conclude(), num_ended += !row.goes_on();
    });
    return num_failed + num_ended ? (int64_t)num_failed : -1;
  }
};

extern "C" {

int64_t panel_width() { return TILE * LANES; }

void pass_tokens(const Encoder *encoder, const Pass *pass) {
  if (pass->rows * pass->num_new == 0) return;
  const int64_t worth = pass->rows * pass->num_new * encoder->num_layers;
  const int64_t num_threads = std::min(largest_team(pass->num_threads), worth / WORTH_A_THREAD);
  if (pass->rows == 1 && !pass->seen && num_threads > 1) {
    Team team(num_threads - 1);
    return run_together(*encoder, *pass, 0, team, [](int64_t, int64_t) {});
  }
  share(pass->rows, GROUP / pass->num_new, worth, pass->num_threads,
        [&](int64_t first, int64_t stop) { run_rows(*encoder, *pass, first, stop); });
}

void laws_after(const Decoder *decoder, const float *contexts, int64_t num_laws, double *laws) {
  for (int64_t first = 0; first < num_laws; first += GROUP)
    write_laws(*decoder, contexts + first * decoder->to_mixture.in, std::min(GROUP, num_laws - first),
               laws + first * decoder->width(), decoder->width());
}

void follow(const Encoder *encoder, const Decoder *decoder, const Pass *pass, const Chain *chain) {
  const int64_t entry = pass->is_bf16 ? sizeof(Bf16) : sizeof(float);
  const int64_t bytes_per_row = 2 * entry * encoder->num_layers * encoder->dim * pass->capacity;
  const int64_t group = std::min(MOST, std::max<int64_t>(FEWEST, NEAR / bytes_per_row));
  share(pass->rows, group, pass->rows * chain->num * encoder->num_layers, pass->num_threads,
        [&](int64_t first, int64_t stop) { run_chain(*encoder, *decoder, *pass, *chain, first, stop); });
}

// Event j of chains of all rows, after contexts (rows, dim) that are somebody else's (of the first, the law is given). Does one of
// them want no more?
bool follow_next(const Decoder *decoder, const Chain *chain, const Newest *newest, const float *contexts, int64_t rows, int64_t j,
                 int64_t num_threads) {
  std::atomic<bool> is_done(false);
  share(rows, GROUP, rows, num_threads, [&](int64_t first, int64_t stop) {
    if (j) write_next(*decoder, *chain, contexts, j, first, stop);
    if (draw_next(*decoder, *chain, *newest, j, first, stop)) is_done = true;
  });
  return is_done;
}

// How many rows failed, since their laws are not densities.
int64_t speculate(const Model *target, const Model *draft, const Rounds *rounds) {
  const int64_t num = target->pass->rows, worth = num * rounds->draft_length * target->encoder->num_layers;
  const int64_t at_once = rounds->in_step ? 1 : rounds->most_rounds;
  std::deque<Speculation<ModelRow>> rows;
  const bool is_long = (rounds->draft_length + 1) * target->encoder->num_layers >= WORTH_A_TEAM;
  const int64_t helpers = is_long ? largest_team(target->pass->num_threads) / num - 1 : 0;
  for (int64_t row = 0; row < num; row++)
    rows.emplace_back(ModelRow(*target, row, rounds->draft_length + 1), *draft, *rounds, row, rounds->limits[row] > 0 ? helpers : 0);
  std::atomic<int64_t> num_failed(0), num_ended(0);
  for (int64_t i = 0; i < rounds->most_rounds && num_failed + num_ended == 0; i += at_once)
    share(num, 1, worth * at_once, target->pass->num_threads, [&](int64_t row, int64_t) {
      if (rounds->limits[row] <= 0) return;
      bool is_right = rows[row].round();
      for (int64_t j = 1; j < at_once && is_right && rows[row].goes_on(); j++) is_right = rows[row].round();
      num_failed += !is_right, num_ended += !rows[row].goes_on();
      if (!rows[row].goes_on()) rows[row].team.reset();
    });
  return num_failed;
}

// Rounds of a target whose passes are somebody else's, between `propose` and `conclude`.
OperatedRounds *begin_rounds(const Operated *target, const Model *draft, const Rounds *rounds) {
  return new OperatedRounds(*target, *draft, *rounds);
}

// Of how many tokens of every row a pass is to be made.
int64_t propose(OperatedRounds *rounds) { return rounds->propose(); }

// With contexts (rows, num, dim) of that pass. How many rows failed, since their laws are not densities; -1: all go on.
int64_t conclude(OperatedRounds *rounds, const float *contexts) { return rounds->conclude(contexts); }

void end_rounds(OperatedRounds *rounds) { delete rounds; }

// elapsed, here and below: nullptr = no silence anywhere
void draw_events(const Decoder *decoder, const Views *views, const double *laws, const double *elapsed, const double *uniforms,
                 double *inter_times, int64_t *marks) {
  for_each(*views, [&](int64_t i, int64_t law, int64_t silence, int64_t first, int64_t) {
    inter_times[i] = draw(*decoder, laws + law, uniforms + first, marks + i, elapsed ? elapsed[silence] : 0);
  });
}

void log_densities(const Decoder *decoder, const Views *views, const double *laws, const double *elapsed,
                   const double *inter_times, const int64_t *marks, double *log_densities) {
  for_each(*views, [&](int64_t i, int64_t law, int64_t silence, int64_t first, int64_t second) {
    log_densities[i] = log_density(*decoder, laws + law, inter_times[first], marks[second], elapsed ? elapsed[silence] : 0);
  });
}

}
