// An independent oracle: filters and band matrices from their definition, as dense float64 matrices.
#pragma once

#include <cstdint>
#include <vector>

namespace learned_resizer::test {

enum class Filter { kTriangle, kCubic, kLanczos, kBox, kHamming };

struct Dense {
    int64_t rows = 0, columns = 0;
    std::vector<double> value;  // [rows][columns]
    double at(int64_t r, int64_t c) const { return value[r * columns + c]; }
};

// Weights of `out` outputs over `in` inputs. Output o is centred at (o + 1/2) in/out in input coordinates, input i at i
// + 1/2. antialias: the filter widened by max(in/out, 1), taken where its support covers the input's centre, normalised
// to sum 1. Without: the plain filter (cubic with a = -0.75), taps beyond the border moved onto the border pixel.
// offset, extent: of the part of the inputs that the outputs fill; an extent of 0: all.
Dense resampling_matrix(int64_t in, int64_t out, Filter filter, bool antialias, double offset = 0.0,
                        double extent = 0.0);
Dense transposed(const Dense& matrix);

// The same matrix in the planner's format. Zeros between the first and last non-zero of a row are kept.
struct Table {
    int64_t in_size = 0;
    std::vector<int32_t> start, offset;
    std::vector<double> weight;
};
Table table_of(const Dense& matrix);

}  // namespace learned_resizer::test
