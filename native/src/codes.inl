// The choice of a product of codes; included by kernels.inl.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

void matmul_codes(const uint8_t* x, int64_t ldx, const Rounding* roundings, int64_t rows,
                  const Matrix& w, int64_t begin, int64_t end, float* y, int64_t ldy,
                  const Epilogue& epilogue) {
  const bool fits = w.blocks() <= kMaxBlocks;
  auto product = w.bits == 8 ? matmul_8 : matmul_many_rows;
  if (w.few() && rows <= kFewRows && fits) {
    product = w.bits == 4   ? matmul_few_rows<4>
              : w.bits == 3 ? matmul_few_rows<3>
                            : matmul_few_rows<2>;
#if TYNDA_PAIRS
  } else if (rows > kFewRows) {
    product = matmul_many_rows;
#elif TYNDA_16_BITS
  } else if (w.few() && fits) {
    product = matmul_narrow;
  } else if (w.bits == 8 && rows >= kWideRows && w.k && w.depth() <= kWideCodes / kTile) {
    product = matmul_wide;
#endif
  }
  product(x, ldx, roundings, rows, w, begin, end, y, ldy, epilogue);
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda
