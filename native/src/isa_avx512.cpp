#define TYNDA_ISA avx512
#define TYNDA_NAME "avx512"
#include <cstdint>
#include <cstring>

#include "simd_avx512.h"

#include "simd_codes.h"

#include "kernels.inl"

const tynda::Kernels* tynda::avx512_kernels() { return &tynda::avx512::kKernels; }
