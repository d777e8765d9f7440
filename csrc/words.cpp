// Texts to word ids, and how often each word comes; bilstm_words.h says what.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "bilstm_words.h"
#include "word_matcher.h"

using bilstm::hash_units;
using bilstm::slots_for;

// Both ids of a word stand in one slot. The units of all words follow each other, each word behind its length.
struct bilstm_vocabulary {
    struct Slot {
        uint32_t tag, begin;  // begin 0: empty (the length of the first word stands there)
        int32_t ids[2];
    };
    std::vector<uint16_t> units;
    std::vector<Slot> slots;
    int32_t missing[2];

    bool is_word(const Slot &slot, const uint16_t *word, int64_t length) const {
        const uint16_t *own = units.data() + slot.begin;
        return (static_cast<int64_t>(own[-1]) << 16 | own[-2]) == length &&
               std::memcmp(own, word, length * sizeof(uint16_t)) == 0;
    }

    const int32_t *find(const uint16_t *word, int64_t length, uint64_t hash) const {
        const uint64_t mask = slots.size() - 1;
        for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
            const Slot &slot = slots[at];
            if (slot.begin == 0) return missing;
            if (slot.tag == static_cast<uint32_t>(hash >> 32) && is_word(slot, word, length)) return slot.ids;
        }
    }
};

int bilstm_words_version(void) { return BILSTM_WORDS_VERSION; }

bilstm_vocabulary *bilstm_vocabulary_create(const uint16_t *units, const int64_t *offsets, const int32_t *ids,
                                            int64_t count, const int32_t *missing) {
    try {
        auto made = std::make_unique<bilstm_vocabulary>();
        std::copy_n(missing, 2, made->missing);
        made->units.reserve(offsets[count] + 2 * count + 4);
        made->slots.assign(slots_for(count), {0, 0, {0, 0}});
        const uint64_t mask = made->slots.size() - 1;
        std::vector<uint32_t> begins;
        for (int64_t word = 0; word < count; ++word) {
            const int64_t length = offsets[word + 1] - offsets[word];
            made->units.push_back(static_cast<uint16_t>(length & 0xFFFF));
            made->units.push_back(static_cast<uint16_t>(length >> 16));
            begins.push_back(static_cast<uint32_t>(made->units.size()));
            made->units.insert(made->units.end(), units + offsets[word], units + offsets[word + 1]);
        }
        made->units.insert(made->units.end(), 4, 0);
        for (int64_t word = 0; word < count; ++word) {
            const int64_t length = offsets[word + 1] - offsets[word];
            if (length == 0) continue;  // is no token
            const uint64_t hash = hash_units(made->units.data() + begins[word], length);
            uint64_t at = hash & mask;
            while (made->slots[at].begin != 0) at = (at + 1) & mask;
            made->slots[at] = {static_cast<uint32_t>(hash >> 32), begins[word], {ids[2 * word], ids[2 * word + 1]}};
        }
        return made.release();
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void bilstm_vocabulary_free(bilstm_vocabulary *vocabulary) { delete vocabulary; }

int bilstm_words_encode(const uint16_t *lower, const uint8_t *letters, const bilstm_vocabulary *vocabulary,
                        const uint16_t *units, const int64_t *offsets, int64_t n, int64_t *const *ids, int64_t *ends,
                        uint8_t *handled) {
    try {
        bilstm::TokenFinder finder(lower, letters);
        const uint64_t mask = vocabulary->slots.size() - 1;
        int64_t count = 0;
        for (int64_t text = 0; text < n; ++text) {
            handled[text] = finder.find(units + offsets[text], offsets[text + 1] - offsets[text], [&](uint64_t hash) {
                BILSTM_PREFETCH(&vocabulary->slots[hash & mask]);
            });
            // The tables are larger than the caches: what a word needs is asked for before it is read.
            for (const bilstm::Token &token : finder.tokens) {
                const bilstm_vocabulary::Slot &slot = vocabulary->slots[token.hash & mask];
                BILSTM_PREFETCH(vocabulary->units.data() + slot.begin);
            }
            for (const bilstm::Token &token : finder.tokens) {
                const int32_t *found = vocabulary->find(token.begin, token.length, token.hash);
                ids[0][count] = found[0];
                if (ids[1] != nullptr) ids[1][count] = found[1];
                ++count;
            }
            ends[text] = count;
        }
        return BILSTM_OK;
    } catch (const std::bad_alloc &) {
        return BILSTM_ERROR_MEMORY;
    }
}

// ---- counting --------------------------------------------------------------------------------------------------------

// Words in the order in which they came; a slot names a word by its number.
struct bilstm_word_counts {
    struct Slot {
        uint32_t tag, number;  // number: place among the words + 1; 0: empty
    };
    std::vector<Slot> slots = std::vector<Slot>(slots_for(8));
    std::vector<uint16_t> units;
    std::vector<int64_t> ends, counts;  // where the units of each word end, and how often it came
    std::vector<uint64_t> hashes;

    bool is_word(int64_t number, const bilstm::Token &token) const {
        const int64_t begin = number ? ends[number - 1] : 0;
        return ends[number] - begin == token.length &&
               std::memcmp(units.data() + begin, token.begin, token.length * sizeof(uint16_t)) == 0;
    }

    void put(uint64_t hash, uint32_t number) {
        const uint64_t mask = slots.size() - 1;
        uint64_t at = hash & mask;
        while (slots[at].number != 0) at = (at + 1) & mask;
        slots[at] = {static_cast<uint32_t>(hash >> 32), number};
    }

    void add(const bilstm::Token &token) {
        const uint64_t mask = slots.size() - 1;
        for (uint64_t at = token.hash & mask; slots[at].number != 0; at = (at + 1) & mask) {
            if (slots[at].tag == static_cast<uint32_t>(token.hash >> 32) && is_word(slots[at].number - 1, token)) {
                ++counts[slots[at].number - 1];
                return;
            }
        }
        units.insert(units.end(), token.begin, token.begin + token.length);
        ends.push_back(static_cast<int64_t>(units.size()));
        counts.push_back(1);
        hashes.push_back(token.hash);
        if (2 * counts.size() > slots.size()) {
            slots.assign(2 * slots.size(), {0, 0});
            for (size_t word = 0; word + 1 < hashes.size(); ++word) put(hashes[word], static_cast<uint32_t>(word + 1));
        }
        put(token.hash, static_cast<uint32_t>(counts.size()));
    }
};

bilstm_word_counts *bilstm_word_counts_create(void) {
    try {
        return new bilstm_word_counts;
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void bilstm_word_counts_free(bilstm_word_counts *counts) { delete counts; }

int bilstm_word_counts_add(bilstm_word_counts *counts, const uint16_t *lower, const uint8_t *letters,
                           const uint16_t *units, const int64_t *offsets, int64_t n, uint8_t *handled) {
    try {
        bilstm::TokenFinder finder(lower, letters);
        for (int64_t text = 0; text < n; ++text) {
            handled[text] = finder.find(units + offsets[text], offsets[text + 1] - offsets[text], [&](uint64_t hash) {
                BILSTM_PREFETCH(&counts->slots[hash & (counts->slots.size() - 1)]);
            });
            for (const bilstm::Token &token : finder.tokens) counts->add(token);
        }
        return BILSTM_OK;
    } catch (const std::bad_alloc &) {
        return BILSTM_ERROR_MEMORY;
    }
}

void bilstm_word_counts_sizes(const bilstm_word_counts *counts, int64_t *words, int64_t *units) {
    *words = static_cast<int64_t>(counts->counts.size());
    *units = static_cast<int64_t>(counts->units.size());
}

void bilstm_word_counts_read(const bilstm_word_counts *counts, uint16_t *units, int64_t *ends, int64_t *often) {
    std::copy(counts->units.begin(), counts->units.end(), units);
    std::copy(counts->ends.begin(), counts->ends.end(), ends);
    std::copy(counts->counts.begin(), counts->counts.end(), often);
}
