// SPDX-License-Identifier: GPL-3.0-or-later
#include "job_thread.h"

#include <QThread>
#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>

namespace lectern::ui {

namespace {

struct QueuedJob {
  std::shared_ptr<JobState> state;
  int priority = 0;
  std::function<void()> task;
};

}  // namespace

struct JobThread::Loop {
  std::mutex mutex;  // guards the four members below
  std::condition_variable wake;
  std::deque<QueuedJob> queue;
  std::shared_ptr<JobState> running;
  bool quitting = false;

  std::unique_ptr<QThread> thread;

  void run() {
    while (true) {
      QueuedJob job;
      {
        std::unique_lock lock(mutex);
        running.reset();
        wake.wait(lock, [this] { return quitting || !queue.empty(); });
        if (quitting) return;
        job = takeNext();
        running = job.state;
      }
      if (!job.state->abandoned) job.task();
    }
  }

  QueuedJob takeNext() {
    const auto next = std::max_element(queue.begin(), queue.end(), [](const QueuedJob& a, const QueuedJob& b) {
      return a.priority < b.priority;  // the first of equals wins, which keeps the order
    });
    QueuedJob job = std::move(*next);
    queue.erase(next);
    return job;
  }
};

void JobContext::post(std::function<void()> action) const { m_thread->deliver(m_state, std::move(action)); }

Job& Job::operator=(Job&& other) noexcept {
  if (this != &other) {
    abandon();
    m_state = std::move(other.m_state);
  }
  return *this;
}

void Job::requestStop() {
  if (m_state) m_state->stop.request_stop();
}

void Job::abandon() {
  if (!m_state) return;
  m_state->abandoned = true;
  m_state->stop.request_stop();
  m_state.reset();
}

JobThread::JobThread(const QString& name, QObject* parent) : QObject(parent), m_loop(std::make_unique<Loop>()) {
  m_loop->thread.reset(QThread::create([loop = m_loop.get()] { loop->run(); }));
  m_loop->thread->setObjectName(name);
  m_loop->thread->start();
}

JobThread::~JobThread() {
  {
    const std::lock_guard lock(m_loop->mutex);
    m_loop->quitting = true;
    for (QueuedJob& job : m_loop->queue) job.state->stop.request_stop();
    m_loop->queue.clear();
    if (m_loop->running) m_loop->running->stop.request_stop();
  }
  m_loop->wake.notify_all();
  m_loop->thread->wait();
}

void JobThread::enqueue(std::shared_ptr<JobState> state, int priority, std::function<void()> task) {
  {
    const std::lock_guard lock(m_loop->mutex);
    m_loop->queue.push_back({std::move(state), priority, std::move(task)});
  }
  m_loop->wake.notify_one();
}

void JobThread::deliver(const std::shared_ptr<JobState>& state, std::function<void()> action) {
  QMetaObject::invokeMethod(
      this,
      [state, action = std::move(action)] {
        if (!state->abandoned) action();
      },
      Qt::QueuedConnection);
}

}  // namespace lectern::ui
