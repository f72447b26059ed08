// Probabilities and integrated intensities of sets of marks up to several ends: the rule of forecasting/integrals.py,
// which has the formulas, one distribution at a time.
#pragma once

#include <limits>
#include <vector>

#include "distributions.h"

constexpr double LOWEST_NODE = -6.0, SPACING = 1.0 / 6;  // of the nodes, in standardised log inter-times
constexpr double FEWEST_LEFT = 1e-30;  // P(X > elapsed), below which floats cannot tell what is left

// erfc(x) = exp(-x^2) t Q(t) for x >= 0 with t = 1 / (1 + 0.4 x); Q: minimax, relative error 1.3e-7.
static inline Vec scaled_erfc(Vec x) {
  const Vec t = 1.0f / (1.0f + 0.4f * x);
  Vec q = all(5.02626961e-2f);
  for (float c : {-1.82903597e-1f, 1.69088630e-1f, -5.61000644e-3f, 1.41432476e-1f, 1.68541743e-1f, 2.07842724e-1f,
                  2.25669597e-1f, 2.25675862e-1f}) q = q * t + c;
  return q * t;
}

// What a mixture has beyond points: P(X > x), E[X; X > x], E[X^2; X > x], and its density.
struct Beyond {
  float *x, *survival, *first, *second, *density;
};

// The components of a mixture as floats.
struct Components {
  std::vector<float> mean, inverse, weight, first, second, spread, spread_first, height;

  void read(const double *distribution, int64_t num) {
    for (auto *part : {&mean, &inverse, &weight, &first, &second, &spread, &spread_first, &height}) part->resize(num);
    for (int64_t m = 0; m < num; m++) {
      const double of_all = std::exp(distribution[m]), mu = distribution[num + m], std = std::exp(distribution[2 * num +
          m]);
      mean[m] = mu, inverse[m] = 0.70710678118654752440 / std;
      weight[m] = 0.5 * of_all, first[m] = 0.5 * of_all * mu, second[m] = 0.5 * of_all * (mu * mu + std * std);
      const double peak = of_all * 0.39894228040143267794;
      spread[m] = peak * std, spread_first[m] = peak * std * mu, height[m] = peak / std;
    }
  }

  // With d = (mu - x) / s of a component, E[X; X > x] = mu Phi(d) + s phi(d) and E[X^2; X > x] = (mu^2 + s^2) Phi(d) +
  // s (mu + x) phi(d).
  void look_beyond(const Beyond &points, int64_t num_points) const {
    for (int64_t i = 0; i < num_points; i += LANES) {
      const Vec x = load(points.x + i);
      Vec survival = {}, of_first = {}, of_second = {}, peaks = {}, peaks_first = {}, density = {};
      for (size_t m = 0; m < mean.size(); m++) {
        const Vec z = (x - mean[m]) * inverse[m], size = z < 0.0f ? -z : z;
        const Vec peak = exp2_(-LOG2_E * size * size), tail = peak * scaled_erfc(size);
        const Vec above = z < 0.0f ? 2.0f - tail : tail;
        survival += weight[m] * above, of_first += first[m] * above, of_second += second[m] * above;
        peaks += spread[m] * peak, peaks_first += spread_first[m] * peak, density += height[m] * peak;
      }
      store(points.survival + i, survival), store(points.first + i, of_first + peaks);
      store(points.second + i, of_second + peaks_first + x * peaks), store(points.density + i, density);
    }
  }

  // P(X < x), to the last digits also where it is small.
  double below(double x) const {
    double total = 0;
    for (size_t m = 0; m < mean.size(); m++) total += weight[m] * std::erfc((mean[m] - x) * inverse[m]);
    return total;
  }
};

// What p and Lambda gain between two points of one cell, by the moments of distance from the cell's beginning.
struct Gain {
  double mass, rise, arch, hazard, hazard_rise, hazard_arch;

  Gain(const Beyond &at, int64_t a, int64_t b, double left) {
    const auto log_left = [&](int64_t i) { return -std::log((double)std::max(at.survival[i], least())); };
    const auto rate = [&](int64_t i) { return at.density[i] / (double)std::max(at.survival[i], least()); };
    mass = (double)at.survival[a] - at.survival[b];
    const double first = (double)at.first[a] - at.first[b], second = (double)at.second[a] - at.second[b];
    rise = first - left * mass, arch = (2 * left + SPACING) * first - second - left * (left + SPACING) * mass;
    const double from = at.x[a] - left, to = at.x[b] - left, width = to - from;
    hazard = log_left(b) - log_left(a);
    // Lambda is the cubic that has these increments and slopes
    const double bow = 0.5 * width * hazard - width * width / 12 * (rate(a) - rate(b));
    hazard_rise = from * hazard + std::min(std::max(bow, 0.0), width * std::max(hazard, 0.0));
    const double even = width > 0 ? (SPACING * (to * to - from * from) / 2 - (to * to * to - from * from * from) / 3) /
        width : 0;
    hazard_arch = hazard * even;
  }

  static constexpr float least() { return std::numeric_limits<float>::min(); }
};

// Sets of marks, and what the mark decoder makes of the nodes, which is the same for all distributions.
struct MarksAtNodes {
  const Decoder &decoder;
  int64_t num_nodes, num_sets, stride;
  std::vector<float> members, hidden, logits;  // (num_sets, num_marks); (num_features, stride); (features, num_marks)

  MarksAtNodes(const Decoder &decoder, int64_t num_nodes, const double *sets, int64_t num_sets) : decoder(decoder),
      num_nodes(num_nodes), num_sets(num_sets), stride(num_nodes + 2 * LANES),
      members(sets, sets + num_sets * decoder.num_marks), hidden(decoder.num_features * stride),
      logits(decoder.logits, decoder.logits + decoder.num_features * decoder.num_marks) {
    const int64_t width = decoder.num_features;
    std::vector<double> of_time(width), mixed(width);
    for (int64_t j = 0; j < num_nodes; j++) {
      const double x = LOWEST_NODE + j * SPACING;
      for (int64_t i = 0; i < width; i++)
        of_time[i] = std::max(decoder.from_time[i] * x + decoder.from_time_bias[i], 0.0);
      std::fill(mixed.begin(), mixed.end(), 0.0);
      add_product(decoder.mix_time, of_time.data(), width, width, mixed.data());
      for (int64_t i = 0; i < width; i++) hidden[i * stride + j] = mixed[i];
    }
  }

  // f(A | x) at `num` nodes from `first` on: (num_sets, stride)
  void write_probs(const double *features, int64_t first, int64_t num, float *probs) const {
    const int64_t marks = decoder.num_marks;
    static thread_local std::vector<float> kept;
    kept.resize(marks * LANES);
    for (int64_t j = 0; j < num; j += LANES) {
      for (int64_t k = 0; k < marks; k++) store(&kept[k * LANES], all(decoder.logits_bias[k]));
      for (int64_t i = 0; i < decoder.num_features; i++) {
        const Vec x = relu(load(&hidden[i * stride + first + j]) + (float)features[i]);
        for (int64_t k = 0; k < marks; k++)
          store(&kept[k * LANES], load(&kept[k * LANES]) + logits[i * marks + k] * x);
      }
      Vec most = load(&kept[0]), total = {};
      for (int64_t k = 1; k < marks; k++) most = larger(most, load(&kept[k * LANES]));
      for (int64_t k = 0; k < marks; k++) {
        const Vec share = exp2_(LOG2_E * (load(&kept[k * LANES]) - most));
        store(&kept[k * LANES], share), total += share;
      }
      for (int64_t a = 0; a < num_sets; a++) {
        Vec of_set = {};
        for (int64_t k = 0; k < marks; k++) of_set += members[a * marks + k] * load(&kept[k * LANES]);
        store(probs + a * stride + j, of_set / total);
      }
    }
  }
};

// The standardised logarithm of an inter-time.
static inline double standardised(const Decoder &decoder, double inter_time) {
  return (log_of(inter_time) - decoder.log_mean) / decoder.log_std;
}

// The cell between nodes that a point lies in; those before all nodes count as in the first.
static inline int64_t cell_of(double x) { return x > LOWEST_NODE ? (int64_t)((x - LOWEST_NODE) / SPACING) : 0; }

constexpr int64_t NODES_OF_A_CELL = 3;  // both of its ends, and one more for the curvature there

// p and Lambda (num_sets, num_ends) of one distribution, of the time beyond `elapsed`. Where next to nothing is left:
// NaN.
static void integrate_marks(const MarksAtNodes &marks, const double *distribution, double elapsed, const double *ends,
    int64_t num_ends, double *p, double *hazard) {
  static thread_local Components mixture;
  static thread_local std::vector<float> kept;
  static thread_local std::vector<double> x, below;  // of the ends; below: P(X < x) of those before all nodes
  static thread_local std::vector<Gain> whole, parts;  // of the cells before the last; of the last one of every end
  const Decoder &decoder = marks.decoder;
  const int64_t num_sets = marks.num_sets;
  const double start = elapsed > 0 ? standardised(decoder, elapsed) : -INFINITY;
  double latest = std::max(start, LOWEST_NODE);
  x.resize(num_ends), below.resize(num_ends);
  for (int64_t e = 0; e < num_ends; e++) latest = std::max(latest, x[e] = standardised(decoder, ends[e]));
  const int64_t first_cell = cell_of(start), last_cell = cell_of(latest), first = std::max<int64_t>(0, first_cell - 1);
  const int64_t num = last_cell + NODES_OF_A_CELL - first, begin = num + num_ends;  // nodes; the point of the start
  const int64_t padded = (begin + LANES) / LANES * LANES;
  kept.assign(5 * padded + num_sets * marks.stride, 0);
  float *room = kept.data(), *probs = room + 5 * padded;
  const Beyond at{room, room + padded, room + 2 * padded, room + 3 * padded, room + 4 * padded};
  for (int64_t j = 0; j < num; j++) at.x[j] = LOWEST_NODE + (first + j) * SPACING;
  for (int64_t e = 0; e < num_ends; e++) at.x[num + e] = std::max(x[e], LOWEST_NODE);
  at.x[begin] = std::max(start, LOWEST_NODE);
  mixture.read(distribution, decoder.num_components);
  mixture.look_beyond(at, padded);
  marks.write_probs(distribution + 3 * decoder.num_components, first, num, probs);

  // to the left of the first node f is what it is there
  const double before = elapsed > 0 && start < LOWEST_NODE ? mixture.below(start) : 0;
  const double at_first = start < LOWEST_NODE ? mixture.below(LOWEST_NODE) : 0;
  const double left = start < LOWEST_NODE ? 1 - before : at.survival[begin];
  const auto gain = [&](int64_t cell, int64_t to) {
    return Gain(at, cell == first_cell ? begin : cell - first, to, LOWEST_NODE + cell * SPACING);
  };
  whole.clear(), parts.clear();
  for (int64_t cell = first_cell; cell < last_cell; cell++) whole.push_back(gain(cell, cell + 1 - first));
  for (int64_t e = 0; e < num_ends; e++) {
    parts.push_back(gain(std::max(cell_of(x[e]), first_cell), num + e));
    below[e] = ends[e] > elapsed && x[e] < LOWEST_NODE ? mixture.below(x[e]) : 0;
  }
  static thread_local std::vector<double> sums;  // of p and Lambda over the cells before each
  sums.resize(2 * (whole.size() + 1));
  for (int64_t a = 0; a < num_sets; a++) {
    const float *f = probs + a * marks.stride;
    const auto curvature = [&](int64_t j) {
      return j > 0 && j < num - 1 ? (f[j + 1] - f[j]) - (f[j] - f[j - 1]) : 0.0f;
    };
    const auto add = [&](int64_t cell, const Gain &gain, double *sum) {
      const int64_t j = cell - first;
      const double slope = (f[j + 1] - f[j]) / SPACING;
      const double bend = 0.25 * (curvature(j) + curvature(j + 1)) / (SPACING * SPACING);
      sum[0] += f[j] * gain.mass + slope * gain.rise - bend * gain.arch;
      sum[1] += f[j] * gain.hazard + slope * gain.hazard_rise - bend * gain.hazard_arch;
    };
    sums[0] = f[0] * (at_first - before), sums[1] = f[0] * (std::log1p(-before) - std::log1p(-at_first));
    for (size_t c = 0; c < whole.size(); c++) {
      double *next = &sums[2 * (c + 1)];
      next[0] = next[-2], next[1] = next[-1];
      add(first_cell + c, whole[c], next);
    }
    for (int64_t e = 0; e < num_ends; e++) {
      double found[2] = {0, 0};
      if (ends[e] > elapsed && x[e] >= LOWEST_NODE) {
        const double *until = &sums[2 * (cell_of(x[e]) - first_cell)];
        found[0] = until[0], found[1] = until[1];
        add(cell_of(x[e]), parts[e], found);
      } else if (ends[e] > elapsed) {
        found[0] = f[0] * (below[e] - before), found[1] = f[0] * (std::log1p(-before) - std::log1p(-below[e]));
      }
      p[a * num_ends + e] = left < FEWEST_LEFT ? NAN : found[0] / left;
      hazard[a * num_ends + e] = left < FEWEST_LEFT ? NAN : found[1];
    }
  }
}

// The same of a distribution whose marks, if it has any, do not depend on the inter-time: sets (num_sets, num_marks).
static void integrate_times(const Decoder &decoder, const double *sets, int64_t num_sets, const double *distribution,
    double elapsed, const double *ends, int64_t num_ends, double *p, double *hazard) {
  static thread_local Components mixture;
  static thread_local std::vector<float> kept;
  const int64_t padded = (num_ends + LANES) / LANES * LANES;
  kept.assign(5 * padded, 0);
  float *room = kept.data();
  const Beyond at{room, room + padded, room + 2 * padded, room + 3 * padded, room + 4 * padded};
  for (int64_t e = 0; e < num_ends; e++) at.x[e] = standardised(decoder, ends[e]);
  at.x[num_ends] = standardised(decoder, elapsed);
  mixture.read(distribution, decoder.num_components);
  mixture.look_beyond(at, padded);
  const double left = elapsed > 0 ? at.survival[num_ends] : 1;
  const double *log_probs = decoder.marks == UNMARKED ? nullptr : log_marks(decoder, distribution, 1);
  for (int64_t a = 0; a < num_sets; a++) {
    double of_set = log_probs ? 0 : sets[a];
    for (int64_t k = 0; log_probs && k < decoder.num_marks; k++)
      of_set += sets[a * decoder.num_marks + k] * std::exp(log_probs[k]);
    for (int64_t e = 0; e < num_ends; e++) {
      const double beyond = std::max(at.survival[e], Gain::least()) / left;
      const bool is_low = !(elapsed > 0) && beyond > 0.99;  // where 1 - P(X > x) would lose digits
      const double below = ends[e] <= elapsed ? 0 : is_low ? mixture.below(at.x[e]) : std::max(0.0, 1 - beyond);
      p[a * num_ends + e] = left < FEWEST_LEFT ? NAN : of_set * below;
      hazard[a * num_ends + e] = left < FEWEST_LEFT ? NAN : of_set * (is_low ? -std::log1p(-below) : below > 0 ?
          -std::log(beyond) : 0);
    }
  }
}
