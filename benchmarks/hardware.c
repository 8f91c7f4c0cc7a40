// What the machine can do at best: bytes read from memory a second, products and sums a second.
// Compiled with -march=native by hardware.py, which calls each function from one thread a core.

#include <stdint.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

// Reads `count` 64-byte lines of `data` once. Wide sums in eight chains, so that loads are all it
// waits for.
typedef int64_t line __attribute__((vector_size(64)));

int64_t read_lines(const line *data, int64_t count) {
  line sums[8] = {{0}};
  for (int64_t i = 0; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; j++) sums[j] += data[i + j];
  line sum = {0};
  for (int j = 0; j < 8; j++) sum += sums[j];
  return sum[0] ^ sum[7];
}

// Twelve chains that don't wait for one another hide an instruction's latency. They are named, one
// by one, because a compiler keeps an array's elements in memory where the asm statement that
// forbids it to fold the loop names them.
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define CHAINS 12
#define KEEP(i) __asm__ volatile("" : REGISTER(sum##i));

#if defined(__aarch64__)
#define VECTOR_BYTES 16
#define REGISTER "+w"
#else
#define REGISTER "+v"
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#endif

// fp32 multiply-adds. Returns the operations done: two for each lane.
typedef float lanes __attribute__((vector_size(VECTOR_BYTES)));

int64_t fp32_operations(int64_t rounds, float *sink) {
  lanes one = {0}, tiny = {0};
  one += 1.0f, tiny += 1e-9f;
  __asm__ volatile("" : REGISTER(one)); // not known to be 1, or no product would be left
#define START(i) lanes sum##i = tiny;
#define MULTIPLY_ADD(i) sum##i = sum##i * one + tiny;
#define LANE(i) +sum##i[0]
  EACH(START)
  for (int64_t round = 0; round < rounds; round++) {
    EACH(MULTIPLY_ADD)
    EACH(KEEP)
  }
  *sink = 0 EACH(LANE);
#undef START
  return rounds * CHAINS * (VECTOR_BYTES / 4) * 2;
}

// Products of unsigned and signed bytes, summed in 32 bits: VNNI where there is one, else nothing.
int64_t int8_operations(int64_t rounds, int32_t *sink) {
  *sink = 0;
#if defined(__AVX512VNNI__)
  __m512i ones = _mm512_set1_epi8(1);
#define START(i) __m512i sum##i = _mm512_setzero_si512();
#define PRODUCT(i) sum##i = _mm512_dpbusd_epi32(sum##i, ones, ones);
#define TOTAL(i) *sink += _mm512_reduce_add_epi32(sum##i);
  EACH(START)
  for (int64_t round = 0; round < rounds; round++) {
    EACH(PRODUCT)
    EACH(KEEP)
  }
  EACH(TOTAL)
  return rounds * CHAINS * 64 * 2;
#else
  (void)rounds;
  return 0;
#endif
}
