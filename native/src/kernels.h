// The kernels of one instruction set. Every kernel has a NumPy twin in tynda/ops/numpy.py.
//
// x, y and the like are rows of float32; ldx is the distance from one row to the next, in
// elements. No pointer need be aligned. y may be x where nothing else is said; of a product, y may
// be the residual alone.
#pragma once
#include <cstring>

#include "matrix.h"
#include "spectra.h"

namespace tynda {

enum class Activation { none, relu, gelu, silu, tanh, asinh };

// The epilogue of a product: activation(product + bias) * factor + residual.
struct Epilogue {
  const float* bias = nullptr;
  Activation activation = Activation::none;
  float factor = 1;
  const float* residual = nullptr;
  int64_t ld_residual = 0;
};

// One head of attention, for some of its queries. Keys and values are rows, or packed.
struct Attention {
  const float *q, *k, *v;
  const uint8_t *packed_k, *packed_v;
  float* y;
  int64_t ldq, ldk, ldv, ldy;
  int64_t queries, keys, capacity;  // capacity: keys that there would be at most
  int64_t width, v_width;       // channels of one head
  bool causal;
  int64_t first;  // causal: query i sees the keys up to first + i; else it sees all `keys`
  uint8_t* scratch;
  // Or those from first + i - before to first + i + after alone.
  bool window;
  int64_t before, after;
  // By distances alone: in the score of query i and key j, query + content_bias by the key is
  // joined by query + position_bias by row origin - i + j of `encoding` [2 capacity - 1, width].
  const float *encoding, *content_bias, *position_bias;
  int64_t ld_encoding, origin;
};

// Attention in float32, or with both products in 8 bits.
struct AttentionKernels {
  int64_t (*key_bytes)(int64_t capacity, int64_t width);
  int64_t (*value_bytes)(int64_t capacity, int64_t v_width);
  void (*pack_keys)(const float* k, int64_t ldk, int64_t keys, int64_t capacity, int64_t width,
                    uint8_t* packed);
  void (*pack_values)(const float* v, int64_t ldv, int64_t keys, int64_t capacity, int64_t v_width,
                      uint8_t* packed);
  int64_t (*scratch)(int64_t queries, int64_t capacity, int64_t width, int64_t v_width, bool packed);
  void (*attend)(const Attention&);
  // y [queries, columns]: the weights themselves, 0 for what is not seen.
  void (*weights)(const Attention&, int64_t columns);
};

struct Kernels {
  const char* name;
  int panel;  // outputs in a panel of a Matrix
  int zero;   // added to the codes of activations, which are stored without sign
  int tile;   // rows that a product works on at once

  // y [rows, n] = x [rows, k] times the panels [begin, end) of a Matrix, transposed.
  void (*matmul)(const float* x, int64_t ldx, int64_t rows, const Matrix&, int64_t begin,
                   int64_t end, float* y, int64_t ldy, const Epilogue&);
  // The same of codes [rows, depth], zeros from k on, with a scale for each row, and a Matrix in
  // 8 bits or fewer; exact until it leaves integers.
  void (*matmul_8)(const uint8_t* x, int64_t ldx, const float* scale, int64_t rows,
                     const Matrix&, int64_t begin, int64_t end, float* y, int64_t ldy,
                     const Epilogue&);
  // Codes round(x * 127 / max |x|) + zero of each row, zeros up to `depth`, and scales max / 127.
  void (*quantize)(const float* x, int64_t ldx, int64_t rows, int64_t k, int64_t depth,
                   uint8_t* codes, float* scale);
  AttentionKernels attention, attention_8;
  // The same by distances, in float32; keys and values are rows, and not causal.
  AttentionKernels relative_attention;
  // bias: null for none.
  void (*layer_norm)(const float* x, int64_t rows, int64_t width, const float* weight,
                     const float* bias, float eps, float* y);
  void (*log_softmax)(const float* x, int64_t rows, int64_t width, float* y);
  void (*activate)(const float* x, int64_t size, Activation, float* y);
  // x [rows, 2 width] -> y [rows, width]; y is not x.
  void (*glu)(const float* x, int64_t rows, int64_t width, float* y);
  // The same with the SiLU of the second half.
  void (*swiglu)(const float* x, int64_t rows, int64_t width, float* y);
  // Each of `heads` parts of x [heads, width]: channels 2 i and 2 i + 1 turned by an angle whose
  // cosine is table[i] and whose sine is table[pairs + i], the others as they are.
  void (*rotary)(const float* x, const float* table, int64_t heads, int64_t width, int64_t pairs,
                 float* y);
  void (*add)(const float* x, const float* y, int64_t size, float* sum);
  void (*scale)(const float* x, int64_t size, float factor, float* y);
  // y = activation(x * weight + bias), both [width].
  void (*affine)(const float* x, int64_t rows, int64_t width, const float* weight,
                 const float* bias, Activation, float* y);
  // Adds the rows of x to sums [width], and their squares to squares [width].
  void (*moments)(const float* x, int64_t rows, int64_t width, double* sums, double* squares);
  // One frame [width] of a depthwise convolution: taps [first, last) of weight [taps, width]
  // with the rows of x from `first` on. y is not x, but may be the bias.
  void (*depthwise)(const float* x, int64_t ldx, int64_t first, int64_t last, int64_t width,
                    const float* weight, const float* bias, float* y);
  // Cell and hidden state of `size` units from the sums of their gates.
  void (*lstm)(const float* i, const float* f, const float* g, const float* o, int64_t size,
               float* cell, float* hidden);
  // y [frames, bins] of frames that are `hop` samples apart.
  void (*spectra)(const Spectra&, const float* x, int64_t hop, int64_t frames, float* y);
};

inline Matrix::Matrix(const Kernels& kernels, int64_t n, int64_t k, int bits, int64_t group)
    : Shape(n, k, kernels.panel, bits, group), zero(kernels.zero),
      data(aligned_bytes(panels() * panel_bytes())), scale(bits == 32 ? 0 : panels() * width),
      correction(scale.size()), steps(few() ? 2 * panels() * groups() * width : 0) {
  std::memset(data.get(), 0, panels() * panel_bytes());
}

const Kernels* scalar_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();
bool neon_supported();  // by this processor

}  // namespace tynda
