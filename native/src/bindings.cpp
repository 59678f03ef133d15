// The Python module tynda._native.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "frontend.h"
#include "isa.h"
#include "pack.h"
#include "program.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tynda {
namespace {

template <class T, int Axes>
using Array = nb::ndarray<const T, nb::ndim<Axes>, nb::c_contig, nb::device::cpu>;
using Any = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Constant = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

const Kernels& kernels(const std::string& name) {
  if (const Kernels* found = find_kernels(name)) return *found;
  throw std::invalid_argument("this processor has no " + name);
}

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % sizeof(float) == 0; }

// The memory of an array, which keeps the array alive.
SharedBytes shared(const Constant& array) {
  const auto* data = static_cast<const uint8_t*>(array.data());
  if (!aligned(data)) throw std::invalid_argument("a constant is not aligned to 4 bytes");
  return SharedBytes(data, [held = new Constant(array)](const uint8_t*) {
    nb::gil_scoped_acquire lock;
    delete held;
  });
}

Program program(const Layout& layout, const std::vector<Constant>& arrays,
                std::vector<std::shared_ptr<const Matrix>> matrices) {
  std::vector<SharedBytes> constants;
  std::vector<int64_t> bytes;
  for (const Constant& array : arrays) {
    constants.push_back(shared(array));
    bytes.push_back(int64_t(array.nbytes()));
  }
  return Program(layout, std::move(constants), bytes, std::move(matrices));
}

std::vector<double> run(const Program& program, Arena& arena, const std::vector<Any>& arrays,
                        bool timed) {
  const std::vector<int64_t>& bytes = program.layout().argument_bytes;
  if (arrays.size() != bytes.size()) throw std::invalid_argument("a plan has other arguments");
  std::vector<uint8_t*> pointers;
  for (size_t i = 0; i < arrays.size(); i++) {
    pointers.push_back(static_cast<uint8_t*>(arrays[i].data()));
    if (int64_t(arrays[i].nbytes()) != bytes[i] || !aligned(pointers[i]))
      throw std::invalid_argument("argument " + std::to_string(i) +
                                  " has another size than in the plan");
  }
  std::vector<double> seconds(timed ? program.layout().operations.size() : 0);
  // The piece is borrowed and returned while the GIL is held, so that no fork happens with its lock
  // held.
  const Arena::Piece piece(arena, program.layout().bytes());
  nb::gil_scoped_release release;
  program.run(piece.memory(), pointers.data(), timed ? seconds.data() : nullptr);
  return seconds;
}

template <class T>
void check(const Matrix& m, int64_t first, const Array<T, 2>& rows, int64_t width, bool right) {
  const auto count = int64_t(rows.shape(0));
  if (!right || int64_t(rows.shape(1)) != width || first < 0 || first + count > m.n)
    throw std::invalid_argument("the rows do not fit the matrix");
}

// Calls pack(row, count) for ranges of rows [0, rows), on all threads.
template <class Pack>
void by_panels(const Matrix& m, int64_t rows, Pack pack) {
  const int64_t part = 8 * m.width;
  const auto task = [&](int64_t i, int) { pack(i * part, std::min(part, rows - i * part)); };
  nb::gil_scoped_release release;
  Pool::shared().run((rows + part - 1) / part, task);
}

}  // namespace
}  // namespace tynda

using namespace tynda;

NB_MODULE(_native, m) {
  m.doc() = "Kernels of the native backend; see native/src.";

  nb::class_<Kernels>(m, "Kernels")
      .def_ro("name", &Kernels::name)
      .def_ro("panel", &Kernels::panel)
      .def_ro("tile", &Kernels::tile);
  m.def("kernels", &kernels, "name"_a, nb::rv_policy::reference);
  m.def("instruction_sets", &instruction_sets);
  m.def("set_threads", [](int threads) { Pool::shared().grow(threads); },
        nb::call_guard<nb::gil_scoped_release>());

  nb::class_<Matrix>(m, "Matrix")
      .def(nb::init<const Kernels&, int64_t, int64_t, int, int64_t>(), "kernels"_a, "n"_a, "k"_a,
           "bits"_a, "group"_a = 0)
      .def("pack_float32",
           [](Matrix& m, int64_t first, Array<float, 2> weight) {
             check(m, first, weight, m.k, m.bits == 32);
             by_panels(m, int64_t(weight.shape(0)), [&](int64_t row, int64_t count) {
               pack_float32(m, first + row, count, weight.data() + row * m.k);
             });
           },
           "first"_a, "weight"_a)
      .def("pack_int8",
           [](Matrix& m, int64_t first, Array<int8_t, 2> codes, Array<float, 1> scale) {
             check(m, first, codes, m.k, m.bits == 8 && scale.shape(0) == codes.shape(0));
             by_panels(m, int64_t(codes.shape(0)), [&](int64_t row, int64_t count) {
               pack_int8(m, first + row, count, codes.data() + row * m.k, scale.data() + row);
             });
           },
           "first"_a, "codes"_a, "scale"_a)
      .def("pack_few",
           [](Matrix& m, int64_t first, Array<uint8_t, 2> codes, bool ternary,
              Array<float, 1> scale, Array<uint8_t, 2> step, Array<int8_t, 2> offset) {
             const size_t rows = codes.shape(0);
             const int64_t width = ternary ? (m.k + 4) / 5 : (m.k * m.bits + 7) / 8;
             check(m, first, codes, width,
                   scale.shape(0) == rows && (ternary ? m.bits == 2 : m.few()));
             check(m, first, step, m.groups(), step.shape(0) == rows);
             check(m, first, offset, m.groups(), offset.shape(0) == rows);
             by_panels(m, int64_t(rows), [&](int64_t row, int64_t count) {
               pack_few(m, first + row, count, codes.data() + row * width, width, ternary,
                       scale.data() + row, step.data() + row * m.groups(),
                       offset.data() + row * m.groups());
             });
           },
           "first"_a, "codes"_a, "ternary"_a, "scale"_a, "step"_a, "offset"_a)
      .def("pack_rounded",
           [](Matrix& m, const Kernels& kernels, int64_t first, Array<float, 2> weight) {
             check(m, first, weight, m.k, m.bits == 8);
             by_panels(m, int64_t(weight.shape(0)), [&](int64_t row, int64_t count) {
               pack_rounded(m, kernels, first + row, count, weight.data() + row * m.k);
             });
           },
           "kernels"_a, "first"_a, "weight"_a)
      .def_ro("n", &Matrix::n)
      .def_ro("k", &Matrix::k)
      .def_ro("bits", &Matrix::bits)
      .def_prop_ro("bytes", [](const Matrix& m) { return m.bytes(); });

  nb::enum_<FinalStep>(m, "FinalStep")
      .value("POWER", FinalStep::power)
      .value("LOG", FinalStep::log)
      .value("LOG10", FinalStep::log10)
      .value("STANDARD", FinalStep::standard);
  nb::class_<Spectra>(m, "Spectra")
      .def("__init__",
           [](Spectra* s, Array<float, 1> window, int64_t fft,
              std::optional<Array<float, 2>> filters, FinalStep final_step) {
             if (filters && int64_t(filters->shape(0)) != fft / 2 + 1)
               throw std::invalid_argument("filters must have a row for each bin");
             new (s) Spectra(window.data(), int64_t(window.shape(0)), fft,
                             filters ? filters->data() : nullptr,
                             filters ? int64_t(filters->shape(1)) : 0, final_step);
           },
           "window"_a, "fft"_a, "filters"_a.none(), "final_step"_a)
      .def_ro("bins", &Spectra::bins)
      .def("run",
           [](const Spectra& s, const Kernels& kernels, Array<float, 1> samples, int64_t hop,
              nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> y) {
             const auto frames = int64_t(y.shape(0)), size = int64_t(s.window.size());
             if (hop < 1 || int64_t(y.shape(1)) != s.bins ||
                 (frames > 0 && (frames - 1) * hop + size > int64_t(samples.shape(0))))
               throw std::invalid_argument("the frames do not fit the samples");
             nb::gil_scoped_release release;
             compute_spectra(s, kernels, samples.data(), hop, frames, y.data());
           },
           "kernels"_a, "samples"_a, "hop"_a, "y"_a);

  nb::class_<Layout::Stage>(m, "Stage")
      .def_ro("fused", &Layout::Stage::fused)
      .def_ro("rows", &Layout::Stage::rows)
      .def_ro("block", &Layout::Stage::block)
      .def_ro("order", &Layout::Stage::order);
  nb::class_<Layout>(m, "Layout")
      .def("__init__",
           [](Layout* layout, std::string_view text, const Kernels& kernels, int threads) {
             const Plan plan = Plan::parse(text);
             new (layout) Layout(plan, kernels, threads_worth_waking(plan, threads));
           },
           "plan"_a, "kernels"_a, "threads"_a)
      .def_ro("stages", &Layout::stages)
      .def_ro("arena", &Layout::arena)
      .def_ro("local", &Layout::local)
      .def_prop_ro("bytes", &Layout::bytes)
      .def_ro("constant_names", &Layout::constant_names)
      .def_ro("matrix_names", &Layout::matrix_names)
      .def_ro("argument_bytes", &Layout::argument_bytes)
      .def_prop_ro("matrix_bytes", [](const Layout& layout) {
        std::vector<int64_t> bytes;
        for (const Shape& shape : layout.weights) bytes.push_back(shape.bytes());
        return bytes;
      });
  nb::class_<Arena>(m, "Arena")
      .def(nb::init<>())
      .def_prop_ro("bytes", &Arena::bytes)
      .def_prop_ro("pieces", &Arena::pieces);
  nb::class_<Program>(m, "Program")
      .def("__init__",
           [](Program* p, const Layout& layout, const std::vector<Constant>& constants,
              std::vector<std::shared_ptr<const Matrix>> matrices) {
             new (p) Program(program(layout, constants, std::move(matrices)));
           },
           "layout"_a, "constants"_a, "matrices"_a)
      .def("run", &run, "arena"_a, "arguments"_a, "timed"_a = false);
}
