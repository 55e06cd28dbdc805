// Attention of single queries over paged keys and values, read where they lie.
//
// A query's keys are cut into splits of a fixed length, so that few long sequences keep all
// threads busy and no sum depends on how many there are. A split yields, for each head, its
// largest score, the sum of its weights and the weighted sum of its values; splits are merged as
// in "Flash-Decoding for long-context inference" (Dao et al., 2023).
#include <algorithm>
#include <memory>

#include "common.h"

namespace plait {
namespace {

constexpr int64_t kSplit = 128;  // keys of a split
constexpr int64_t kLine = 64;    // bytes that memory is fetched in

struct Call {
  int64_t q_stride, q_head_stride;    // elements, from token to token and head to head
  int64_t block_stride, block_size;   // elements, tokens
  int64_t heads, kv_heads, head_dim;
  float scale;
};

// Memory that is wanted soon. Where the next block lies, no hardware can guess; and asked for all
// at once, it would hold up the work that it is to be hidden behind.
struct Ahead {
  const char* bytes;
  int64_t lines;  // of each step

  // from: elements that are wanted when so many steps are done
  template <class T>
  Ahead(const T* from, int64_t elements, int64_t steps)
      : bytes(reinterpret_cast<const char*>(from)),
        lines(from ? (elements * static_cast<int64_t>(sizeof(T)) / kLine + steps) / steps : 0) {}

  void step() {
    for (int64_t i = 0; i < lines; ++i, bytes += kLine) __builtin_prefetch(bytes);
  }
};

// Calls use(place, first, count) for each piece of a block that holds keys first … last - 1.
template <class Use>
void each_block(const Call& call, int64_t first, int64_t last, Use use) {
  for (int64_t t = first; t < last;) {
    const int64_t end = std::min(last, (t / call.block_size + 1) * call.block_size);
    use(t, end - t);
    t = end;
  }
}

// score[j] = query · key j
template <class T, int DIM>
void dot_keys(const float* query, const T* keys, int64_t stride, int64_t count, int64_t dim,
              float* score, Ahead& ahead) {
  if constexpr (DIM != 0) {
    Vector parts[DIM / kWidth];
    for (int i = 0; i < DIM / kWidth; ++i) parts[i] = load(query + i * kWidth);
    for (int64_t j = 0; j < count; ++j) {
      ahead.step();
      Vector products = parts[0] * load(keys + j * stride);
      for (int i = 1; i < DIM / kWidth; ++i)
        products += parts[i] * load(keys + j * stride + i * kWidth);
      score[j] = sum(products);
    }
  } else {
    for (int64_t j = 0; j < count; ++j) {
      ahead.step();
      float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < dim; ++i) dot += query[i] * to_float(keys[j * stride + i]);
      score[j] = dot;
    }
  }
}

// result += Σ_j weight[j] · value j
template <class T, int DIM>
void add_values(const float* weight, const T* values, int64_t stride, int64_t count, int64_t dim,
                float* result, Ahead& ahead) {
  if constexpr (DIM != 0) {
    Vector sums[DIM / kWidth];
    for (int i = 0; i < DIM / kWidth; ++i) sums[i] = load(result + i * kWidth);
    for (int64_t j = 0; j < count; ++j) {
      ahead.step();
      for (int i = 0; i < DIM / kWidth; ++i)
        sums[i] += weight[j] * load(values + j * stride + i * kWidth);
    }
    for (int i = 0; i < DIM / kWidth; ++i) store(result + i * kWidth, sums[i]);
  } else {
    for (int64_t j = 0; j < count; ++j) {
      ahead.step();
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) result[i] += weight[j] * to_float(values[j * stride + i]);
    }
  }
}

// One token's query heads over keys first … last - 1. DIM is the head dim where it is known when
// this is compiled, else 0. scaled: [heads, dim], score: [heads, kSplit], both to be used freely.
// out: [heads, splits, dim + 2] from this split on.
template <class T, int DIM>
void attend(const Call& call, const T* q, const T* kv, const int32_t* blocks, int64_t first,
            int64_t last, int64_t splits, float* scaled, float* score, float* out) {
  const int64_t dim = DIM ? DIM : call.head_dim;
  const int64_t group = call.heads / call.kv_heads;
  const int64_t token_stride = call.kv_heads * dim;
  const int64_t values = call.block_size * token_stride;  // from a block's keys to its values
  const auto place = [&](int64_t t) {
    return kv + blocks[t / call.block_size] * call.block_stride +
           t % call.block_size * token_stride;
  };
  for (int64_t h = 0; h < call.heads; ++h)
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i)
      scaled[h * dim + i] = to_float(q[h * call.q_head_stride + i]) * call.scale;

  each_block(call, first, last, [&](int64_t t, int64_t count) {
    const T* keys = place(t);
    // The values follow the keys.
    const T* wanted = t + count < last ? place(t + count) : place(first) + values;
    Ahead ahead(wanted, values, call.heads * count);
    for (int64_t h = 0; h < call.heads; ++h)
      dot_keys<T, DIM>(scaled + h * dim, keys + h / group * dim, token_stride, count, dim,
                       score + h * kSplit + t - first, ahead);
  });
  for (int64_t h = 0; h < call.heads; ++h) {
    float* weights = score + h * kSplit;
    float* result = out + h * splits * (dim + 2);
    float largest = weights[0];
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < last - first; ++j) largest = std::max(largest, weights[j]);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < last - first; ++j) {
      weights[j] = exponential(weights[j] - largest);
      sum += weights[j];
    }
    result[0] = largest;
    result[1] = sum;
    std::fill_n(result + 2, dim, 0.0f);
  }
  each_block(call, first, last, [&](int64_t t, int64_t count) {
    const T* rows = place(t) + values;
    const T* wanted = t + count < last ? place(t + count) + values : nullptr;
    Ahead ahead(wanted, values, call.heads * count);
    for (int64_t h = 0; h < call.heads; ++h)
      add_values<T, DIM>(score + h * kSplit + t - first, rows + h / group * dim, token_stride,
                         count, dim, out + h * splits * (dim + 2) + 2, ahead);
  });
}

template <class T>
auto* attend_for(int64_t head_dim) {
  switch (head_dim) {
    case 64: return &attend<T, 64>;
    case 128: return &attend<T, 128>;
    default: return &attend<T, 0>;
  }
}

// from: [splits, dim + 2]
template <class T>
void merge(const float* from, int64_t splits, int64_t dim, float* sums, T* to) {
  const int64_t entry = dim + 2;
  float largest = from[0];
  for (int64_t s = 1; s < splits; ++s) largest = std::max(largest, from[s * entry]);
  float total = 0.0f;
  std::fill_n(sums, dim, 0.0f);
  for (int64_t s = 0; s < splits; ++s) {
    const float weight = exponential(from[s * entry] - largest);
    total += weight * from[s * entry + 1];
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) sums[i] += weight * from[s * entry + 2 + i];
  }
#pragma omp simd
  for (int64_t i = 0; i < dim; ++i) to[i] = from_float<T>(sums[i] / total);
}

// row, seen: each token's row of the table, and how many keys it sees.
// scratch: float [tokens, heads, splits, dim + 2]
template <class T>
void decode(const Call& call, const T* q, const T* kv, const int32_t* table, int64_t table_stride,
            const int32_t* row, const int32_t* seen, T* out, float* scratch, int64_t tokens,
            int64_t splits, int64_t elements, int threads) {
  const int64_t dim = call.head_dim, of_head = splits * (dim + 2);
  auto* const attend_one = attend_for<T>(dim);
#pragma omp parallel num_threads(threads_for(elements, threads))
  {
    std::unique_ptr<float[]> scaled(new float[call.heads * dim]);
    std::unique_ptr<float[]> score(new float[call.heads * kSplit]);
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t split = 0; split < splits; ++split) {
        const int64_t first = split * kSplit, last = std::min<int64_t>(seen[t], first + kSplit);
        if (first < last)
          attend_one(call, q + t * call.q_stride, kv, table + row[t] * table_stride, first, last,
                     splits, scaled.get(), score.get(),
                     scratch + t * call.heads * of_head + split * (dim + 2));
      }
#pragma omp for collapse(2)
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < call.heads; ++h)
        merge(scratch + (t * call.heads + h) * of_head, (seen[t] + kSplit - 1) / kSplit, dim,
              scaled.get(), out + (t * call.heads + h) * dim);
  }
}

}  // namespace
}  // namespace plait

PLAIT_EXPORT int64_t plait_attention_split() { return plait::kSplit; }

PLAIT_EXPORT void plait_attention(int32_t dtype, const void* q, int64_t q_stride,
                                  int64_t q_head_stride, const void* kv, int64_t block_stride,
                                  const int32_t* table, int64_t table_stride, const int32_t* row,
                                  const int32_t* seen, void* out, float* scratch, int64_t tokens,
                                  int64_t splits, int64_t elements, int64_t heads,
                                  int64_t kv_heads, int64_t head_dim, int64_t block_size,
                                  float scale, int32_t threads) {
  const plait::Call call{q_stride, q_head_stride, block_stride, block_size,
                         heads,    kv_heads,      head_dim,     scale};
  if (dtype == plait::kFloat32)
    plait::decode(call, static_cast<const float*>(q), static_cast<const float*>(kv), table,
                  table_stride, row, seen, static_cast<float*>(out), scratch, tokens, splits,
                  elements, threads);
  else
    plait::decode(call, static_cast<const plait::bfloat16*>(q),
                  static_cast<const plait::bfloat16*>(kv), table, table_stride, row, seen,
                  static_cast<plait::bfloat16*>(out), scratch, tokens, splits, elements, threads);
}
