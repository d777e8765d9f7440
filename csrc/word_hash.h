// Hashes of words and of n-grams, and the sizes of tables of them.
#ifndef BILSTM_WORD_HASH_H
#define BILSTM_WORD_HASH_H

#include <cstdint>

namespace bilstm {

#if defined(__GNUC__) || defined(__clang__)
#define BILSTM_PREFETCH(address) __builtin_prefetch(address)
#else
#define BILSTM_PREFETCH(address) static_cast<void>(address)
#endif

// Four units at a time: most words are one or two multiplications. Reads up to three units behind the word, which the
// caller has room for; they do not count.
inline uint64_t hash_units(const uint16_t *units, int64_t length) {
    uint64_t hash = static_cast<uint64_t>(length) * 0x9E3779B97F4A7C15ull;
    for (; length > 0; units += 4, length -= 4) {
        uint64_t four = 0;
        for (int64_t i = 0; i < 4; ++i) {  // one load, in either order of bytes
            four |= static_cast<uint64_t>(units[i]) << (16 * i);
        }
        if (length < 4) four &= (1ull << (16 * length)) - 1;
        hash = (hash ^ four) * 0xD6E8FEB86659FD93ull;
        hash ^= hash >> 32;
    }
    return hash;
}

inline uint64_t hash_key(int64_t key) {
    uint64_t hash = static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15ull;
    return hash ^ (hash >> 32);
}

inline int64_t slots_for(int64_t count) {
    int64_t slots = 16;
    while (slots < 2 * count) slots *= 2;
    return slots;
}

}  // namespace bilstm

#endif
