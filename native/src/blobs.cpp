#include "blobs.h"

#include <cmath>

#include "pack.h"

namespace tynda {
namespace {

// The bytes of a weight that are read at a time before they are packed.
constexpr int64_t kReadBytes = 1 << 20;

void check_finite(const float* values, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!std::isfinite(values[i])) refuse("a weight has numbers that are not finite");
}

// Calls pack(first, count) for consecutive ranges of a matrix's rows.
template <class Pack>
void by_rows(const Matrix& m, int64_t row_bytes, Pack pack) {
  const int64_t rows = std::max<int64_t>(1, kReadBytes / std::max<int64_t>(row_bytes, 1));
  for (int64_t first = 0; first < m.n; first += rows) pack(first, std::min(rows, m.n - first));
}

}  // namespace

Blobs::Blobs(Files& files, const std::string& name)
    : files_(files), name_(name), size_(files.size(name)) {}

void Blobs::check(int64_t offset, int64_t bytes) const {
  if (offset % kAlign) refuse("a blob is not aligned");
  if (offset < 0 || bytes < 0 || offset > size_ || bytes > size_ - offset)
    refuse("a blob is not in weights.bin");
}

std::vector<float> Blobs::floats(int64_t offset, int64_t count) {
  check(offset, times(count, 4));
  std::vector<float> values(static_cast<size_t>(count));
  read(offset, 4 * count, values.data());
  check_finite(values.data(), count);
  return values;
}

std::shared_ptr<uint8_t> Blobs::bytes(int64_t offset, int64_t bytes) {
  check(offset, bytes);
  Bytes memory = aligned_bytes(bytes);
  read(offset, bytes, memory.get());
  return {memory.release(), AlignedDelete()};
}

SharedBytes Blobs::constant(int64_t offset, int64_t bytes) {
  SharedBytes& found = constants_[{offset, bytes}];
  if (!found) {
    found = this->bytes(offset, bytes);
    check_finite(reinterpret_cast<const float*>(found.get()), bytes / 4);
  }
  return found;
}

std::shared_ptr<const Matrix> Blobs::matrix(const std::string& record, const Shape& shape,
                                            const Kernels& kernels) {
  std::string key = record;
  for (const int64_t size : {shape.n, shape.k, int64_t(shape.bits), shape.group})
    key += " " + std::to_string(size);
  std::shared_ptr<const Matrix>& found = matrices_[key];
  if (found) return found;

  const Words words = split(record);
  const std::string_view kind = words[0];
  const bool ternary = kind == "ternary";
  const size_t blobs = kind == "float32" ? 1 : kind == "int8" ? 2 : 4;
  const bool fits = kind == "float32" ? shape.bits == 32
                    : kind == "int8"  ? shape.bits == 8
                    : kind == "packed" ? shape.few()
                                       : ternary && shape.bits == 2;
  if (!fits || words.size() != 1 + blobs) refuse("a matrix has another kind than in the plan");
  // All sizes are checked against the file before memory is allocated.
  const int64_t row = kind == "float32" ? times(shape.k, 4)
                      : kind == "int8"  ? shape.k
                      : ternary         ? (shape.k + 4) / 5
                                        : (times(shape.k, shape.bits) + 7) / 8;
  check(number(words[1]), times(shape.n, row));
  if (blobs > 1) check(number(words[2]), times(shape.n, 4));
  if (blobs > 2)
    for (const size_t i : {3, 4}) check(number(words[i]), times(shape.n, shape.groups()));

  auto made = std::make_shared<Matrix>(kernels, shape.n, shape.k, shape.bits, shape.group);
  if (blobs == 1) {
    pack_floats(*made, words);
  } else if (blobs == 2) {
    pack_codes_8(*made, words);
  } else {
    pack_codes_few(*made, words, ternary);
  }
  return found = std::move(made);
}

void Blobs::pack_floats(Matrix& m, const Words& words) {
  by_rows(m, 4 * m.k, [&](int64_t first, int64_t count) {
    std::vector<float> rows(static_cast<size_t>(count * m.k));
    read(number(words[1]) + 4 * first * m.k, 4 * count * m.k, rows.data());
    check_finite(rows.data(), count * m.k);
    pack_float32(m, first, count, rows.data());
  });
}

void Blobs::pack_codes_8(Matrix& m, const Words& words) {
  const std::vector<float> scale = floats(number(words[2]), m.n);
  by_rows(m, m.k, [&](int64_t first, int64_t count) {
    std::vector<int8_t> codes(static_cast<size_t>(count * m.k));
    read(number(words[1]) + first * m.k, count * m.k, codes.data());
    pack_int8(m, first, count, codes.data(), scale.data() + first);
  });
}

void Blobs::pack_codes_few(Matrix& m, const Words& words, bool ternary) {
  const std::vector<float> scale = floats(number(words[2]), m.n);
  const int64_t groups = m.groups(), row = ternary ? (m.k + 4) / 5 : (m.k * m.bits + 7) / 8;
  by_rows(m, row + 2 * groups, [&](int64_t first, int64_t count) {
    std::vector<uint8_t> codes(static_cast<size_t>(count * row));
    std::vector<uint8_t> steps(static_cast<size_t>(count * groups));
    std::vector<int8_t> offsets(steps.size());
    read(number(words[1]) + first * row, count * row, codes.data());
    read(number(words[3]) + first * groups, count * groups, steps.data());
    read(number(words[4]) + first * groups, count * groups, offsets.data());
    pack_few(m, first, count, codes.data(), row, ternary, scale.data() + first, steps.data(),
            offsets.data());
  });
}

}  // namespace tynda
