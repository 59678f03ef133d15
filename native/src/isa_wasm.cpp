#define TYNDA_ISA wasm
#define TYNDA_NAME "wasm"
#include <cstdint>
#include <cstring>

#include "simd_wasm.h"

#include "simd_codes.h"

#include "kernels.inl"

const tynda::Kernels* tynda::wasm_kernels() { return &tynda::wasm::kKernels; }
