// The kernels of one instruction set, each with a NumPy reference in tynda/ops/numpy.py.
//
// x, y and the like are float32 rows; ldx is the number of elements from one row to the next.
// Pointers need no alignment. y may equal x unless stated otherwise; the y of a product may only
// equal the residual.
#pragma once
#include <cstring>
#include <iterator>

#include "matrix.h"
#include "spectra.h"

namespace tynda {

enum class Activation { none, relu, gelu, silu, tanh, asinh };
// The names of activations in plans, in the order of the values.
constexpr const char* kActivationNames[] = {"none", "relu", "gelu", "silu", "tanh", "asinh"};
static_assert(std::size(kActivationNames) == size_t(Activation::asinh) + 1);

// A product applies its epilogue before it writes: activation(product + bias) * factor + residual.
struct Epilogue {
  const float* bias = nullptr;
  Activation activation = Activation::none;
  float factor = 1;
  const float* residual = nullptr;
  int64_t ld_residual = 0;
};

// How a row of activations is rounded: code c stands for scale * (c - zero).
struct Rounding {
  float scale;
  int32_t zero;  // the zero point
};

// One head of attention for some of its queries. Keys and values are rows or packed.
struct Attention {
  const float *q, *k, *v;
  const uint8_t *packed_k, *packed_v;
  float* y;
  int64_t ldq, ldk, ldv, ldy;
  int64_t queries, keys, capacity;  // capacity: the maximum number of keys
  int64_t width, v_width;           // channels of one head
  const float* log_counts;          // null, or numbers that are added to the scores of the keys
  bool causal;
  int64_t first;  // if causal, query i attends to keys 0 to first + i, otherwise to all
  uint8_t* scratch;
  // With a window, query i attends to keys first + i - before to first + i + after.
  bool window;
  int64_t before, after;
  // For relative attention only: the score of query i and key j is (query + content_bias) times the
  // key plus (query + position_bias) times row origin - i + j of `encoding` [2 capacity - 1,
  // width].
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
  int64_t (*scratch)(int64_t queries, int64_t capacity, int64_t width, int64_t v_width,
                     bool packed);
  void (*attend)(const Attention&);
  // Writes the weights to y [queries, columns], 0 for masked keys; null for relative attention.
  void (*weights)(const Attention&, int64_t columns);
};

struct Kernels {
  const char* name;
  int panel;  // the number of outputs in a panel of a Matrix
  int zero;   // the middle of activations' codes, which are unsigned bytes if it is 128
  int tile;   // the number of rows that a product computes together

  // Computes the outputs of panels [begin, end) of y [rows, n] = x [rows, k] times a Matrix
  // transposed.
  void (*matmul)(const float* x, int64_t ldx, int64_t rows, const Matrix&, int64_t begin,
                   int64_t end, float* y, int64_t ldy, const Epilogue&);
  // The same product for codes [rows, depth], which stand for 0 from k on and have a rounding for
  // each row, with a Matrix of at most 8 bits. Sums of codes are exact.
  void (*matmul_8)(const uint8_t* x, int64_t ldx, const Rounding* roundings, int64_t rows,
                     const Matrix&, int64_t begin, int64_t end, float* y, int64_t ldy,
                     const Epilogue&);
  // Rounds each row to codes that stand for 0 from k to `depth`. The first and the last code of
  // 255 stand for the row's minimum and maximum or, if `symmetric`, for -max |x| and max |x|. 0 is
  // always one of the numbers.
  void (*quantize)(const float* x, int64_t ldx, int64_t rows, int64_t k, int64_t depth,
                   bool symmetric, uint8_t* codes, Rounding* roundings);
  AttentionKernels attention, attention_8;
  // Relative attention in float32, neither causal nor with packed keys.
  AttentionKernels relative_attention;
  // `bias` may be null.
  void (*layer_norm)(const float* x, int64_t rows, int64_t width, const float* weight,
                     const float* bias, float eps, float* y);
  void (*log_softmax)(const float* x, int64_t rows, int64_t width, float* y);
  void (*activate)(const float* x, int64_t size, Activation, float* y);
  // x [rows, 2 width] -> y [rows, width]; y is not x.
  void (*glu)(const float* x, int64_t rows, int64_t width, float* y);
  // The same with SiLU instead of sigmoid.
  void (*swiglu)(const float* x, int64_t rows, int64_t width, float* y);
  // Rotates pairs of channels of x [heads, width]: channels 2 i and 2 i + 1 of each head by an
  // angle with cosine table[i] and sine table[pairs + i]. The other channels are copied.
  void (*rotary)(const float* x, const float* table, int64_t heads, int64_t width, int64_t pairs,
                 float* y);
  void (*add)(const float* x, const float* y, int64_t size, float* sum);
  void (*scale)(const float* x, int64_t size, float factor, float* y);
  // y = activation(x * weight + bias), both [width].
  void (*affine)(const float* x, int64_t rows, int64_t width, const float* weight,
                 const float* bias, Activation, float* y);
  // Adds the rows of x to sums [width] and their squares to squares [width].
  void (*moments)(const float* x, int64_t rows, int64_t width, double* sums, double* squares);
  // Computes one frame y [width] of a depthwise convolution: taps [first, last) of weight
  // [taps, width] times the rows of x, the first of which belongs to tap `first`. y must not be x,
  // but may be the bias.
  void (*depthwise)(const float* x, int64_t ldx, int64_t first, int64_t last, int64_t width,
                    const float* weight, const float* bias, float* y);
  // Updates the cell and hidden states of `size` units from the inputs of their gates.
  void (*lstm)(const float* i, const float* f, const float* g, const float* o, int64_t size,
               float* cell, float* hidden);
  // Computes y [frames, bins] of frames whose starts are `hop` samples apart.
  void (*spectra)(const Spectra&, const float* x, int64_t hop, int64_t frames, float* y);
};

inline Matrix::Matrix(const Kernels& kernels, int64_t n, int64_t k, int bits, int64_t group)
    : Shape(n, k, kernels.panel, bits, group), data(aligned_bytes(panels() * panel_bytes())),
      scale(bits == 32 ? 0 : panels() * width), sums(scale.size()),
      steps(few() ? 2 * panels() * groups() * width : 0) {
  std::memset(data.get(), 0, panels() * panel_bytes());
}

const Kernels* scalar_kernels();
const Kernels* avx2_kernels();
const Kernels* avxvnni_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();
const Kernels* i8mm_kernels();
const Kernels* wasm_kernels();
bool neon_supported();  // whether this processor has the instructions
bool i8mm_supported();

}  // namespace tynda
