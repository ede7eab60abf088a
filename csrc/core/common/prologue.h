// The prologue, which conv and head apply to their input as they load it. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

namespace learned_resizer {

// v = lrelu(scale t + shift [+ skip_scale u + skip_shift]). Features are [batch][height][width][n], dense, of the
// arithmetic's 16-bit type, else float32; vectors are float32.
struct PrologueParams {
    int64_t batch, height, width;
    const void* input;        // t
    const float* scale;       // [n]
    const float* shift;       // [n]
    const void* skip;         // u, or null
    const float* skip_scale;  // [n]
    const float* skip_shift;  // [n]
    float negative_slope;     // 1: no activation
    // Adjoint.
    void* grad_input;  // dt
    void* grad_skip;   // du; null without a skip
};

// Launch requirements of a kernel's instance.
struct Needs {
    int64_t blocks = 0;  // also the rows of its partial results; 0: the instance does not exist
    int shared_bytes = 0;
};

constexpr int kPrologueSums = 3;  // per channel: sum of g' t, of g', of g' u

}  // namespace learned_resizer
