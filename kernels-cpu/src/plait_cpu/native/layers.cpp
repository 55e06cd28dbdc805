// rms_norm, fused_add_rms_norm, silu_and_mul, rotary_embedding and kv_write.
#include "common.h"

namespace plait {
namespace {

template <class T>
void norm_row(const T* x, const T* weight, T* y, int64_t hidden, float eps) {
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < hidden; ++i) squares += to_float(x[i]) * to_float(x[i]);
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(hidden) + eps);
#pragma omp simd
  for (int64_t i = 0; i < hidden; ++i)
    y[i] = from_float<T>(to_float(x[i]) * scale * to_float(weight[i]));
}

// With a residual, x is added to it in place first.
template <class T>
void norm(const T* x, int64_t x_stride, T* residual, int64_t residual_stride, const T* weight,
          T* y, int64_t tokens, int64_t hidden, float eps, int threads) {
#pragma omp parallel for num_threads(threads_for(tokens * hidden, threads))
  for (int64_t t = 0; t < tokens; ++t) {
    const T* row = x + t * x_stride;
    if (residual) {
      T* sum = residual + t * residual_stride;
#pragma omp simd
      for (int64_t i = 0; i < hidden; ++i)
        sum[i] = from_float<T>(to_float(sum[i]) + to_float(row[i]));
      row = sum;
    }
    norm_row(row, weight, y + t * hidden, hidden, eps);
  }
}

template <class T>
void silu_and_mul(const T* x, int64_t x_stride, T* y, int64_t tokens, int64_t features,
                  int threads) {
#pragma omp parallel for num_threads(threads_for(tokens * features, threads))
  for (int64_t t = 0; t < tokens; ++t) {
    const T* gate = x + t * x_stride;
    const T* up = gate + features;
    T* out = y + t * features;
#pragma omp simd
    for (int64_t i = 0; i < features; ++i) {
      const float g = to_float(gate[i]);
      out[i] = from_float<T>(g / (1.0f + exponential(-g)) * to_float(up[i]));
    }
  }
}

template <class T>
void rotate(T* heads, int64_t count, int64_t head_stride, const float* cos, const float* sin,
            int64_t half) {
  for (int64_t h = 0; h < count; ++h) {
    T* first = heads + h * head_stride;
    T* second = first + half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const float a = to_float(first[i]), b = to_float(second[i]);
      first[i] = from_float<T>(a * cos[i] - b * sin[i]);
      second[i] = from_float<T>(b * cos[i] + a * sin[i]);
    }
  }
}

template <class T>
void rotary(const int64_t* positions, T* q, int64_t q_stride, int64_t q_head_stride,
            int64_t heads, T* k, int64_t k_stride, int64_t k_head_stride, int64_t kv_heads,
            const float* cos_sin, int64_t tokens, int64_t rotary_dim, int threads) {
  const int64_t half = rotary_dim / 2;
  const int64_t elements = tokens * (heads + kv_heads) * rotary_dim;
#pragma omp parallel for num_threads(threads_for(elements, threads))
  for (int64_t t = 0; t < tokens; ++t) {
    const float* cos = cos_sin + positions[t] * rotary_dim;
    rotate(q + t * q_stride, heads, q_head_stride, cos, cos + half, half);
    rotate(k + t * k_stride, kv_heads, k_head_stride, cos, cos + half, half);
  }
}

}  // namespace
}  // namespace plait

using plait::bfloat16;

PLAIT_EXPORT void plait_norm(int32_t dtype, const void* x, int64_t x_stride, void* residual,
                             int64_t residual_stride, const void* weight, void* y, int64_t tokens,
                             int64_t hidden, float eps, int32_t threads) {
  if (dtype == plait::kFloat32)
    plait::norm(static_cast<const float*>(x), x_stride, static_cast<float*>(residual),
                residual_stride, static_cast<const float*>(weight), static_cast<float*>(y),
                tokens, hidden, eps, threads);
  else
    plait::norm(static_cast<const bfloat16*>(x), x_stride, static_cast<bfloat16*>(residual),
                residual_stride, static_cast<const bfloat16*>(weight), static_cast<bfloat16*>(y),
                tokens, hidden, eps, threads);
}

PLAIT_EXPORT void plait_silu_and_mul(int32_t dtype, const void* x, int64_t x_stride, void* y,
                                     int64_t tokens, int64_t features, int32_t threads) {
  if (dtype == plait::kFloat32)
    plait::silu_and_mul(static_cast<const float*>(x), x_stride, static_cast<float*>(y), tokens,
                        features, threads);
  else
    plait::silu_and_mul(static_cast<const bfloat16*>(x), x_stride, static_cast<bfloat16*>(y),
                        tokens, features, threads);
}

PLAIT_EXPORT void plait_rotary(int32_t dtype, const int64_t* positions, void* q, int64_t q_stride,
                               int64_t q_head_stride, int64_t heads, void* k, int64_t k_stride,
                               int64_t k_head_stride, int64_t kv_heads, const float* cos_sin,
                               int64_t tokens, int64_t rotary_dim, int32_t threads) {
  if (dtype == plait::kFloat32)
    plait::rotary(positions, static_cast<float*>(q), q_stride, q_head_stride, heads,
                  static_cast<float*>(k), k_stride, k_head_stride, kv_heads, cos_sin, tokens,
                  rotary_dim, threads);
  else
    plait::rotary(positions, static_cast<bfloat16*>(q), q_stride, q_head_stride, heads,
                  static_cast<bfloat16*>(k), k_stride, k_head_stride, kv_heads, cos_sin, tokens,
                  rotary_dim, threads);
}

// Strides and sizes are in bytes: nothing is computed. In kv, the values of a block lie
// block_size tokens behind its keys.
PLAIT_EXPORT void plait_kv_write(const char* k, int64_t k_stride, const char* v, int64_t v_stride,
                                 char* kv, int64_t block_stride, const int64_t* slot_mapping,
                                 int64_t tokens, int64_t block_size, int64_t token_bytes,
                                 int32_t threads) {
#pragma omp parallel for num_threads(plait::threads_for(tokens * token_bytes / 2, threads))
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t slot = slot_mapping[t];
    if (slot < 0) continue;
    char* place = kv + slot / block_size * block_stride + slot % block_size * token_bytes;
    std::memcpy(place, k + t * k_stride, token_bytes);
    std::memcpy(place + block_size * token_bytes, v + t * v_stride, token_bytes);
  }
}
