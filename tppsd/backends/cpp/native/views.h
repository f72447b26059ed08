// What is done for every element of a batch whose operands are views.
#pragma once

#include <cstdint>
#include <vector>

struct Views {
  int64_t num_dims;
  const int64_t *sizes;                                      // (num_dims,)
  // (num_dims,): strides, 0 where an operand is the same for all
  const int64_t *of_distributions, *of_first, *of_second, *of_third;
};

// f(element, where its distribution and its operands are)
template <class F>
static void for_each(const Views &views, F f) {
  std::vector<int64_t> index(views.num_dims, 0);
  int64_t distribution = 0, first = 0, second = 0, third = 0, num = 1;
  for (int64_t d = 0; d < views.num_dims; d++) num *= views.sizes[d];
  for (int64_t i = 0; i < num; i++) {
    f(i, distribution, first, second, third);
    for (int64_t d = views.num_dims - 1; d >= 0; d--) {
      const bool is_last = ++index[d] == views.sizes[d];
      const int64_t steps = is_last ? 1 - index[d] : 1;
      distribution += steps * views.of_distributions[d], first += steps * views.of_first[d];
      second += steps * views.of_second[d], third += steps * views.of_third[d];
      if (!is_last) break;
      index[d] = 0;
    }
  }
}
