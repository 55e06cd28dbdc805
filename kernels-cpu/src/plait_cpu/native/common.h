// Element types, vectors and the exponential that all kernels share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define PLAIT_EXPORT extern "C" __attribute__((visibility("default")))

namespace plait {

// Numbers that Python passes for a dtype.
enum Dtype : int32_t { kFloat32 = 0, kBFloat16 = 1 };

struct bfloat16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }

inline float to_float(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T from_float(float x);

template <>
inline float from_float<float>(float x) {
  return x;
}

// Rounds to nearest even. A NaN stays one: adding could carry it over to zero.
template <>
inline bfloat16 from_float<bfloat16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  return {static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded)};
}

// As many floats as one register holds.
#if defined(__AVX512F__)
constexpr int kWidth = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX__)
constexpr int kWidth = 8;
constexpr int kRegisters = 16;
#else
constexpr int kWidth = 4;
constexpr int kRegisters = 32;
#endif
typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));
typedef float UnalignedVector
    __attribute__((vector_size(kWidth * sizeof(float)), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }

inline Vector load(const bfloat16* p) {
  typedef uint16_t Bits __attribute__((vector_size(kWidth * sizeof(uint16_t))));
  typedef uint32_t Wide __attribute__((vector_size(kWidth * sizeof(uint32_t))));
  Bits bits;
  std::memcpy(&bits, p, sizeof bits);
  return reinterpret_cast<Vector>(__builtin_convertvector(bits, Wide) << 16);
}

typedef float Vector4 __attribute__((vector_size(16)));
typedef float Vector8 __attribute__((vector_size(32)));

// Adds one half to the other until one number is left.
inline float sum(Vector4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }

template <class Half, class Whole>
Half add_halves(const Whole& v) {
  Half parts[2];
  static_assert(sizeof parts == sizeof v);
  std::memcpy(parts, &v, sizeof v);
  return parts[0] + parts[1];
}

#if defined(__AVX__)
inline float sum(Vector8 v) { return sum(add_halves<Vector4>(v)); }
#endif
#if defined(__AVX512F__)
inline float sum(Vector v) { return sum(add_halves<Vector8>(v)); }
#endif

// exp(x) in float: x = n ln 2 + r with |r| <= ln 2 / 2, and exp(r) by its Taylor polynomial of
// degree 7, whose remainder is below 1e-8 there. Written without branches, so that loops over it
// become vector code. Below -87 it gives 0 but for rounding, above 88 it stays at exp(88).
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float n = std::nearbyint(x * 1.44269504f);
  // ln 2 in two parts, of which the first has few bits: n times it is exact.
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// Threads for work of so many elements: waking one costs as much as a few thousand of them.
inline int threads_for(int64_t elements, int threads) { return elements < 16384 ? 1 : threads; }

}  // namespace plait
