// The Python module tynda._native.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "isa.h"
#include "pack.h"
#include "plan.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tynda {
namespace {

template <class T, int Axes>
using Array = nb::ndarray<const T, nb::ndim<Axes>, nb::c_contig, nb::device::cpu>;
using Vector = std::optional<Array<float, 1>>;

const float* data(const Vector& v) { return v ? v->data() : nullptr; }

// Frames that a thread makes spectra of at a time.
constexpr int64_t kFrames = 64;

const Kernels& kernels(const std::string& name) {
  if (const Kernels* found = find_kernels(name)) return *found;
  throw std::invalid_argument("this processor has no " + name);
}

// Memory that plans run in, one after another; it grows to what the largest needs.
struct Arena {
  int64_t bytes = 0;
  Bytes memory;

  uint8_t* reserve(int64_t size) {
    if (size > bytes) {
      memory.reset();  // before there is more
      memory = aligned_bytes(size);
      bytes = size;
    }
    return memory.get();
  }
};

template <class T>
void check(const Matrix& m, int64_t first, const Array<T, 2>& rows, int64_t width, bool right) {
  const auto count = int64_t(rows.shape(0));
  if (!right || int64_t(rows.shape(1)) != width || first < 0 || first + count > m.n)
    throw std::invalid_argument("the rows do not fit the matrix");
}

// Calls put(row, count) for rows [0, rows) in parts, on all threads.
template <class Put>
void by_panels(const Matrix& m, int64_t rows, Put put) {
  const int64_t part = 8 * m.width;
  Pool::shared().run((rows + part - 1) / part, [&](int64_t i, int) {
    put(i * part, std::min(part, rows - i * part));
  });
}

}  // namespace
}  // namespace tynda

using namespace tynda;

NB_MODULE(_native, m) {
  m.doc() = "Kernels of the native backend; see native/src.";

  nb::enum_<Space>(m, "Space")
      .value("ARENA", Space::arena)
      .value("LOCAL", Space::local)
      .value("ARGUMENT", Space::argument)
      .value("CONSTANT", Space::constant);
  nb::enum_<Activation>(m, "Activation")
      .value("NONE", Activation::none)
      .value("RELU", Activation::relu)
      .value("GELU", Activation::gelu)
      .value("SILU", Activation::silu);

  nb::class_<Kernels>(m, "Kernels")
      .def_ro("name", &Kernels::name)
      .def_ro("panel", &Kernels::panel)
      .def_ro("tile", &Kernels::tile)
      .def_ro("attention", &Kernels::attention)
      .def_ro("attention_8", &Kernels::attention_8);
  nb::class_<AttentionKernels>(m, "AttentionKernels")
      .def("key_bytes", [](const AttentionKernels& k, int64_t room, int64_t width) {
        return k.key_bytes(room, width);
      })
      .def("value_bytes", [](const AttentionKernels& k, int64_t room, int64_t v_width) {
        return k.value_bytes(room, v_width);
      })
      .def("scratch", [](const AttentionKernels& k, int64_t queries, int64_t room, int64_t width,
                         int64_t v_width, bool packed) {
        return k.scratch(queries, room, width, v_width, packed);
      });
  m.def("kernels", &kernels, "name"_a, nb::rv_policy::reference);
  m.def("instruction_sets", &instruction_sets);
  m.def("set_threads", [](int threads) { Pool::shared().grow(threads); },
        nb::call_guard<nb::gil_scoped_release>());

  nb::class_<Matrix>(m, "Matrix")
      .def("__init__",
           [](Matrix* m, const Kernels& kernels, int64_t n, int64_t k, int bits, int64_t group) {
             constexpr int kBits[] = {32, 8, 4, 3, 2};
             if (std::find(std::begin(kBits), std::end(kBits), bits) == std::end(kBits) ||
                 group < 0 || group % kBlockInputs)
               throw std::invalid_argument("no product has such a weight");
             new (m) Matrix(kernels, n, k, bits, group);
           },
           "kernels"_a, "n"_a, "k"_a, "bits"_a, "group"_a = 0)
      .def("put",
           [](Matrix& m, int64_t first, Array<float, 2> weight) {
             check(m, first, weight, m.k, m.bits == 32);
             by_panels(m, int64_t(weight.shape(0)), [&](int64_t row, int64_t count) {
               put(m, first + row, count, weight.data() + row * m.k);
             });
           },
           "first"_a, "weight"_a)
      .def("put_8",
           [](Matrix& m, int64_t first, Array<int8_t, 2> codes, Array<float, 1> scale) {
             check(m, first, codes, m.k, m.bits == 8 && scale.shape(0) == codes.shape(0));
             by_panels(m, int64_t(codes.shape(0)), [&](int64_t row, int64_t count) {
               put_8(m, first + row, count, codes.data() + row * m.k, scale.data() + row);
             });
           },
           "first"_a, "codes"_a, "scale"_a)
      .def("put_few",
           [](Matrix& m, int64_t first, Array<uint8_t, 2> codes, bool ternary,
              Array<float, 1> scale, Array<uint8_t, 2> step, Array<int8_t, 2> offset) {
             const size_t rows = codes.shape(0);
             const int64_t width = ternary ? (m.k + 4) / 5 : (m.k * m.bits + 7) / 8;
             check(m, first, codes, width, scale.shape(0) == rows && (ternary ? m.bits == 2 : m.few()));
             check(m, first, step, m.groups(), step.shape(0) == rows);
             check(m, first, offset, m.groups(), offset.shape(0) == rows);
             by_panels(m, int64_t(rows), [&](int64_t row, int64_t count) {
               put_few(m, first + row, count, codes.data() + row * width, width, ternary,
                       scale.data() + row, step.data() + row * m.groups(),
                       offset.data() + row * m.groups());
             });
           },
           "first"_a, "codes"_a, "ternary"_a, "scale"_a, "step"_a, "offset"_a)
      .def("put_rounded",
           [](Matrix& m, const Kernels& kernels, int64_t first, Array<float, 2> weight) {
             check(m, first, weight, m.k, m.bits == 8);
             by_panels(m, int64_t(weight.shape(0)), [&](int64_t row, int64_t count) {
               put_rounded(m, kernels, first + row, count, weight.data() + row * m.k);
             });
           },
           "kernels"_a, "first"_a, "weight"_a)
      .def_ro("n", &Matrix::n)
      .def_ro("k", &Matrix::k)
      .def_ro("bits", &Matrix::bits)
      .def_prop_ro("bytes", &Matrix::bytes);

  nb::enum_<Ending>(m, "Ending")
      .value("POWER", Ending::power)
      .value("LOG", Ending::log)
      .value("LOG10", Ending::log10)
      .value("STANDARD", Ending::standard);
  nb::class_<Spectra>(m, "Spectra")
      .def("__init__",
           [](Spectra* s, Array<float, 1> window, int64_t fft,
              std::optional<Array<float, 2>> filters, Ending ending) {
             if (filters && int64_t(filters->shape(0)) != fft / 2 + 1)
               throw std::invalid_argument("filters must have a row for each bin");
             new (s) Spectra(window.data(), int64_t(window.shape(0)), fft,
                             filters ? filters->data() : nullptr,
                             filters ? int64_t(filters->shape(1)) : 0, ending);
           },
           "window"_a, "fft"_a, "filters"_a.none(), "ending"_a)
      .def_ro("bins", &Spectra::bins)
      .def("run",
           [](const Spectra& s, const Kernels& kernels, Array<float, 1> samples, int64_t hop,
              nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> y) {
             const auto frames = int64_t(y.shape(0)), size = int64_t(s.window.size());
             if (hop < 1 || int64_t(y.shape(1)) != s.bins ||
                 (frames > 0 && (frames - 1) * hop + size > int64_t(samples.shape(0))))
               throw std::invalid_argument("the frames do not fit the samples");
             const float* x = samples.data();
             float* to = y.data();
             nb::gil_scoped_release release;
             Pool::shared().run((frames + kFrames - 1) / kFrames, [&](int64_t i, int) {
               const int64_t first = i * kFrames;
               kernels.spectra(s, x + first * hop, hop, std::min(kFrames, frames - first),
                               to + first * s.bins);
             });
           },
           "kernels"_a, "samples"_a, "hop"_a, "y"_a);

  nb::class_<Place>(m, "Place")
      .def(nb::init<Space, int64_t, int64_t, int64_t>(), "space"_a, "index"_a, "offset"_a, "row"_a);
  nb::class_<Windows>(m, "Windows")
      .def(nb::init<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                    int64_t, int64_t, int64_t, int64_t>(),
           "time"_a, "bins"_a, "channels"_a, "first_channel"_a, "used_channels"_a, "frames"_a,
           "frame_bins"_a, "taps"_a, "taps_bins"_a, "stride"_a, "stride_bins"_a, "padding"_a,
           "padding_bins"_a);
  nb::class_<Heads>(m, "Heads")
      .def(nb::init<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool, bool, int64_t>(),
           "batch"_a, "heads"_a, "queries"_a, "keys"_a, "channels"_a, "v_channels"_a, "causal"_a,
           "integer"_a, "packed"_a, "chunks"_a);

  nb::class_<Arena>(m, "Arena").def(nb::init<>()).def_ro("bytes", &Arena::bytes);
  // The caller keeps alive what a plan was told of: matrices, vectors, constants.
  nb::class_<Plan>(m, "Plan")
      .def(nb::init<const Kernels&, int64_t, int64_t, int>(), "kernels"_a, "arena"_a, "local"_a,
           "threads"_a)
      .def_prop_ro("bytes", &Plan::bytes)
      .def("constant", [](Plan& p, nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu> a) {
        return p.constant(a.data());
      })
      .def("strip", &Plan::strip, "rows"_a, "block"_a)
      .def("windows", &Plan::windows, "x"_a, "y"_a, "windows"_a)
      .def("quantize", &Plan::quantize, "x"_a, "codes"_a, "scales"_a, "width"_a, "depth"_a)
      .def("multiply",
           [](Plan& p, Place x, std::optional<Place> scales, Place y, const Matrix& w, Vector bias,
              Activation activation, float factor, std::optional<Place> residual) {
             const Place from = residual.value_or(Place());
             if (scales) {
               p.multiply_8(x, *scales, y, w, data(bias), activation, factor, from,
                            residual.has_value());
             } else {
               p.multiply(x, y, w, data(bias), activation, factor, from, residual.has_value());
             }
           },
           "x"_a, "scales"_a.none(), "y"_a, "weight"_a, "bias"_a.none(), "activation"_a, "factor"_a,
           "residual"_a.none())
      .def("depthwise",
           [](Plan& p, Place x, Place y, const Windows& w, Array<float, 2> weight, Vector bias) {
             p.depthwise(x, y, w, weight.data(), data(bias));
           },
           "x"_a, "y"_a, "windows"_a, "weight"_a, "bias"_a.none())
      .def("layer_norm",
           [](Plan& p, Place x, Place y, int64_t width, Array<float, 1> weight,
              Array<float, 1> bias, float eps) {
             p.layer_norm(x, y, width, weight.data(), bias.data(), eps);
           },
           "x"_a, "y"_a, "width"_a, "weight"_a, "bias"_a, "eps"_a)
      .def("affine", &Plan::affine, "x"_a, "y"_a, "width"_a, "weight"_a, "bias"_a, "period"_a,
           "kind"_a)
      .def("activate", &Plan::activate, "x"_a, "y"_a, "width"_a, "kind"_a)
      .def("glu", &Plan::glu, "x"_a, "y"_a, "width"_a)
      .def("log_softmax", &Plan::log_softmax, "x"_a, "y"_a, "width"_a)
      .def("add", &Plan::add, "x"_a, "y"_a, "sum"_a, "width"_a, "period"_a)
      .def("scale", &Plan::scale, "x"_a, "y"_a, "width"_a, "factor"_a)
      .def("mask", &Plan::mask, "x"_a, "y"_a, "width"_a, "frames"_a, "each"_a,
           "lengths"_a)
      .def("copy", &Plan::copy, "x"_a, "y"_a, "bytes"_a, "frames"_a, "time"_a, "start"_a)
      .def("lookup", &Plan::lookup, "ids"_a, "y"_a, "table"_a)
      .def("lookup_rows", &Plan::lookup_rows, "ids"_a, "y"_a, "table"_a, "size"_a, "bytes"_a)
      .def("attention", &Plan::attention, "q"_a, "k"_a, "v"_a, "y"_a, "heads"_a, "lengths"_a)
      .def("attention_weights", &Plan::attention_weights, "q"_a, "k"_a, "y"_a, "heads"_a,
           "lengths"_a)
      .def("remember", &Plan::remember, "x"_a, "y"_a, "heads"_a, "values"_a, "lengths"_a)
      .def("moments",
           [](Plan& p, Place x, Place scale, Place shift, Place work, int64_t batch, int64_t time,
              int64_t channels, int64_t groups, Array<float, 1> weight, Array<float, 1> bias,
              float eps, Place lengths) {
             p.moments(x, scale, shift, work, batch, time, channels, groups, weight.data(),
                       bias.data(), eps, lengths);
           },
           "x"_a, "scale"_a, "shift"_a, "work"_a, "batch"_a, "time"_a, "channels"_a, "groups"_a,
           "weight"_a, "bias"_a, "eps"_a, "lengths"_a)
      .def("lstm",
           [](Plan& p, Place gates, Place y, Place work, const Matrix& i, const Matrix& f,
              const Matrix& g, const Matrix& o, int64_t batch, int64_t time, int64_t hidden,
              bool reverse, Place lengths) {
             p.lstm(gates, y, work, {&i, &f, &g, &o}, batch, time, hidden, reverse, lengths);
           },
           "gates"_a, "y"_a, "work"_a, "i"_a, "f"_a, "g"_a, "o"_a, "batch"_a, "time"_a, "hidden"_a,
           "reverse"_a, "lengths"_a)
      .def("write", &Plan::write, "cache"_a, "x"_a, "starts"_a, "batch"_a, "time"_a, "capacity"_a,
           "bytes"_a)
      .def("lengths", &Plan::lengths, "x"_a, "y"_a, "size"_a, "add"_a, "divide"_a, "plus"_a,
           "times"_a)
      .def("positions", &Plan::positions, "starts"_a, "y"_a, "size"_a, "count"_a)
      .def("run",
           [](const Plan& p, Arena& arena,
              const std::vector<nb::ndarray<nb::c_contig, nb::device::cpu>>& arrays, bool timed) {
             std::vector<uint8_t*> pointers;
             for (const auto& a : arrays) pointers.push_back(static_cast<uint8_t*>(a.data()));
             std::vector<double> seconds(timed ? p.steps() : 0);
             nb::gil_scoped_release release;
             p.run(arena.reserve(p.bytes()), pointers, timed ? seconds.data() : nullptr);
             return seconds;
           },
           "arena"_a, "arguments"_a, "timed"_a = false);
}
