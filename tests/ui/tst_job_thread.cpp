// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <QTest>
#include <QThread>
#include <atomic>
#include <vector>

#include "ui/job_thread.h"

namespace lectern::ui {
namespace {

// Keeps the thread busy until it is opened.
struct Gate {
  std::atomic<bool> open = false;
  std::atomic<bool> entered = false;

  int pass(std::stop_token stop) {
    entered = true;
    while (!open && !stop.stop_requested()) QThread::msleep(1);
    return 0;
  }
  Job close(JobThread& thread) {
    Job job = thread.submit([this](const JobContext& context) { return pass(context.stop()); }, [](int) {});
    while (!entered) QThread::msleep(1);
    return job;
  }
};

TEST(JobThread, WorksElsewhereAndAnswersHere) {
  JobThread thread(QStringLiteral("test"));
  QThread* worked = nullptr;
  QThread* answered = nullptr;
  const Job job = thread.submit([](const JobContext&) { return QThread::currentThread(); },
                                [&](QThread* where) {
                                  worked = where;
                                  answered = QThread::currentThread();
                                });
  EXPECT_TRUE(job.pending());
  ASSERT_TRUE(QTest::qWaitFor([&] { return answered != nullptr; }));
  EXPECT_NE(worked, QThread::currentThread());
  EXPECT_EQ(answered, QThread::currentThread());
  EXPECT_FALSE(job.pending());
}

TEST(JobThread, HigherPriorityFirstOtherwiseInOrder) {
  JobThread thread(QStringLiteral("test"));
  Gate gate;
  const Job first = gate.close(thread);
  std::vector<int> order;
  std::vector<Job> jobs;
  for (const auto& [value, priority] : {std::pair(1, 0), std::pair(2, 0), std::pair(3, 5)}) {
    jobs.push_back(thread.submit([value = value](const JobContext&) { return value; },
                                 [&](int answer) { order.push_back(answer); }, priority));
  }
  gate.open = true;
  ASSERT_TRUE(QTest::qWaitFor([&] { return order.size() == 3; }));
  EXPECT_EQ(order, (std::vector<int>{3, 1, 2}));
}

TEST(JobThread, AbandonedJobsNeverAnswer) {
  JobThread thread(QStringLiteral("test"));
  Gate gate;
  const Job first = gate.close(thread);
  bool began = false;
  bool answered = false;
  {
    const Job waiting = thread.submit(
        [&](const JobContext&) {
          began = true;
          return 0;
        },
        [&](int) { answered = true; });
  }
  bool late = false;
  Job running = thread.submit([](const JobContext&) { return 1; }, [&](int) { late = true; });
  gate.open = true;
  QTest::qSleep(50);  // the answer is now waiting in the event queue
  running.abandon();
  QTest::qWait(20);
  EXPECT_FALSE(began);
  EXPECT_FALSE(answered);
  EXPECT_FALSE(late);
}

TEST(JobThread, StoppedJobsStillAnswer) {
  JobThread thread(QStringLiteral("test"));
  Gate gate;
  bool answered = false;
  Job job = thread.submit([&](const JobContext& context) { return gate.pass(context.stop()); },
                          [&](int) { answered = true; });
  job.requestStop();
  EXPECT_TRUE(QTest::qWaitFor([&] { return answered; }));
}

TEST(JobThread, DestructorStopsAndJoins) {
  Gate gate;
  bool answered = false;
  Job running;
  Job waiting;
  {
    JobThread thread(QStringLiteral("test"));
    running = gate.close(thread);
    waiting = thread.submit([](const JobContext&) { return 0; }, [&](int) { answered = true; });
  }
  QTest::qWait(20);
  EXPECT_FALSE(answered);
}

TEST(JobThread, ProgressArrivesBeforeTheAnswer) {
  JobThread thread(QStringLiteral("test"));
  std::vector<int> seen;
  const Job job = thread.submit(
      [&](const JobContext& context) {
        for (int i = 0; i < 3; ++i) context.post([&seen, i] { seen.push_back(i); });
        return 99;
      },
      [&](int last) { seen.push_back(last); });
  ASSERT_TRUE(QTest::qWaitFor([&] { return seen.size() == 4; }));
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 99}));
}

}  // namespace
}  // namespace lectern::ui
