// libcublasLt: the products that the program asks for, by plain loops in f64.
#pragma once
#include <atomic>
#include <map>
#include "memory.h"
#include "nccl.h"

namespace nvidia {

enum : int { LT_SUCCESS = 0, LT_INVALID = 7, LT_FAILED = 13, LT_UNSUPPORTED = 15 };
enum : int { LT_F32 = 0, LT_BF16 = 14, BIAS = 4, BGRADB = 512 };

// Handles of the library, and descriptors of any kind, that have not been given back.
inline std::atomic<int> handles, described;

struct Description { int transposed[2] = {0, 0}, epilogue = 1, bias_type = 0; char* bias = nullptr; int64_t bias_step = 0; };
struct Layout { int type; uint64_t rows, cols; int64_t lead; int batch = 1; int64_t step = 0; };
struct Algorithm { uint64_t data[8]; };
struct Preference { uint32_t alignments[4] = {256, 256, 256, 256}; };   // of a, b, c, d, in bytes
struct Guess { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };

inline float lt_get(const char* at, size_t i, int type) { return get(at, i, type == LT_F32 ? FLOAT32 : BFLOAT16); }
inline void lt_put(char* at, size_t i, int type, float x) { put(at, i, type == LT_F32 ? FLOAT32 : BFLOAT16, x); }

// The bytes that a matrix covers, from its first batch to its last.
inline size_t covers(const Layout& m) {
    return ((m.batch - 1) * m.step + (m.cols - 1) * m.lead + m.rows) * (m.type == LT_F32 ? 4 : 2);
}

// d = op(a) op(b) + beta c, column-major.
inline void multiply(const Description& how, const char* a, const Layout& la, const char* b, const Layout& lb, float beta,
                     const char* c, const Layout& lc, char* d, const Layout& ld) {
    const size_t rows = ld.rows, cols = ld.cols, depth = how.transposed[0] ? la.rows : la.cols;
    if ((how.transposed[0] ? la.cols : la.rows) != rows || (how.transposed[1] ? lb.rows : lb.cols) != cols ||
        (how.transposed[1] ? lb.cols : lb.rows) != depth)
        misused("cublasLtMatmul: shapes do not fit");
    need(a, covers(la), "a product's a"), need(b, covers(lb), "a product's b"), need(d, covers(ld), "a product's d");
    if (beta != 0) need(c, covers(lc), "a product's c");
    if (how.bias) need(how.bias, 1, "a product's bias");
    std::vector<double> left(rows * depth), right(depth);
    for (int n = 0; n < ld.batch; n++) {
        const auto at = [n](const Layout& m, size_t i, size_t j) { return n * m.step + j * m.lead + i; };
        for (size_t i = 0; i < rows; i++)
            for (size_t k = 0; k < depth; k++)
                left[i * depth + k] = lt_get(a, how.transposed[0] ? at(la, k, i) : at(la, i, k), la.type);
        for (size_t j = 0; j < cols; j++) {
            double of_b = 0;
            for (size_t k = 0; k < depth; k++)
                of_b += right[k] = lt_get(b, how.transposed[1] ? at(lb, j, k) : at(lb, k, j), lb.type);
            if (how.epilogue == BGRADB) lt_put(how.bias, j, how.bias_type, float(of_b));
            for (size_t i = 0; i < rows; i++) {
                double sum = 0;
                for (size_t k = 0; k < depth; k++) sum += left[i * depth + k] * right[k];
                if (beta != 0) sum += beta * lt_get(c, at(lc, i, j), lc.type);
                if (how.epilogue == BIAS) sum += lt_get(how.bias, n * how.bias_step + i, how.bias_type);
                lt_put(d, at(ld, i, j), ld.type, float(sum));
            }
        }
    }
}

}  // namespace nvidia

using namespace nvidia;

extern "C" {

size_t cublasLtGetVersion() { return 130100; }
int cublasLtCreate(void** made) { return *made = new char, handles++, LT_SUCCESS; }

int cublasLtDestroy(void* handle) {
    delete static_cast<char*>(handle);
    if (--handles == 0 && described != 0) misused("cublasLtDestroy: %d descriptors are left behind", described.load());
    return LT_SUCCESS;
}

int cublasLtMatmulDescCreate(Description** made, int, int) { return *made = new Description, described++, LT_SUCCESS; }
int cublasLtMatmulDescDestroy(Description* gone) { return delete gone, described--, LT_SUCCESS; }

int cublasLtMatmulDescSetAttribute(Description* of, int attribute, const void* value, size_t bytes) {
    const std::map<int, std::pair<void*, size_t>> known = {{3, {&of->transposed[0], 4}}, {4, {&of->transposed[1], 4}},
        {7, {&of->epilogue, 4}}, {8, {&of->bias, 8}}, {10, {&of->bias_step, 8}}, {26, {&of->bias_type, 4}}};
    const auto found = known.find(attribute);
    if (found == known.end() || found->second.second != bytes) return LT_INVALID;
    return memcpy(found->second.first, value, bytes), LT_SUCCESS;
}

int cublasLtMatrixLayoutCreate(Layout** made, int type, uint64_t rows, uint64_t cols, int64_t lead) {
    if ((type != LT_F32 && type != LT_BF16) || lead < int64_t(rows)) return LT_INVALID;
    return *made = new Layout{type, rows, cols, lead}, described++, LT_SUCCESS;
}
int cublasLtMatrixLayoutDestroy(Layout* gone) { return delete gone, described--, LT_SUCCESS; }

int cublasLtMatrixLayoutSetAttribute(Layout* of, int attribute, const void* value, size_t bytes) {
    if (attribute == 5 && bytes == 4) return memcpy(&of->batch, value, bytes), LT_SUCCESS;
    if (attribute == 6 && bytes == 8) return memcpy(&of->step, value, bytes), LT_SUCCESS;
    return LT_INVALID;
}

int cublasLtMatmulPreferenceCreate(Preference** made) { return *made = new Preference, described++, LT_SUCCESS; }
int cublasLtMatmulPreferenceDestroy(Preference* gone) { return delete gone, described--, LT_SUCCESS; }

int cublasLtMatmulPreferenceSetAttribute(Preference* of, int attribute, const void* value, size_t bytes) {
    if (attribute == 1 && bytes == 8) return LT_SUCCESS;   // workspace
    if (attribute == 3 && bytes == 4) return LT_SUCCESS;   // how sums may be split
    if (attribute < 5 || attribute > 8 || bytes != 4) return LT_INVALID;
    return memcpy(&of->alignments[attribute - 5], value, bytes), LT_SUCCESS;
}

// Two algorithms; none for the bias gradient of a batch, or of some shapes, as on a device.
int cublasLtMatmulAlgoGetHeuristic(void*, Description* how, Layout*, Layout*, Layout*, Layout* d, Preference* asked, int room,
                                   Guess* guesses, int* count) {
    if (how->epilogue == BGRADB && (d->batch > 1 || d->rows % 16 != 0)) return LT_UNSUPPORTED;
    for (*count = 0; *count < 2 && *count < room; ++*count) {
        guesses[*count] = {};
        guesses[*count].algorithm.data[0] = 1 + *count;
        memcpy(&guesses[*count].algorithm.data[1], asked->alignments, sizeof asked->alignments);
    }
    return LT_SUCCESS;
}

int cublasLtMatmulAlgoCheck(void*, Description*, Layout*, Layout*, Layout*, Layout*, const Algorithm* algorithm, Guess* found) {
    if (algorithm->data[0] < 1 || algorithm->data[0] > 2) return LT_UNSUPPORTED;
    return *found = {*algorithm, 0, LT_SUCCESS, 1, {}}, LT_SUCCESS;
}

int cublasLtMatmul(void*, Description* how, const float* alpha, const char* a, Layout* la, const char* b, Layout* lb,
                   const float* beta, const char* c, Layout* lc, char* d, Layout* ld, const Algorithm* algorithm, char* workspace,
                   size_t workspace_bytes, Stream* stream) {
    Lock lock(house);
    if (devices[stream->device].failed) return LT_FAILED;
    // An algorithm may rely on the alignments that were declared.
    uint32_t aligned[4];
    memcpy(aligned, &algorithm->data[1], sizeof aligned);
    const void* const at[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if (uint64_t(at[i]) % aligned[i]) misused("cublasLtMatmul: %p is no multiple of %u", at[i], aligned[i]);
    if (*alpha != 1 || algorithm->data[0] < 1 || algorithm->data[0] > 2) return LT_INVALID;
    static const char form = 0;
    // By value: descriptors may be changed and freed before the product is computed.
    add_plain(stream, &form,
              [=, how = *how, la = *la, lb = *lb, lc = *lc, ld = *ld, beta = *beta, scratch = algorithm->data[0] == 2] {
                  if (scratch) {
                      need(workspace, workspace_bytes, "a product's workspace");
                      memset(workspace, 0xFF, std::min<size_t>(workspace_bytes, 4096));
                  }
                  multiply(how, a, la, b, lb, beta, c, lc, d, ld);
              });
    return LT_SUCCESS;
}

}  // extern "C"
