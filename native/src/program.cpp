#include "program.h"

#include <algorithm>
#include <chrono>

#include "threads.h"

namespace tynda {
namespace {

// Calls work(), and adds its time to *seconds unless that is null.
template <class Work>
void timed(double* seconds, Work work) {
  if (!seconds) return work();
  const auto started = std::chrono::steady_clock::now();
  work();
  *seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

void run_one(const Operation& operation, const Run& run) {
  std::visit([&](const auto& one) { one.run(run); }, operation);
}

// A visitor that sets the matrix of each weight of an operation.
struct Binder : IgnoreFields {
  const std::vector<std::shared_ptr<const Matrix>>& matrices;
  explicit Binder(const std::vector<std::shared_ptr<const Matrix>>& matrices)
      : matrices(matrices) {}
  void weight(std::string_view, Weight& w) { w.matrix = matrices[size_t(w.index)].get(); }
};

// The number of parts into which threads may divide an operation with few rows.
int64_t parts_of(const Operation& operation) {
  if (const auto* product = std::get_if<MatMul>(&operation)) return product->parts();
  if (const auto* product = std::get_if<MatMul8>(&operation)) return product->parts();
  return 1;
}

void run_part(const Operation& operation, const Run& run, int64_t begin, int64_t end) {
  if (const auto* product = std::get_if<MatMul>(&operation)) product->run(run, begin, end);
  if (const auto* product = std::get_if<MatMul8>(&operation)) product->run(run, begin, end);
}

bool same(const Shape& a, const Shape& b) {
  return a.n == b.n && a.k == b.k && a.width == b.width && a.bits == b.bits &&
         (!a.few() || a.group == b.group);
}

}  // namespace

Program::Program(Layout layout, std::vector<SharedBytes> constants,
                 const std::vector<int64_t>& constant_bytes,
                 std::vector<std::shared_ptr<const Matrix>> matrices)
    : layout_(std::move(layout)), constants_(std::move(constants)), matrices_(std::move(matrices)) {
  if (constant_bytes != layout_.constant_bytes || constants_.size() != constant_bytes.size())
    throw std::invalid_argument("the constants are not those of the plan");
  bool fits = matrices_.size() == layout_.weights.size();
  for (size_t i = 0; fits && i < matrices_.size(); i++)
    fits = same(*matrices_[i], layout_.weights[i]);
  if (!fits) throw std::invalid_argument("the matrices are not those of the plan");
  for (const SharedBytes& constant : constants_) pointers_.push_back(constant.get());
  Binder binder(matrices_);
  for (Operation& operation : layout_.operations)
    std::visit([&](auto& one) { one.fields(binder); }, operation);
}

void Program::run(uint8_t* memory, uint8_t* const* arguments, double* seconds) const {
  const Run run{&layout_.kernels, layout_.threads, memory,           memory + layout_.arena,
                layout_.local,    arguments,       pointers_.data()};
  for (const Layout::Stage& stage : layout_.stages) {
    if (stage.fused) {
      run_fused(stage, run, seconds);
    } else {
      const size_t i = stage.order[0];
      timed(seconds ? seconds + i : nullptr, [&] { run_one(layout_.operations[i], run); });
    }
  }
}

void Program::run_fused(const Layout::Stage& stage, const Run& run, double* seconds) const {
  if (stage.rows > stage.block) return run_blocks(stage, run, seconds);
  if (stage.rows == 0) return;
  // With too few rows for blocks, the threads share each product instead.
  Run all = run;
  all.count = stage.rows;
  for (const size_t i : stage.order) {
    const Operation& operation = layout_.operations[i];
    timed(seconds ? seconds + i : nullptr, [&] {
      const int64_t parts = run.threads == 1 ? 1 : parts_of(operation);
      if (parts == 1) return run_one(operation, all);
      const int64_t share = (parts + run.threads - 1) / run.threads;
      const auto task = [&](int64_t part, int) {
        const int64_t begin = part * share, end = std::min(begin + share, parts);
        if (begin < end) run_part(operation, all, begin, end);
      };
      Pool::shared().run(run.threads, task, run.threads);
    });
  }
}

void Program::run_blocks(const Layout::Stage& stage, const Run& run, double* seconds) const {
  const size_t count = stage.order.size();
  // [threads, operations]
  std::vector<double> thread_seconds(seconds ? size_t(run.threads) * count : 0);
  const auto task = [&](int64_t block, int thread) {
    Run part = run.for_thread(thread);
    part.first = block * stage.block;
    part.count = std::min(stage.block, stage.rows - part.first);
    for (size_t i = 0; i < count; i++)
      timed(seconds ? &thread_seconds[size_t(thread) * count + i] : nullptr,
            [&] { run_one(layout_.operations[stage.order[i]], part); });
  };
  Pool::shared().run((stage.rows + stage.block - 1) / stage.block, task, run.threads);
  for (size_t i = 0; i < thread_seconds.size(); i++)
    seconds[stage.order[i % count]] += thread_seconds[i] / run.threads;
}

Arena::Piece::Piece(Arena& arena, int64_t size) : arena_(arena) {
  {
    std::lock_guard<std::mutex> lock(arena.lock_);
    if (!arena.free_.empty()) {
      std::tie(bytes_, memory_) = std::move(arena.free_.back());
      arena.free_.pop_back();
    }
  }
  if (size <= bytes_) return;
  memory_.reset();  // first, so that both are never allocated
  memory_ = aligned_bytes(size);
  bytes_ = size;
}

Arena::Piece::~Piece() {
  std::lock_guard<std::mutex> lock(arena_.lock_);
  arena_.free_.emplace_back(bytes_, std::move(memory_));
}

int64_t Arena::bytes() const {
  std::lock_guard<std::mutex> lock(lock_);
  int64_t sum = 0;
  for (const auto& [bytes, memory] : free_) sum += bytes;
  return sum;
}

int64_t Arena::pieces() const {
  std::lock_guard<std::mutex> lock(lock_);
  return int64_t(free_.size());
}

}  // namespace tynda
