// How failures reach Python. An exception must not leave a function that is called as a C function, nor the function of
// a thread: either would end the process.
#pragma once

#include <atomic>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <utility>

// What every exported function that can fail returns; library.py knows these numbers.
enum Status : int { DONE = 0, OUT_OF_MEMORY = 1, FAILED = 2 };

static thread_local char last_message[256] = "";  // why the latest call of this thread failed; needs no allocation

static int failed(Status status, const char *message) noexcept {
  std::snprintf(last_message, sizeof last_message, "%s", message);
  return status;
}

// Runs f() and turns whatever it throws into a status.
template <class F>
static int guarded(F f) noexcept {
  try {
    f();
    return DONE;
  } catch (const std::bad_alloc &) {
    return failed(OUT_OF_MEMORY, "an allocation failed");
  } catch (const std::length_error &) {  // more elements than a vector can have
    return failed(OUT_OF_MEMORY, "an allocation was larger than the address space");
  } catch (const std::exception &error) {
    return failed(FAILED, error.what());
  } catch (...) {
    return failed(FAILED, "an exception of an unknown type");
  }
}

// The first exception that any of several threads throws, kept for the thread that waits for all of them.
class FirstException {
 public:
  // Runs f() and keeps what it throws.
  template <class F>
  void catch_from(F f) noexcept {
    try {
      f();
    } catch (...) {
      if (!is_taken.exchange(true)) exception = std::current_exception();
    }
  }

  // Throws the exception that was kept, if there is one. All threads must have ended their work before.
  void rethrow() {
    if (!is_taken) return;
    is_taken = false;
    std::rethrow_exception(std::exchange(exception, nullptr));
  }

 private:
  std::atomic<bool> is_taken{false};
  std::exception_ptr exception;
};
