// The choice of a product of codes; included by kernels.inl.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

void matmul_codes(const uint8_t* x, int64_t ldx, const float* scale, int64_t rows,
                  const Matrix& w, int64_t begin, int64_t end, float* y, int64_t ldy,
                  const Epilogue& epilogue) {
  const bool fits = w.blocks() <= kMaxBlocks;
  auto product = matmul_many_rows;
  if (w.bits == 8) {
    product = matmul_8;
  } else if (rows <= kFewRows && fits) {
    product = w.bits == 4   ? matmul_few_rows<4>
              : w.bits == 3 ? matmul_few_rows<3>
                            : matmul_few_rows<2>;
#if TYNDA_NARROW
  } else if (fits) {
    product = matmul_narrow;
#endif
  }
  product(x, ldx, scale, rows, w, begin, end, y, ldy, epilogue);
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda
