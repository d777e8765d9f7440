/* Texts to word ids, and word ids to the margins of linear n-gram models: what stands before and beside the layers.
 *
 * Both do exactly what the Python modules `bilstm.data.tokenizers` (lower-cased words) and `bilstm.runtime.ngram_linear`
 * do, which are the reference; a text that holds anything not handled here (HTML that is more than a line break, an
 * entity, a code point outside the tables) is left to them. Plain scalar code; no state between calls; any number of
 * threads may share the tables. */
#ifndef BILSTM_WORDS_H
#define BILSTM_WORDS_H

#include <stdint.h>

#include "bilstm_engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever the meaning of a function below changes. */
#define BILSTM_WORDS_VERSION 3

typedef struct bilstm_vocabulary bilstm_vocabulary; /* words to two ids each */
typedef struct bilstm_word_counts bilstm_word_counts; /* words that came so far, and how often each */
typedef struct bilstm_ngrams bilstm_ngrams;         /* n-grams and the linear models over them */

BILSTM_API int bilstm_words_version(void);

/* Word w is units[offsets[w]] .. units[offsets[w + 1]] in UTF-16 and has the two ids ids[2 * w] and ids[2 * w + 1]; any
 * other word has missing[0] and missing[1]. All words differ; units and twice the words are less than 2^32 together.
 * NULL if out of memory. Copies what it needs. */
BILSTM_API bilstm_vocabulary *bilstm_vocabulary_create(const uint16_t *units, const int64_t *offsets,
                                                       const int32_t *ids, int64_t count, const int32_t *missing);
BILSTM_API void bilstm_vocabulary_free(bilstm_vocabulary *vocabulary);

/* Find the words of n texts and their ids.
 *   lower    (65536) what each UTF-16 unit becomes; 0xFFFF: the text is not handled here
 *   letters  (65536) 1 if the (lowered) unit is a letter or digit of a word
 *   units    the texts one after another, text t is units[offsets[t]] .. units[offsets[t + 1]]
 *   ids      two rooms for offsets[n] ids each, the first and the second id of every word; ids[1] may be NULL
 *   ends     (n) how many ids were written when text t was done
 *   handled  (n) 0 if text t was left out and has no ids
 * Returns BILSTM_OK or BILSTM_ERROR_MEMORY. */
BILSTM_API int bilstm_words_encode(const uint16_t *lower, const uint8_t *letters, const bilstm_vocabulary *vocabulary,
                                   const uint16_t *units, const int64_t *offsets, int64_t n, int64_t *const *ids,
                                   int64_t *ends, uint8_t *handled);

/* Words of texts, counted. Fewer than 2^32 different ones. NULL if out of memory. */
BILSTM_API bilstm_word_counts *bilstm_word_counts_create(void);
BILSTM_API void bilstm_word_counts_free(bilstm_word_counts *counts);

/* Count the words of n more texts; the rest as in bilstm_words_encode. After BILSTM_ERROR_MEMORY only freeing is left. */
BILSTM_API int bilstm_word_counts_add(bilstm_word_counts *counts, const uint16_t *lower, const uint8_t *letters,
                                      const uint16_t *units, const int64_t *offsets, int64_t n, uint8_t *handled);
/* How many words there are, and how many units they have together. */
BILSTM_API void bilstm_word_counts_sizes(const bilstm_word_counts *counts, int64_t *words, int64_t *units);
/* The words in the order in which they came first: the units of all, where those of each end, how often each came. */
BILSTM_API void bilstm_word_counts_read(const bilstm_word_counts *counts, uint16_t *units, int64_t *ends,
                                        int64_t *often);

/* Keys of order k + 2 are keys[k][0 .. sizes[k]), ascending: (number of the first k + 1 words) * words + last word.
 * All n-grams together are fewer than 2^32. NULL if out of memory. Copies what it needs. */
BILSTM_API bilstm_ngrams *bilstm_ngrams_create(int64_t words, int orders, const int64_t *const *keys,
                                               const int64_t *sizes);
/* Add a linear model over the first `features` n-grams: weights (outputs, features), intercepts (outputs), and for
 * TF-IDF the inverse frequencies (features), else NULL. The arrays must outlive the handle. 0, or 1 if out of memory. */
BILSTM_API int bilstm_ngrams_add(bilstm_ngrams *ngrams, int64_t outputs, int64_t features, const float *weights,
                                 const double *intercepts, const double *inverse_frequency);
BILSTM_API void bilstm_ngrams_free(bilstm_ngrams *ngrams);

/* Margins (n, outputs, models) of n texts of word numbers (-1: a word in no n-gram); text t is
 * words[offsets[t]] .. words[offsets[t + 1]]. levels[c] is 1 + log(c) for 1 <= c < level_count. Sums run over the n-grams
 * of a text in ascending order, in double. BILSTM_OK; BILSTM_ERROR_MEMORY; BILSTM_ERROR_ARGUMENT if an n-gram occurs
 * level_count times or more in a text. */
BILSTM_API int bilstm_ngrams_margins(const bilstm_ngrams *ngrams, const int64_t *words, const int64_t *offsets,
                                     int64_t n, const double *levels, int64_t level_count, double *margins);

#ifdef __cplusplus
}
#endif

#endif
