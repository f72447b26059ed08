// The functions that Python calls (../library.py declares them): each does the work of hundreds of operators in one
// call.

#include <atomic>
#include <deque>
#include <vector>

#include "chain.h"
#include "failures.h"
#include "distributions.h"
#include "integrals.h"
#include "layout.h"
#include "passes.h"
#include "pool.h"
#include "rounds.h"
#include "views.h"

// tokens that go through all layers together: what they need stays in the cache of a core
constexpr int64_t GROUP = 128;
constexpr int64_t NEAR = 6 << 20;  // bytes of keys and values that stay near a core from event to event of a chain,
constexpr int64_t FEWEST = 4, MOST = 16;  // which decide how many rows run together: at least 4, at most 16
constexpr int64_t WORTH_A_THREAD = 256;  // tokens times layers: starting a thread takes as long as a few dozen of them
constexpr int64_t TOKENS_OF_AN_INTEGRAL = 4;    // times layers, which take about as long
// tokens times layers times the square of the width, for a pass that is one of many: of less than that, threads wait for
// each other longer than they save (measured with two of them, at widths of 64, 128 and 256)
constexpr int64_t WORTH_A_TEAM = 5 << 19;

// Calls run(first, stop) for all rows, in groups of them, by as many threads as `worth` says. An exception of any
// thread is thrown here once all threads have ended.
template <class F>
static void share(int64_t rows, int64_t largest_group, int64_t worth, int64_t most_threads, F run) {
  const int64_t num_threads = std::max<int64_t>(1, std::min({most_threads, rows, worth / WORTH_A_THREAD}));
  const int64_t per_thread = (rows + num_threads - 1) / num_threads;
  const int64_t group = std::max<int64_t>(1, std::min(per_thread, largest_group));
  std::atomic<int64_t> next(0);
  FirstException failure;
  const auto work = [&] {
    failure.catch_from([&] {
      for (int64_t first; (first = next.fetch_add(group)) < rows;) run(first, std::min(rows, first + group));
    });
  };
  Helpers others(num_threads - 1, work);
  work();
  others.wait_for_end();
  failure.rethrow();
}

// Rounds of all rows in step, for a target whose passes Python makes.
struct HeadRounds {
  const HeadPasses target;
  const Model draft;
  const Rounds rounds;
  std::deque<Speculation<HeadRow>> rows;
  int64_t longest = 0;

  HeadRounds(const HeadPasses &target, const Model &draft, const Rounds &rounds) : target(target), draft(draft),
      rounds(rounds) {
    for (int64_t row = 0; row < draft.pass->rows; row++)
      rows.emplace_back(HeadRow(this->target, row), this->draft, this->rounds, row, 0);
  }

  // Calls run(row, its number) for every row that wants events.
  template <class F>
  void for_rows(F run) {
    const int64_t num = rows.size(), worth = num * rounds.draft_length * draft.encoder->num_layers;
    share(num, 1, worth, draft.pass->num_threads, [&](int64_t row, int64_t) {
      if (rounds.limits[row] > 0) run(rows[row], row);
    });
  }

  int64_t propose() {
    for_rows([](auto &row, int64_t) { row.propose(), row.verify(); });
    return longest = rows.empty() ? 0 : *std::max_element(target.num_new, target.num_new + rows.size());
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

// Speculative rounds of all rows by compiled passes of both models. Returns how many rows failed.
static int64_t run_rounds(const Model &target, const Model &draft, const Rounds &rounds) {
  const int64_t num = target.pass->rows, worth = num * rounds.draft_length * target.encoder->num_layers;
  if (num == 0) return 0;
  const int64_t at_once = rounds.in_step ? 1 : rounds.most_rounds;
  std::deque<Speculation<ModelRow>> rows;
  const int64_t width = target.encoder->dim;
  const bool is_long = (rounds.draft_length + 1) * target.encoder->num_layers * width * width >= WORTH_A_TEAM;
  const int64_t helpers = is_long ? largest_team(target.pass->num_threads) / num - 1 : 0;
  for (int64_t row = 0; row < num; row++)
    rows.emplace_back(ModelRow(target, row, rounds.draft_length + 1), draft, rounds, row, rounds.limits[row] > 0 ?
        helpers : 0);
  std::atomic<int64_t> num_failed(0), num_ended(0);
  for (int64_t i = 0; i < rounds.most_rounds && num_failed + num_ended == 0; i += at_once)
    share(num, 1, worth * at_once, target.pass->num_threads, [&](int64_t row, int64_t) {
      if (rounds.limits[row] <= 0) return;
      bool is_right = rows[row].round();
      for (int64_t j = 1; j < at_once && is_right && rows[row].goes_on(); j++) is_right = rows[row].round();
      num_failed += !is_right, num_ended += !rows[row].goes_on();
      if (!rows[row].goes_on()) rows[row].team.reset();
    });
  return num_failed;
}

extern "C" {

// --- constants, which cannot fail ------------------------------------------------------------------------------------

int64_t abi_version() noexcept { return ABI_VERSION; }

// The layout of all structures, num_fields entries.
const MirroredField *mirrored_fields(int64_t *num_fields) noexcept {
  *num_fields = sizeof MIRRORED_FIELDS / sizeof *MIRRORED_FIELDS;
  return MIRRORED_FIELDS;
}

// Why the latest call of this thread failed.
const char *last_error() noexcept { return last_message; }

// The number of columns of a matrix that lie together (see matrices.h).
int64_t panel_width() noexcept { return TILE * LANES; }

// --- calls, which return a Status and write their result, if they have one, to their last argument -------------------

// Contexts of new tokens, whose keys and values join the cache.
int pass_tokens(const Encoder *encoder, const Pass *pass) noexcept {
  return guarded([&] {
    if (pass->rows * pass->num_new == 0) return;
    const int64_t worth = pass->rows * pass->num_new * encoder->num_layers;
    const int64_t num_threads = std::min(largest_team(pass->num_threads), worth / WORTH_A_THREAD);
    if (pass->rows == 1 && !pass->seen && num_threads > 1) {
      Team team(num_threads - 1);
      return run_together(*encoder, *pass, 0, team, [](int64_t, int64_t) {});
    }
    share(pass->rows, GROUP / pass->num_new, worth, pass->num_threads,
          [&](int64_t first, int64_t stop) { run_rows(*encoder, *pass, first, stop); });
  });
}

// The distributions (num_distributions, width) after contexts (num_distributions, dim).
int distributions_after(const Decoder *decoder, const float *contexts, int64_t num_distributions,
    double *distributions) noexcept {
  return guarded([&] {
    for (int64_t first = 0; first < num_distributions; first += GROUP)
      write_distributions(*decoder, contexts + first * decoder->to_mixture.in, std::min(GROUP,
          num_distributions - first),
                 distributions + first * decoder->width(), decoder->width());
  });
}

// A chain of events of every row.
int decode(const Encoder *encoder, const Decoder *decoder, const Pass *pass, const Chain *chain) noexcept {
  return guarded([&] {
    const int64_t entry = pass->is_bf16 ? sizeof(Bf16) : sizeof(float);
    const int64_t bytes_per_row = 2 * entry * encoder->num_layers * encoder->dim * pass->capacity;
    const int64_t group = std::min(MOST, std::max<int64_t>(FEWEST, NEAR / std::max<int64_t>(1, bytes_per_row)));
    share(pass->rows, group, pass->rows * chain->num * encoder->num_layers, pass->num_threads,
          [&](int64_t first, int64_t stop) { run_chain(*encoder, *decoder, *pass, *chain, first, stop); });
  });
}

// Event j of the chains of all rows, after contexts (rows, dim) from a pass of Python's (for the first event, the
// distribution is given). is_done: does one of the rows want no more?
int decode_next(const Decoder *decoder, const Chain *chain, const Newest *newest, const float *contexts,
    int64_t rows, int64_t j,
                int64_t num_threads, int64_t *is_done) noexcept {
  return guarded([&] {
    std::atomic<bool> is_any_done(false);
    share(rows, GROUP, rows, num_threads, [&](int64_t first, int64_t stop) {
      if (j) write_next(*decoder, *chain, contexts, j, first, stop);
      if (draw_next(*decoder, *chain, *newest, j, first, stop)) is_any_done = true;
    });
    *is_done = is_any_done;
  });
}

// Rounds of all rows. num_failed: the rows whose distributions turned out not to be densities.
int speculate(const Model *target, const Model *draft, const Rounds *rounds, int64_t *num_failed) noexcept {
  return guarded([&] { *num_failed = run_rounds(*target, *draft, *rounds); });
}

// Rounds of a target whose passes Python makes, between `propose` and `conclude`; to be freed by `end_rounds`.
int begin_rounds(const HeadPasses *target, const Model *draft, const Rounds *rounds, HeadRounds **begun) noexcept {
  return guarded([&] { *begun = new HeadRounds(*target, *draft, *rounds); });
}

// num_new: the number of tokens of every row in the pass that is to be made.
int propose(HeadRounds *rounds, int64_t *num_new) noexcept {
  return guarded([&] { *num_new = rounds->propose(); });
}

// With the contexts (rows, num_new, dim) of that pass. num_failed: the rows whose distributions are not densities; -1:
// all rows go on.
int conclude(HeadRounds *rounds, const float *contexts, int64_t *num_failed) noexcept {
  return guarded([&] { *num_failed = rounds->conclude(contexts); });
}

int end_rounds(HeadRounds *rounds) noexcept {
  return guarded([&] { delete rounds; });
}

// A draw from every distribution; elapsed, here and below: nullptr = no row has waited.
int draw_events(const Decoder *decoder, const Views *views, const double *distributions, const double *elapsed,
    const double *uniforms,
                double *inter_times, int64_t *marks) noexcept {
  return guarded([&] {
    for_each(*views, [&](int64_t i, int64_t distribution, int64_t silence, int64_t first, int64_t) {
      inter_times[i] = draw(*decoder, distributions + distribution, uniforms + first, marks + i, elapsed ?
          elapsed[silence] : 0);
    });
  });
}

// The log density of an event under every distribution.
int log_densities(const Decoder *decoder, const Views *views, const double *distributions, const double *elapsed,
                  const double *inter_times, const int64_t *marks, double *log_densities) noexcept {
  return guarded([&] {
    for_each(*views, [&](int64_t i, int64_t distribution, int64_t silence, int64_t first, int64_t second) {
      log_densities[i] = log_density(*decoder, distributions + distribution, inter_times[first], marks[second],
          elapsed ? elapsed[silence] : 0);
    });
  });
}

// Probabilities and integrated intensities of sets of marks (num_sets, num_marks), 0 or 1, up to ends (num, num_ends):
// (num, num_sets, num_ends) each, of distributions one behind another. elapsed (num,): nullptr = no row has waited.
int mark_integrals(const Decoder *decoder, const double *distributions, const double *elapsed, int64_t num,
    const double *ends, int64_t num_ends, const double *sets, int64_t num_sets, int64_t num_threads, double *p,
    double *hazard) noexcept {
  return guarded([&] {
    const int64_t size = num_sets * num_ends, width = decoder->width();
    const auto for_all = [&](auto integrate) {
      share(num, GROUP, num * TOKENS_OF_AN_INTEGRAL, num_threads, [&](int64_t first, int64_t stop) {
        for (int64_t i = first; i < stop; i++)
          integrate(distributions + i * width, elapsed ? elapsed[i] : 0, ends + i * num_ends, p + i * size, hazard +
              i * size);
      });
    };
    if (decoder->marks != TIME_CONDITIONAL)
      return for_all([&](auto distribution, double elapsed, auto ends, auto p, auto hazard) {
        integrate_times(*decoder, sets, num_sets, distribution, elapsed, ends, num_ends, p, hazard);
      });
    double latest = LOWEST_NODE;
    for (int64_t i = 0; i < num * num_ends; i++) latest = std::max(latest, standardised(*decoder, ends[i]));
    for (int64_t i = 0; elapsed && i < num; i++) latest = std::max(latest, standardised(*decoder, elapsed[i]));
    const MarksAtNodes marks(*decoder, cell_of(latest) + NODES_OF_A_CELL, sets, num_sets);
    for_all([&](auto distribution, double elapsed, auto ends, auto p, auto hazard) {
      integrate_marks(marks, distribution, elapsed, ends, num_ends, p, hazard);
    });
  });
}

}
