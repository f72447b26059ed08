// The standard normal's quantiles, its distribution function and the inverse of that, both in logarithms.
#pragma once

#include <cmath>

// Numerators and denominators, from the highest power down.
template <int N>
static inline double ratio(const double (&numerator)[N], const double (&denominator)[N], double x) {
  double above = 0, below = 0;
  for (int i = 0; i < N; i++) above = above * x + numerator[i], below = below * x + denominator[i];
  return above / below;
}

// z with Phi(z) = p for p in (0, 1), relative error 1e-16 (Wichura, Applied Statistics 37, 1988, AS 241, PPND16).
static double normal_quantile(double p) {
  const double q = p - 0.5;
  if (std::abs(q) <= 0.425)
    return q * ratio({2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
        4.5921953931549871457e4,
                      1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080},
                     {5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
                         2.1213794301586595867e4,
                      5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0},
                     0.180625 - q * q);
  const double r = std::sqrt(-std::log(q < 0 ? p : 1.0 - p));
  const double z = r <= 5.0
    ? ratio({7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258,
             3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734},
            {1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
             6.89767334985100004550e-1, 1.67638483018380384940, 2.05319162663775882187, 1.0},
            r - 1.6)
    : ratio({2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
             2.96560571828504891230e-1, 1.78482653991729133580, 5.46378491116411436990, 6.65790464350110377720},
            {2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
                7.86869131145613259100e-4,
             1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0},
            r - 5.0);
  return q < 0 ? -z : z;
}

// log Phi(z), to the last digits also where Phi(z) underflows.
static double log_normal_cdf(double z) {
  if (z > -1) return std::log1p(-0.5 * std::erfc(z * 0.70710678118654752440));
  if (z > -25) return std::log(0.5 * std::erfc(-z * 0.70710678118654752440));
  double series = 0;  // asymptotic: the first term left out is below 1e-17
  for (int i = 13; i > 0; i -= 2) series = -i / (z * z) * (1 + series);
  return -0.5 * z * z - std::log(-z) - 0.91893853320467274178 + std::log1p(series);
}

// z with log Phi(z) = y
static double normal_quantile_of_log(double y) {
  if (y >= -10) return normal_quantile(std::exp(y));
  double z = -std::sqrt(-2 * y - std::log(-2 * y) - 1.83787706640934548356);
  for (int i = 0; i < 6; i++) {  // Newton on the concave log Phi: quadratic, and the start is within 2 %
    const double log_cdf = log_normal_cdf(z);
    z -= (log_cdf - y) * std::exp(log_cdf + 0.5 * z * z + 0.91893853320467274178);
  }
  return z;
}
