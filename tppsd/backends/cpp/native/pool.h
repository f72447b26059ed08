// Threads that are started once per process and wait, asleep, for work.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

// Of this library alone: two that are loaded would otherwise share the pool of the first.
namespace {

// A thread of the pool.
class Worker {
 public:
  // Begins a job, which must not throw; there must be none.
  void begin(std::function<void()> next) {
    const std::lock_guard<std::mutex> lock(mutex);
    job = std::move(next);
    changed.notify_all();
  }

  void wait_for_end() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return !job; });
  }

  [[noreturn]] void work() {
    for (std::unique_lock<std::mutex> lock(mutex);;) {
      changed.wait(lock, [this] { return bool(job); });
      lock.unlock();
      job();
      lock.lock();
      job = nullptr;
      changed.notify_all();
    }
  }

 private:
  std::mutex mutex;
  std::condition_variable changed;
  std::function<void()> job;
};

// The workers of this process that nobody uses. A process that was forked has none of the threads of its parent, and
// whoever held a lock at that moment does not let go of it there: it begins with a pool of its own. Pools are never
// destroyed, since their threads may outlive whatever would do that.
class Pool {
 public:
  static Pool &of_this_process() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { current() = new Pool; });
    (void)registered;
    return *current();
  }

  // A worker, started if there is none left. Throws where the system allows no more threads.
  Worker *take() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (idle.empty()) {
      idle.reserve(num_workers + 1);  // so that `give_back` needs no memory
      std::unique_ptr<Worker> worker(new Worker);
      std::thread([started = worker.get()] { started->work(); }).detach();
      num_workers++;
      return worker.release();
    }
    Worker *worker = idle.back();
    idle.pop_back();
    return worker;
  }

  void give_back(Worker *worker) {
    const std::lock_guard<std::mutex> lock(mutex);
    idle.push_back(worker);
  }

 private:
  static Pool *&current() {
    static Pool *pool = new Pool;
    return pool;
  }

  std::mutex mutex;
  std::vector<Worker *> idle;
  size_t num_workers = 0;  // idle or not
};

// Threads that run a job beside the caller until the end of this object's life, as many as the system allows.
class Helpers {
 public:
  // job: what each of them runs; it must not throw.
  Helpers(int64_t num, const std::function<void()> &job) : pool(Pool::of_this_process()) {
    workers.reserve(num);  // may throw, but before any thread runs
    try {
      for (int64_t i = 0; i < num; i++) {
        auto own = job;
        workers.push_back(pool.take());
        workers.back()->begin(std::move(own));
      }
    } catch (const std::exception &) {  // no more threads, or no memory for one
    }
  }
  Helpers(const Helpers &) = delete;

  ~Helpers() { wait_for_end(); }

  int64_t size() const { return workers.size(); }

  void wait_for_end() {
    for (Worker *worker : workers) worker->wait_for_end(), pool.give_back(worker);
    workers.clear();
  }

 private:
  Pool &pool;
  std::vector<Worker *> workers;
};

}  // namespace
