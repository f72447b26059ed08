// The numbers of tppsd/sampling/noise.py: Philox 4x32-10 (Salmon et al., SC 2011).
#pragma once

#include <cstdint>

enum Purpose : uint32_t { DRAFT = 2, TEST = 3, PROPOSAL = 4, PROPOSAL_COIN = 5, TARGET = 7 };

// The random numbers of a row, from those of event number `cursor` on.
struct Noise {
  uint32_t key[2], cursor;

  // Two independent uniforms of 53 bits in (0, 1) for each of `num` draws.
  void draw(double *uniforms, Purpose purpose, int num, int64_t position = 0, int64_t attempt = 0) const {
    for (int i = 0; i < num; i++, uniforms += 2) {
      uint32_t c0 = cursor, c1 = (uint32_t)position << 16 | purpose << 8 | i, c2 = 0, c3 = (uint32_t)attempt;
      for (uint32_t j = 0, k0 = key[0], k1 = key[1]; j < 10; j++, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
        const uint64_t first = (uint64_t)0xD2511F53 * c0, second = (uint64_t)0xCD9E8D57 * c2;
        c0 = (uint32_t)(second >> 32) ^ c1 ^ k0, c1 = (uint32_t)second;
        c2 = (uint32_t)(first >> 32) ^ c3 ^ k1, c3 = (uint32_t)first;
      }
      uniforms[0] = ((double)((uint64_t)c0 << 20 | c1 >> 12) + 0.5) * 0x1p-52;
      uniforms[1] = ((double)((uint64_t)c2 << 20 | c3 >> 12) + 0.5) * 0x1p-52;
    }
  }

  Noise after(int64_t events) const { return {{key[0], key[1]}, cursor + (uint32_t)events}; }
};
