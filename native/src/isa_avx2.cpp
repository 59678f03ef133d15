#define TYNDA_ISA avx2
#define TYNDA_NAME "avx2"
#include <cstdint>
#include <cstring>

#include "simd_avx2.h"

#include "kernels.inl"

const tynda::Kernels* tynda::avx2_kernels() { return &tynda::avx2::kKernels; }
