// Threads that share jobs which take less time than starting a thread does: between jobs they keep looking for the next
// one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

#include "failures.h"
#include "pool.h"

constexpr int64_t MOST_PARTS = 16;
constexpr int64_t PATIENCE = 1000;  // looks, after which a waiting thread lets other threads have the processor

template <class F>
static inline void wait_until(F is_so) {
  for (int64_t looks = 0; !is_so(); looks++) {
    if (looks >= PATIENCE) std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
}

// The number of threads of a team, at most num_threads: a thread that keeps looking for work needs a core.
static inline int64_t largest_team(int64_t num_threads) {
  return std::min({num_threads, MOST_PARTS, std::max<int64_t>(1, std::thread::hardware_concurrency())});
}

class Team {
 public:
  // With num_helpers threads beside the caller, or as many as the system allows.
  explicit Team(int64_t num_helpers) : helpers(num_helpers, [this] { help(); }) {}

  ~Team() {
    ticket.store(THE_END, std::memory_order_release);
    helpers.wait_for_end();
  }

  int64_t size() const { return std::min<int64_t>(MOST_PARTS, 1 + helpers.size()); }

  // Runs f(0), ..., f(num - 1), begun in this order: a part may wait for something in those before it. The caller runs
  // the parts that no helper has begun, so that it does not wait for helpers that the system has put to sleep. An
  // exception of a part is thrown here once all parts have ended.
  template <class F>
  void run(int64_t num, F f) {
    job = &f, call = [](void *job, int64_t part) { (*(F *)job)(part); };
    num_done.store(0, std::memory_order_relaxed);
    const uint64_t number = (ticket.load(std::memory_order_relaxed) >> 16) + 1;
    ticket.store(number << 16 | (uint64_t)num << 8, std::memory_order_release);
    while (take()) {
    }
    wait_until([&] { return num_done.load(std::memory_order_acquire) == num; });
    failure.rethrow();
  }

 private:
  static constexpr uint64_t THE_END = ~(uint64_t)0;
  // number of the job (48 bits), how many parts it has, how many are taken (8 bits each)
  std::atomic<uint64_t> ticket{0};
  std::atomic<int64_t> num_done{0};
  void *job = nullptr;                      // of the ticket, like `call`: the next job begins
  void (*call)(void *, int64_t) = nullptr;  // when all parts that were taken are done
  FirstException failure;                   // of the parts
  Helpers helpers;                          // the last: they begin with all else in place

  // Runs one part of the job, if one is left.
  bool take() {
    uint64_t now = ticket.load(std::memory_order_acquire);
    do {
      if ((now & 255) == (now >> 8 & 255)) return false;
    } while (!ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel, std::memory_order_acquire));
    failure.catch_from([&] { call(job, now & 255); });
    num_done.fetch_add(1, std::memory_order_release);
    return true;
  }

  void help() {
    while (ticket.load(std::memory_order_acquire) != THE_END)
      wait_until([&] { return take() || ticket.load(std::memory_order_acquire) == THE_END; });
  }
};
