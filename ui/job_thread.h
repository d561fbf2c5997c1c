// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QObject>
#include <QString>
#include <atomic>
#include <functional>
#include <memory>
#include <stop_token>
#include <utility>

namespace lectern::ui {

// Shared by a job's handle and its thread.
struct JobState {
  std::stop_source stop;
  std::atomic<bool> abandoned = false;
  bool delivered = false;  // touched on the owner's thread only
};

class JobThread;

// What a job may use while it runs: everything else comes in and goes out by value.
class JobContext {
 public:
  JobContext(JobThread* thread, std::shared_ptr<JobState> state) : m_thread(thread), m_state(std::move(state)) {}

  std::stop_token stop() const { return m_state->stop.get_token(); }

  // Calls `action` on the owner's thread; dropped when the job has been abandoned by then.
  void post(std::function<void()> action) const;

 private:
  JobThread* m_thread;
  std::shared_ptr<JobState> m_state;
};

// The ticket of one request. Destroying or replacing it abandons the request: work that has not begun never begins,
// running work is asked to stop, and a late answer is dropped.
class Job {
 public:
  Job() = default;
  explicit Job(std::shared_ptr<JobState> state) : m_state(std::move(state)) {}
  Job(Job&& other) noexcept = default;
  Job& operator=(Job&& other) noexcept;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job() { abandon(); }

  // Work ends early; what it answers then still arrives.
  void requestStop();
  void abandon();
  bool pending() const { return m_state && !m_state->delivered; }

 private:
  std::shared_ptr<JobState> m_state;
};

// One thread that runs jobs, higher priority first, otherwise in order. Belongs to the thread that made it, where
// answers arrive. The destructor stops and drops everything and joins.
class JobThread : public QObject {
 public:
  explicit JobThread(const QString& name, QObject* parent = nullptr);
  ~JobThread() override;

  // `work(const JobContext&)` runs on the job thread and returns a value; `done(value)` runs on the owner's thread.
  template <class Work, class Done>
  [[nodiscard]] Job submit(Work work, Done done, int priority = 0) {
    auto state = std::make_shared<JobState>();
    enqueue(state, priority, [this, state, work = std::move(work), done = std::move(done)]() mutable {
      const JobContext context(this, state);
      auto answer = std::make_shared<decltype(work(context))>(work(context));
      deliver(state, [state, answer, done = std::move(done)]() mutable {
        state->delivered = true;
        done(std::move(*answer));
      });
    });
    return Job(std::move(state));
  }

 private:
  friend class JobContext;
  void enqueue(std::shared_ptr<JobState> state, int priority, std::function<void()> task);
  void deliver(const std::shared_ptr<JobState>& state, std::function<void()> action);

  struct Loop;
  std::unique_ptr<Loop> m_loop;
};

}  // namespace lectern::ui
