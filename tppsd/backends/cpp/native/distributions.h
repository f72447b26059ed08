// The distributions of contexts, their draws and densities: the arithmetic of decoder.py, mixture.py and
// distribution.py, in float64.
#pragma once

#include <limits>
#include <vector>

#include "matrices.h"
#include "normal.h"

enum Marks : int64_t { UNMARKED, INDEPENDENT, TIME_CONDITIONAL };

struct Decoder {
  int64_t marks, num_components, num_features, num_marks;
  Linear to_mixture, from_context, to_logits;  // to_logits: of INDEPENDENT
  double least_log_std, largest_log_std, log_mean, log_std;
  // of TIME_CONDITIONAL: (num_features,) twice; (num_features, num_features), (num_features, num_marks) by inputs;
  // (num_marks,)
  const double *from_time, *from_time_bias, *mix_time, *logits, *logits_bias;

  int64_t width() const { return 3 * num_components + num_features; }
};

// distribution (3 components + features): log weights, means, log standard deviations, and what the mark decoder makes
// of the context.
static void write_distribution(const Decoder &decoder, const float *parameters, const float *features,
    double *distribution) {
  const int64_t num = decoder.num_components;
  double largest = parameters[0], total = 0;
  for (int64_t m = 1; m < num; m++) largest = std::max<double>(largest, parameters[m]);
  for (int64_t m = 0; m < num; m++) total += std::exp(parameters[m] - largest);
  const double log_total = largest + std::log(total);
  for (int64_t m = 0; m < num; m++) {
    distribution[m] = parameters[m] - log_total;
    distribution[num + m] = parameters[num + m];
    distribution[2 * num + m] = std::min(std::max<double>(parameters[2 * num + m], decoder.least_log_std),
        decoder.largest_log_std);
  }
  for (int64_t i = 0; i < decoder.num_features; i++) distribution[3 * num + i] = features[i];
}

// The distributions of contexts (num, dim), each `stride` numbers behind the one before.
static void write_distributions(const Decoder &decoder, const float *contexts, int64_t num, double *distributions,
    int64_t stride) {
  const int64_t dim = decoder.to_mixture.in, wide = decoder.to_mixture.out;
  const Linear &last = decoder.marks == INDEPENDENT ? decoder.to_logits : decoder.from_context;
  float *parameters = room<1>(num * (wide + dim + last.out)), *hidden = parameters + num * wide, *features =
      hidden + num * dim;
  linear(decoder.to_mixture, contexts, parameters, num);
  if (decoder.marks == TIME_CONDITIONAL) linear(last, contexts, features, num);
  if (decoder.marks == INDEPENDENT) {
    linear(decoder.from_context, contexts, hidden, num);
    map(hidden, num * dim, [&](int64_t i) { return relu(load(hidden + i)); });
    linear(last, hidden, features, num);
  }
  for (int64_t i = 0; i < num; i++) write_distribution(decoder, parameters + i * wide, features + i * last.out,
      distributions + i * stride);
}

// y (out) += W^T x: W (in, out)
static void add_product(const double *weight, const double *x, int64_t in, int64_t out, double *y) {
  for (int64_t i = 0; i < in; i++)
    for (int64_t o = 0; o < out; o++) y[o] += x[i] * weight[i * out + o];
}

constexpr double LOG_SQRT_2PI = 0.91893853320467274178, TINY = std::numeric_limits<double>::min();
constexpr double LARGEST_LOG_TAU = 700;  // beyond, exp is 0 or inf

static double log_sum_exp(const double *x, int64_t num) {
  double largest = x[0], total = 0;
  for (int64_t i = 1; i < num; i++) largest = std::max(largest, x[i]);
  if (std::isinf(largest)) return largest;
  for (int64_t i = 0; i < num; i++) total += std::exp(x[i] - largest);
  return largest + std::log(total);
}

static double log_of(double inter_time) { return std::log(std::max(inter_time, TINY)); }

// log f(. | h, tau), in what is kept until the next call
static double *log_marks(const Decoder &decoder, const double *distribution, double inter_time) {
  static thread_local std::vector<double> kept;
  const int64_t num = decoder.num_marks, width = decoder.num_features;
  kept.resize(num + 2 * width);
  double *logits = kept.data(), *of_time = logits + num, *hidden = of_time + width;
  const double *features = distribution + 3 * decoder.num_components, x =
      (log_of(inter_time) - decoder.log_mean) / decoder.log_std;
  if (decoder.marks == INDEPENDENT) {
    std::copy(features, features + num, logits);
  } else {
    for (int64_t i = 0; i < width; i++) of_time[i] = std::max(decoder.from_time[i] * x + decoder.from_time_bias[i],
        0.0);
    std::copy(features, features + width, hidden);
    add_product(decoder.mix_time, of_time, width, width, hidden);
    for (int64_t i = 0; i < width; i++) hidden[i] = std::max(hidden[i], 0.0);
    std::copy(decoder.logits_bias, decoder.logits_bias + num, logits);
    add_product(decoder.logits, hidden, width, num, logits);
  }
  const double total = log_sum_exp(logits, num);
  for (int64_t k = 0; k < num; k++) logits[k] -= total;
  return logits;
}

// The first of `num` whose cumulative probability reaches a uniform share of the whole.
static int64_t pick(const double *log_probs, int64_t num, double uniform) {
  static thread_local std::vector<double> cumulative;
  cumulative.resize(num);
  double total = 0;
  for (int64_t i = 0; i < num; i++) cumulative[i] = total += std::exp(log_probs[i]);
  int64_t picked = 0;
  while (picked < num - 1 && cumulative[picked] < uniform * total) picked++;
  return picked;
}

// Of what components keep beyond a silence: the logarithms, and normalised what they make of the weights; in what is
// kept until the next call. Returns log S(elapsed).
static double log_kept(const Decoder &decoder, const double *distribution, double elapsed, double **kept,
    double **log_weights) {
  static thread_local std::vector<double> room;
  const int64_t num = decoder.num_components;
  const double x = (std::log(elapsed) - decoder.log_mean) / decoder.log_std;
  room.resize(2 * num);
  *kept = room.data(), *log_weights = *kept + num;
  for (int64_t m = 0; m < num; m++) {
    (*kept)[m] = log_normal_cdf((distribution[num + m] - x) * std::exp(-distribution[2 * num + m]));
    (*log_weights)[m] = distribution[m] + (*kept)[m];
  }
  const double total = log_sum_exp(*log_weights, num);
  for (int64_t m = 0; m < num; m++) (*log_weights)[m] -= total;
  return std::min(total, 0.0);
}

// An inter-time beyond a silence and its mark, from three uniforms.
static double draw(const Decoder &decoder, const double *distribution, const double *uniforms, int64_t *mark,
    double elapsed) {
  const int64_t num = decoder.num_components;
  double *kept, *log_weights;
  if (elapsed > 0) log_kept(decoder, distribution, elapsed, &kept, &log_weights);
  const int64_t component = pick(elapsed > 0 ? log_weights : distribution, num, uniforms[0]);
  const double z = elapsed > 0 ?
      normal_quantile_of_log(std::log(uniforms[1]) + kept[component]) : normal_quantile(uniforms[1]);
  const double x = distribution[num + component] + std::exp(distribution[2 * num + component]) * -z;
  const double log_tau = x * decoder.log_std + decoder.log_mean;
  double inter_time = std::exp(std::min(std::max(log_tau, -LARGEST_LOG_TAU), LARGEST_LOG_TAU));
  if (elapsed > 0) inter_time = std::max(inter_time, std::nextafter(elapsed, 2 * elapsed + 1));
  *mark = decoder.marks == UNMARKED ? 0 : pick(log_marks(decoder, distribution, inter_time), decoder.num_marks,
      uniforms[2]);
  return inter_time;
}

// Of an event, given a silence.
static double log_density(const Decoder &decoder, const double *distribution, double inter_time, int64_t mark,
    double elapsed) {
  if (!(inter_time > elapsed)) return inter_time <= elapsed ? -INFINITY : inter_time;
  static thread_local std::vector<double> exponents;
  const int64_t num = decoder.num_components;
  const double log_tau = log_of(inter_time), x = (log_tau - decoder.log_mean) / decoder.log_std, *log_stds =
      distribution + 2 * num;
  exponents.resize(num);
  for (int64_t m = 0; m < num; m++) {
    const double z = (x - distribution[num + m]) * std::exp(-log_stds[m]);
    exponents[m] = distribution[m] - log_stds[m] - 0.5 * z * z;
  }
  double log_time = log_sum_exp(exponents.data(), num) - (log_tau + LOG_SQRT_2PI + std::log(decoder.log_std));
  double *kept, *log_weights;
  if (elapsed > 0) log_time -= log_kept(decoder, distribution, elapsed, &kept, &log_weights);
  return decoder.marks == UNMARKED ? log_time : log_time + log_marks(decoder, distribution, inter_time)[mark];
}
