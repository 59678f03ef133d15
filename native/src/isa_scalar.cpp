#define TYNDA_ISA scalar
#define TYNDA_NAME "scalar"
#include <cmath>
#include <cstdint>
#include <cstring>

#include "simd_scalar.h"

#include "simd_codes.h"

#include "kernels.inl"

const tynda::Kernels* tynda::scalar_kernels() { return &tynda::scalar::kKernels; }
