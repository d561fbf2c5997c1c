// SPDX-License-Identifier: GPL-3.0-or-later
#include "support/cuda_emulation/execution.h"

#include <algorithm>
#include <array>
#include <bit>
#include <boost/context/detail/fcontext.hpp>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "support/cuda_emulation/collectives.h"
#include "support/cuda_emulation/stack.h"
#include "support/cuda_emulation/warp_state.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

constinit thread_local uint3 threadIdx = {0, 0, 0};
constinit thread_local uint3 blockIdx = {0, 0, 0};
constinit thread_local dim3 blockDim;
constinit thread_local dim3 gridDim;

namespace lectern::engine::cuda::emulation {

constinit thread_local Lane running_lane;

namespace {

namespace context = boost::context::detail;

constexpr std::uint64_t kBlocksOfAnOrder = 16;  // shuffling lanes takes longer than many a block
constexpr std::size_t kSharedGuard = 256;
constexpr unsigned char kSharedGuardByte = 0xa5;

struct Orders {
  ThreadOrder kind = ThreadOrder::kForward;
  std::uint32_t seed = 1;
};
std::mutex orders_mutex;
Orders orders;

bool differ(const char* a, const char* b) { return a != b && std::strcmp(a, b) != 0; }

std::string text(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

std::string text(const Place& place) {
  const std::string path = place.file_name();
  return path.substr(path.find_last_of('/') + 1) + ":" + std::to_string(place.line());
}

enum class Waiting : std::uint8_t { kNot, kAtCollective, kAtBarrier, kEnded };

struct Copy {
  void* to;
  const void* from;
  bool valid;
  int group;
};

}  // namespace

struct Fiber {
  context::fcontext_t at = nullptr;
  void* fake_stack = nullptr;  // of the address sanitizer
  uint3 index = {0, 0, 0};
  Waiting waiting = Waiting::kNot;
  Lane lane;
  std::vector<Copy> copies;
  int committed = 0;
  std::unique_ptr<Stack> stack;
};

namespace {

class Runner;
constinit thread_local Runner* active = nullptr;

// What one host thread needs for its grids.
class Runner {
 public:
  void run(const Shape& shape, const std::function<void()>& body);

  Fiber& current() { return *running_; }
  // Lets others run until the current thread gets its turn again.
  void suspend() { switch_to(next_of(*running_->lane.warp)); }
  unsigned char* shared() { return shared_begin_; }
  void arrive_at_barrier(const char* name, int argument, const Place& place);
  BarrierCounts barrier_counts() const { return counts_[barriers_ & 1U]; }
  [[noreturn]] void fail(const std::string& message) const {
    throw Fault(message + " in block " + text(blockIdx) + ", thread " + text(running_->index));
  }

 private:
  static void enter(context::transfer_t from);
  void live();  // of a fiber: one thread after another
  void switch_to(Fiber* to);
  void arrived(context::transfer_t from);
  Fiber* next_of(Warp& warp);

  void prepare_threads(const dim3& threads);
  void prepare_shared(std::size_t bytes);
  void check_shared() const;
  void start_block();
  void run_block();
  void run_warp(Warp& warp);
  void release_barrier();
  void set_lane_order();
  void set_warp_order();
  [[noreturn]] void report_deadlock();
  void abandon_fibers();

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  std::vector<std::size_t> warp_order_;
  dim3 prepared_threads_ = {0, 0, 0};
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr error_;

  Fiber* running_ = nullptr;  // null: the host
  Fiber host_;
  Fiber* left_ = nullptr;  // who made the last switch
  const void* host_stack_ = nullptr;
  std::size_t host_stack_bytes_ = 0;

  std::vector<unsigned char> shared_memory_;
  unsigned char* shared_begin_ = nullptr;
  std::size_t shared_bytes_ = 0;

  int threads_ = 0;
  int ended_ = 0;
  int at_barrier_ = 0;
  unsigned barriers_ = 0;
  const char* barrier_name_ = nullptr;
  Place barrier_place_;
  std::array<BarrierCounts, 2> counts_;

  Orders order_;
  std::minstd_rand random_;
};

// --- switching ------------------------------------------------------------------------------------------------------

void Runner::enter(context::transfer_t from) {
  Runner& runner = *active;
  runner.arrived(from);
  runner.live();
}

void Runner::live() {
  for (;;) {
    Fiber& self = *running_;
    try {
      (*body_)();
    } catch (...) {
      error_ = std::current_exception();
      switch_to(nullptr);
    }
    self.waiting = Waiting::kEnded;
    ++self.lane.warp->ended;
    ++ended_;
    switch_to(next_of(*self.lane.warp));
  }
}

Fiber* Runner::next_of(Warp& warp) {
  if (warp.ready == 0) return nullptr;
  const int position = std::countr_zero(warp.ready);
  warp.ready &= warp.ready - 1;
  return warp.by_position[static_cast<std::size_t>(position)];
}

void Runner::switch_to(Fiber* to) {
  if (to == running_) return;
  Fiber& self = running_ != nullptr ? *running_ : host_;
  left_ = &self;
  running_ = to;
  Fiber& target = to != nullptr ? *to : host_;
  if (to != nullptr) {
    threadIdx = to->index;
    running_lane = to->lane;
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&self.fake_stack, to != nullptr ? to->stack->bottom() : host_stack_,
                                 to != nullptr ? kStackBytes : host_stack_bytes_);
#endif
  arrived(context::jump_fcontext(target.at, nullptr));
}

void Runner::arrived(context::transfer_t from) {
  left_->at = from.fctx;
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber((running_ != nullptr ? *running_ : host_).fake_stack, &bottom, &bytes);
  if (left_ == &host_) {
    host_stack_ = bottom;
    host_stack_bytes_ = bytes;
  }
#endif
}

// --- blocks ---------------------------------------------------------------------------------------------------------

void Runner::prepare_threads(const dim3& threads) {
  threads_ = static_cast<int>(threads.x * threads.y * threads.z);
  const auto count = static_cast<std::size_t>(threads_);
  while (fibers_.size() < count) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = std::make_unique<Stack>();
    fibers_.push_back(std::move(fiber));
  }
  for (std::size_t i = 0; i < count; ++i) {
    Fiber& fiber = *fibers_[i];
    if (fiber.at != nullptr) continue;
    // Tops at the same offset in their pages would all compete for the same lines of the cache.
    unsigned char* top = fiber.stack->top() - i % 32 * 128;
    fiber.at = context::make_fcontext(top, static_cast<std::size_t>(top - fiber.stack->bottom()), &Runner::enter);
  }
  const dim3& before = prepared_threads_;
  if (before.x == threads.x && before.y == threads.y && before.z == threads.z) return;
  prepared_threads_ = threads;
  warps_.assign((count + 31) / 32, Warp());
  warp_order_.resize(warps_.size());
  for (std::size_t i = 0; i < count; ++i) {
    Fiber& fiber = *fibers_[i];
    const auto at = static_cast<unsigned>(i);
    fiber.index = {at % threads.x, at / threads.x % threads.y, at / threads.x / threads.y};
    Warp& warp = warps_[i / 32];
    fiber.lane = {&warp, static_cast<unsigned>(i % 32)};
    warp.lanes[i % 32] = &fiber;
    warp.size = static_cast<int>(i % 32) + 1;
  }
}

void Runner::prepare_shared(std::size_t bytes) {
  shared_bytes_ = bytes;
  if (shared_memory_.size() < bytes + 2 * kSharedGuard) shared_memory_.resize(bytes + 2 * kSharedGuard);
  void* begin = shared_memory_.data();
  std::size_t space = shared_memory_.size();
  shared_begin_ = static_cast<unsigned char*>(std::align(128, bytes + kSharedGuard, begin, space));
}

void Runner::check_shared() const {
  const unsigned char* guard = shared_begin_ + shared_bytes_;
  const unsigned char* hit = std::find_if(guard, guard + kSharedGuard, [](auto b) { return b != kSharedGuardByte; });
  if (hit == guard + kSharedGuard) return;
  throw Fault("Block " + text(blockIdx) + " wrote " + std::to_string(hit - guard) + " bytes behind its " +
              std::to_string(shared_bytes_) + " bytes of dynamic shared memory");
}

void Runner::set_lane_order() {
  for (Warp& warp : warps_) {
    const auto begin = warp.by_position.begin();
    std::copy(warp.lanes.begin(), warp.lanes.begin() + warp.size, begin);
    if (order_.kind == ThreadOrder::kReverse) std::reverse(begin, begin + warp.size);
    if (order_.kind == ThreadOrder::kShuffled) std::shuffle(begin, begin + warp.size, random_);
  }
}

void Runner::set_warp_order() {
  std::iota(warp_order_.begin(), warp_order_.end(), std::size_t{0});
  if (order_.kind == ThreadOrder::kReverse) std::reverse(warp_order_.begin(), warp_order_.end());
  if (order_.kind == ThreadOrder::kShuffled) std::shuffle(warp_order_.begin(), warp_order_.end(), random_);
}

void Runner::start_block() {
  std::memset(shared_begin_, 0xff, shared_bytes_);
  std::memset(shared_begin_ + shared_bytes_, kSharedGuardByte, kSharedGuard);
  ended_ = 0;
  at_barrier_ = 0;
  counts_ = {};
  for (Warp& warp : warps_) {
    warp.ready = warp.everyone();
    warp.arrived = 0;
    warp.ended = 0;
  }
  for (int i = 0; i < threads_; ++i) {
    Fiber& fiber = *fibers_[static_cast<std::size_t>(i)];
    fiber.waiting = Waiting::kNot;
    fiber.copies.clear();
    fiber.committed = 0;
  }
}

void Runner::run_warp(Warp& warp) {
  Fiber* first = next_of(warp);
  if (first == nullptr) return;
  switch_to(first);
  if (error_) std::rethrow_exception(error_);
  if (warp.arrived > 0) report_deadlock();
}

void Runner::run_block() {
  start_block();
  while (ended_ < threads_) {
    set_warp_order();
    for (const std::size_t index : warp_order_) run_warp(warps_[index]);
    if (ended_ == threads_) break;
    if (at_barrier_ < threads_) report_deadlock();
    release_barrier();
  }
  check_shared();
}

void Runner::release_barrier() {
  ++barriers_;
  counts_[(barriers_ + 1) & 1U] = {};
  at_barrier_ = 0;
  for (Warp& warp : warps_) {
    warp.ready = warp.everyone();
    for (int i = 0; i < warp.size; ++i) warp.lanes[static_cast<std::size_t>(i)]->waiting = Waiting::kNot;
  }
}

void Runner::arrive_at_barrier(const char* name, int argument, const Place& place) {
  Fiber& self = *running_;
  if (at_barrier_ == 0) {
    barrier_name_ = name;
    barrier_place_ = place;
  } else if (barrier_place_.line() != place.line() || differ(barrier_name_, name)) {
    fail(std::string(name) + " at " + text(place) + " while others wait at " + barrier_name_ + " at " +
         text(barrier_place_));
  }
  ++at_barrier_;
  BarrierCounts& counts = counts_[(barriers_ + 1) & 1U];
  ++counts.threads;
  counts.nonzero += argument != 0 ? 1 : 0;
  self.waiting = Waiting::kAtBarrier;
  suspend();
}

void Runner::report_deadlock() {
  std::string message = "Deadlock in block " + text(blockIdx) + ":";
  for (const Waiting kind : {Waiting::kAtCollective, Waiting::kAtBarrier, Waiting::kEnded}) {
    int count = 0;
    const Fiber* first = nullptr;
    for (int i = 0; i < threads_; ++i) {
      const Fiber& fiber = *fibers_[static_cast<std::size_t>(i)];
      if (fiber.waiting != kind) continue;
      ++count;
      if (first == nullptr) first = &fiber;
    }
    if (count == 0) continue;
    message += " " + std::to_string(count) + " threads, of which the first is " + text(first->index) + ", ";
    if (kind == Waiting::kAtCollective) {
      message += std::string("wait at ") + first->lane.warp->name + " at " + text(first->lane.warp->place) + ";";
    } else if (kind == Waiting::kAtBarrier) {
      message += std::string("wait at ") + barrier_name_ + " at " + text(barrier_place_) + ";";
    } else {
      message += "have ended;";
    }
  }
  message.back() = '.';
  throw Fault(message);
}

// Their stacks hold frames that nobody will return to.
void Runner::abandon_fibers() {
  for (auto& fiber : fibers_) {
    fiber->at = nullptr;
    fiber->fake_stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber->stack->bottom(), kStackBytes);
#endif
  }
  error_ = nullptr;
}

void Runner::run(const Shape& shape, const std::function<void()>& body) {
  body_ = &body;
  {
    const std::lock_guard lock(orders_mutex);
    order_ = orders;
    if (orders.kind == ThreadOrder::kShuffled) random_.seed(orders.seed++);
  }
  prepare_threads(shape.threads);
  prepare_shared(shape.shared_bytes);
  blockDim = shape.threads;
  gridDim = shape.blocks;
  const std::uint64_t count = std::uint64_t{shape.blocks.x} * shape.blocks.y * shape.blocks.z;
  std::vector<std::uint64_t> shuffled(order_.kind == ThreadOrder::kShuffled ? count : 0);
  std::iota(shuffled.begin(), shuffled.end(), std::uint64_t{0});
  std::shuffle(shuffled.begin(), shuffled.end(), random_);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t at = !shuffled.empty() ? shuffled[i] : order_.kind == ThreadOrder::kReverse ? count - 1 - i : i;
    blockIdx = {static_cast<unsigned>(at % shape.blocks.x), static_cast<unsigned>(at / shape.blocks.x % shape.blocks.y),
                static_cast<unsigned>(at / shape.blocks.x / shape.blocks.y)};
    if (i % kBlocksOfAnOrder == 0) set_lane_order();
    try {
      run_block();
    } catch (...) {
      abandon_fibers();
      throw;
    }
  }
}

}  // namespace

void set_thread_order(ThreadOrder order, std::uint32_t seed) {
  const std::lock_guard lock(orders_mutex);
  orders = {order, seed};
}

void execute(const Shape& shape, const std::function<void()>& body) {
  thread_local Runner runner;
  if (active != nullptr) throw Fault("A kernel was launched from within a kernel");
  active = &runner;
  try {
    runner.run(shape, body);
  } catch (...) {
    active = nullptr;
    throw;
  }
  active = nullptr;
}

// --- collectives ----------------------------------------------------------------------------------------------------

Warp& meet(const char* name, unsigned mask, const Place& place, void (*resolve)(Warp&), void* operands) {
  Warp& warp = *running_lane.warp;
  if ((mask & warp.everyone()) != warp.everyone()) {
    active->fail(std::string(name) + " at " + text(place) + " has a mask without some lanes, which is not emulated,");
  }
  if (warp.arrived == 0) {
    warp.name = name;
    warp.place = place;
  } else if (warp.place.line() != place.line() || warp.place.column() != place.column() || differ(warp.name, name)) {
    active->fail(std::string(name) + " at " + text(place) + " while other lanes wait at " + warp.name + " at " +
                 text(warp.place));
  }
  warp.operands[running_lane.index] = operands;
  Fiber& self = active->current();
  self.waiting = Waiting::kAtCollective;
  if (++warp.arrived == warp.size) {
    if (resolve != nullptr) resolve(warp);
    warp.arrived = 0;
    ++warp.generation;
    warp.ready = warp.everyone();
  }
  active->suspend();
  self.waiting = Waiting::kNot;
  return warp;
}

const std::uint64_t* exchange(const char* name, unsigned mask, std::uint64_t number, const Place& place) {
  // Two sets: a lane can write its next number before the others have read these, but not the one after it.
  Warp& warp = *running_lane.warp;
  std::array<std::uint64_t, 32>& numbers = warp.numbers[warp.generation & 1U];
  numbers[running_lane.index] = number;
  meet(name, mask, place, nullptr, nullptr);
  return numbers.data();
}

BarrierCounts barrier(const char* name, int argument, const Place& place) {
  active->arrive_at_barrier(name, argument, place);
  return active->barrier_counts();
}

void fail(const std::string& message) { active->fail(message); }

unsigned char* dynamic_shared_memory() { return active->shared(); }

// --- asynchronous copies --------------------------------------------------------------------------------------------

void cp_async_16(void* to_shared, const void* from_global, bool valid) {
  const auto address = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); };
  if (address(to_shared) % 16 != 0 || (valid && address(from_global) % 16 != 0)) {
    fail("cp.async with an address that is no multiple of 16");
  }
  Fiber& self = active->current();
  std::memset(to_shared, 0xff, 16);
  self.copies.push_back({to_shared, from_global, valid, self.committed});
}

void cp_async_commit() { ++active->current().committed; }

void cp_async_wait(int pending) {
  Fiber& self = active->current();
  const int done = self.committed - pending;  // groups before this one
  const auto covered = [done](const Copy& copy) { return copy.group < done; };
  for (const Copy& copy : self.copies) {
    if (!covered(copy)) continue;
    if (copy.valid) {
      std::memcpy(copy.to, copy.from, 16);
    } else {
      std::memset(copy.to, 0, 16);
    }
  }
  std::erase_if(self.copies, covered);
}

}  // namespace lectern::engine::cuda::emulation
