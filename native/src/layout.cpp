#include "layout.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <unordered_map>

namespace tynda {
namespace {

// Blocks have enough rows to use a weight often once it is in the cache, and few enough that their
// tensors stay in the second-level cache.
constexpr int64_t kMaxBlockRows = 64;
constexpr int64_t kBlockBytes = 2 << 20;

// One thread runs a plan with fewer multiply-adds in 8 bits: a core does as many in 0.2 to 0.4 ms,
// of which waking a thread, and waiting for it after each stage, cost more than it saves.
constexpr double kSmallPlan = 16e6;
constexpr double kFloatCost = 4;  // a multiply-add in float32 takes as long as so many in 8 bits

// Calls visit(view, use) for each view of an operation.
template <class Visit>
struct ViewVisitor : IgnoreFields {
  Visit visit;
  explicit ViewVisitor(Visit visit) : visit(visit) {}
  void view(std::string_view, View& p, Use use) { visit(p, use); }
  void optional_view(std::string_view, View& p, Use use) {
    if (p) visit(p, use);
  }
  void work(View& p, int64_t) { visit(p, Use::result); }
};

template <class Visit>
void each_view(Operation& operation, Visit visit) {
  ViewVisitor<Visit> visitor(visit);
  std::visit([&](auto& one) { one.fields(visitor); }, operation);
}

// The same in the order of access: views that are read by rows, those read as a whole, results.
template <class Visit>
void each_view_in_order(Operation& operation, Visit visit) {
  for (const Use now : {Use::rows, Use::whole, Use::result})
    each_view(operation, [&](View& p, Use use) {
      if (use == now) visit(p, use);
    });
}

bool is_fusible(const Operation& o) {
  return std::visit([](const auto& one) { return one.kFusible; }, o);
}

int64_t rows_of(const Operation& o) {
  return std::visit(
      [](const auto& one) -> int64_t {
        if constexpr (std::decay_t<decltype(one)>::kFusible) return one.rows;
        return 0;
      },
      o);
}

// The multiply-adds of an operation, in units of those in 8 bits. Other work is not counted.
double cost(const Plan& plan, const Operation& operation) {
  return std::visit(
      [&](const auto& one) -> double {
        using One = std::decay_t<decltype(one)>;
        if constexpr (std::is_base_of_v<MatMul, One>) {
          const Plan::Matrix& m = plan.matrices[size_t(one.weight.index)];
          return double(one.rows) * double(m.count) * double(m.inputs) *
                 (m.bits == 32 ? kFloatCost : 1);
        } else if constexpr (std::is_base_of_v<Attend, One>) {
          const AttentionShape& h = one.shape;
          return double(h.batch) * double(h.queries) * double(h.keys) *
                 double(h.channels + h.v_channels) * (h.integer ? 1 : kFloatCost);
        } else if constexpr (std::is_same_v<Lstm, One>) {
          return 4 * kFloatCost * double(one.batch) * double(one.time) * double(one.hidden) *
                 double(one.hidden);
        }
        return 0;
      },
      operation);
}

// The temporary memory of an operation, shared by all threads (`work`) or for each of them.
struct PrivateMemory : IgnoreFields {
  View* work_view = nullptr;
  int64_t work_bytes = 0, scratch_bytes = 0;
  void work(View& p, int64_t bytes) { work_view = &p, work_bytes = bytes; }
  void scratch(int64_t bytes) { scratch_bytes = bytes; }
};

// A buffer's size, and the first and last step of its lifetime.
struct Span {
  size_t buffer;
  size_t first, last;
  int64_t size;
  int64_t offset = 0;
};

// Assigns an offset to each span, and returns the size of all memory. The largest are assigned
// first, each to the lowest offset that is free during its lifetime (Pisarchyk & Lee 2020, greedy
// by size).
int64_t assign_offsets(std::vector<Span>& spans) {
  std::vector<size_t> order(spans.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return spans[a].size > spans[b].size; });
  std::vector<const Span*> assigned;  // by offset
  int64_t end = 0;
  for (const size_t i : order) {
    Span& span = spans[i];
    int64_t offset = 0;
    for (const Span* other : assigned) {
      if (other->first > span.last || span.first > other->last) continue;
      if (other->offset - offset >= span.size) break;
      offset = std::max(offset, other->offset + round_up(other->size, kAlign));
    }
    span.offset = offset;
    end = std::max(end, offset + round_up(span.size, kAlign));
    const auto key = [](const Span* s) {
      return std::pair(s->offset, s->offset + round_up(s->size, kAlign));
    };
    assigned.insert(std::upper_bound(assigned.begin(), assigned.end(), &span,
                                   [&](const Span* a, const Span* b) { return key(a) < key(b); }),
                  &span);
  }
  return end;
}

// The lifetime of a buffer, found before offsets are assigned.
struct Lifetime {
  std::optional<size_t> span;   // its index in `spans_`
  std::optional<size_t> stage;  // the first stage that uses it
  bool whole = false;           // whether it needs memory for all rows, not only for a block
  int64_t row = 0;
};

// Computes a Layout, in the order of the calls in `run`.
class Planner {
 public:
  Planner(Layout& layout, const Plan& plan) : layout_(layout) {
    int64_t counts[3] = {};
    for (const Plan::Buffer& b : plan.buffers) {
      kinds_.push_back(b.kind);
      indices_.push_back(counts[b.kind]++);
      const int64_t row = b.packed ? b.form.bytes(layout.kernels) : b.row;
      layout.row_bytes.push_back(row);
      layout.buffer_bytes.push_back(times(b.rows, row));
    }
    lifetimes_.resize(kinds_.size());
    for (const int64_t i : plan.arguments)
      layout.argument_bytes.push_back(layout.buffer_bytes[size_t(i)]);
    for (const int64_t i : plan.constants) {
      layout.constant_names.push_back(plan.buffers[size_t(i)].name);
      layout.constant_bytes.push_back(layout.buffer_bytes[size_t(i)]);
    }
    for (const Plan::Matrix& m : plan.matrices) {
      layout.matrix_names.push_back(m.name);
      layout.weights.push_back(plan.shape(m, layout.kernels));
    }
  }

  void run() {
    for (Operation& operation : layout_.operations) check(operation);
    group();
    find_lifetimes();
    assign_arena();
    for (Layout::Stage& stage : layout_.stages) assign_local(stage);
    for (Operation& operation : layout_.operations) settle(operation);
    layout_.arena = round_up(layout_.arena, kAlign);
    layout_.local = round_up(layout_.local, kAlign);
  }

 private:
  // Whether a view is in the arena or in local memory.
  bool is_internal(const View& p) const {
    return kinds_[size_t(p.buffer)] == Plan::Buffer::internal;
  }

  void check(Operation& operation) {
    each_view(operation, [&](View& p, Use use) {
      if (!p) return;  // temporary memory has no buffer yet
      if (p.row == View::kOwn) p.row = layout_.row_bytes[size_t(p.buffer)];
      if (use == Use::result && kinds_[size_t(p.buffer)] == Plan::Buffer::constant)
        throw std::invalid_argument("an operation writes to a constant");
    });
    PrivateMemory own;
    std::visit(
        [&](auto& one) {
          one.check(Check(layout_.kernels, layout_.weights, layout_.buffer_bytes));
          one.settle(layout_.kernels, layout_.threads);
          one.fields(own);
        },
        operation);
    layout_.local = std::max(layout_.local, own.scratch_bytes);
    if (!own.work_view) return;
    *own.work_view = View{int64_t(kinds_.size()), 0, own.work_bytes};
    kinds_.push_back(Plan::Buffer::internal);
    lifetimes_.emplace_back();
    layout_.buffer_bytes.push_back(own.work_bytes);
  }

  // Groups the operations into stages; each operation joins the last fused stage if it can.
  void group() {
    std::vector<size_t> order(layout_.operations.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_partition(order.begin(), order.end(), [&](size_t i) {
      return std::visit([](const auto& one) { return one.kEarly; }, layout_.operations[i]);
    });
    std::vector<Layout::Stage>& stages = layout_.stages;
    for (const size_t i : order) {
      Operation& operation = layout_.operations[i];
      if (!is_fusible(operation) || stages.empty() || !can_join(stages.back(), operation)) {
        stages.push_back({is_fusible(operation), rows_of(operation), 0, {}});
        written_.clear();
        read_whole_.clear();
      }
      stages.back().order.push_back(i);
      each_view(operation, [&](View& p, Use use) {
        if (use == Use::result) written_[p.buffer] = p.row;
        if (use == Use::whole) read_whole_[p.buffer] = 0;
      });
    }
  }

  // Whether an operation can join a fused stage. Of a result of the stage, a thread may only read
  // the rows of its own block; and a tensor that other threads read as a whole must not be
  // overwritten.
  bool can_join(const Layout::Stage& stage, Operation& operation) {
    if (!stage.fused || rows_of(operation) != stage.rows) return false;
    bool fits = true;
    each_view(operation, [&](View& p, Use use) {
      const auto written = written_.find(p.buffer);
      if (use == Use::whole) fits &= written == written_.end();
      if (use == Use::rows) fits &= written == written_.end() || written->second == p.row;
      if (use == Use::result) fits &= !read_whole_.count(p.buffer);
    });
    return fits;
  }

  void find_lifetimes() {
    for (size_t i = 0; i < layout_.stages.size(); i++)
      for (const size_t o : layout_.stages[i].order) {
        each_view_in_order(layout_.operations[o], [&](View& p, Use use) {
          if (!is_internal(p)) return;
          Lifetime& lifetime = lifetimes_[size_t(p.buffer)];
          if (!lifetime.span) {
            lifetime.span = spans_.size();
            lifetime.stage = i;
            lifetime.row = p.row;
            spans_.push_back({size_t(p.buffer), i, i, layout_.buffer_bytes[size_t(p.buffer)]});
          }
          spans_[*lifetime.span].last = i;
          // Memory for a block needs contiguous rows that are used in the same way by all.
          lifetime.whole |= lifetime.stage != i || !layout_.stages[i].fused || use == Use::whole ||
                        p.row != lifetime.row ||
                        times(layout_.stages[i].rows, p.row) !=
                            layout_.buffer_bytes[size_t(p.buffer)] ||
                        p.offset >= std::max<int64_t>(p.row, 1);
        });
      }
  }

  void assign_arena() {
    std::vector<Span> shared;
    for (const Span& span : spans_)
      if (lifetimes_[span.buffer].whole) shared.push_back(span);
    layout_.arena = assign_offsets(shared);
    for (const Span& span : shared) offsets_[int64_t(span.buffer)] = span.offset;
  }

  void assign_local(Layout::Stage& stage) {
    if (!stage.fused) return;
    std::vector<Span> own;
    for (size_t i = 0; i < stage.order.size(); i++)
      each_view_in_order(layout_.operations[stage.order[i]], [&](View& p, Use) {
        if (!is_internal(p) || lifetimes_[size_t(p.buffer)].whole) return;
        const auto found = std::find_if(own.begin(), own.end(), [&](const Span& span) {
          return int64_t(span.buffer) == p.buffer;
        });
        if (found != own.end()) {
          found->last = i;
        } else {
          own.push_back({size_t(p.buffer), i, i, p.row});
        }
      });
    std::vector<Span> rows = own;
    stage.block = block(stage.rows, assign_offsets(rows));
    for (Span& span : own) span.size = times(span.size, stage.block);
    layout_.local = std::max(layout_.local, assign_offsets(own));
    for (const Span& span : own) offsets_[int64_t(span.buffer)] = span.offset;
  }

  // The block size that gives all threads about the same number of rows.
  int64_t block(int64_t rows, int64_t row_bytes) const {
    const int64_t tile = layout_.kernels.tile;
    // With too few rows for blocks, the threads share each product instead.
    if (rows < 2 * tile) return std::max<int64_t>(rows, 1);
    const int64_t max_rows =
        std::max(tile, std::min(kMaxBlockRows, kBlockBytes / std::max<int64_t>(row_bytes, 1)) /
                           tile * tile);
    const int64_t rounds = (rows + max_rows * layout_.threads - 1) / (max_rows * layout_.threads);
    return (rows + rounds * layout_.threads - 1) / (rounds * layout_.threads);
  }

  // Sets the memory of each view.
  void settle(Operation& operation) {
    each_view(operation, [&](View& p, Use) {
      const auto kind = kinds_[size_t(p.buffer)];
      if (kind == Plan::Buffer::internal) {
        p.space = lifetimes_[size_t(p.buffer)].whole ? Space::arena : Space::local;
        p.offset += offsets_[p.buffer];
        return;
      }
      p.space = kind == Plan::Buffer::argument ? Space::argument : Space::constant;
      p.index = indices_[size_t(p.buffer)];
    });
  }

  Layout& layout_;
  std::vector<Plan::Buffer::Kind> kinds_;
  std::vector<int64_t> indices_;  // of each buffer among those of its kind
  std::vector<Lifetime> lifetimes_;
  std::vector<Span> spans_;
  std::unordered_map<int64_t, int64_t> written_, read_whole_;  // by the last stage; row sizes
  std::unordered_map<int64_t, int64_t> offsets_;
};

}  // namespace

int threads_worth_waking(const Plan& plan, int threads) {
  double total = 0;
  for (const Operation& operation : plan.operations) total += cost(plan, operation);
  return total < kSmallPlan ? std::min(threads, 1) : threads;
}

Layout::Layout(const Plan& plan, const Kernels& kernels, int threads)
    : kernels(kernels), threads(threads), operations(plan.operations) {
  if (threads < 1 || threads > 4096) throw std::invalid_argument("threads are from 1 to 4096");
  Planner(*this, plan).run();
}

}  // namespace tynda
