#include "dense.h"

#include <algorithm>
#include <cmath>

namespace learned_resizer::test {
namespace {

const double kPi = std::acos(-1.0);

double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(kPi * x) / (kPi * x); }

double cubic(double x, double a) {
    x = std::fabs(x);
    if (x < 1.0) return (a + 2.0) * x * x * x - (a + 3.0) * x * x + 1.0;
    if (x < 2.0) return a * x * x * x - 5.0 * a * x * x + 8.0 * a * x - 4.0 * a;
    return 0.0;
}

double kernel(Filter filter, double x, double a) {
    switch (filter) {
        case Filter::kTriangle:
            return std::max(0.0, 1.0 - std::fabs(x));
        case Filter::kCubic:
            return cubic(x, a);
        case Filter::kLanczos:
            return std::fabs(x) < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
        case Filter::kBox:
            return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
        case Filter::kHamming:
            return std::fabs(x) < 1.0 ? sinc(x) * (0.54 + 0.46 * std::cos(kPi * x)) : 0.0;
    }
    return 0.0;
}

}  // namespace

Dense resampling_matrix(int64_t in, int64_t out, Filter filter, bool antialias, double offset, double extent) {
    Dense m{out, in, std::vector<double>(out * in)};
    const double scale = (extent == 0.0 ? static_cast<double>(in) : extent) / static_cast<double>(out);
    const double stretch = antialias ? std::max(scale, 1.0) : 1.0;
    for (int64_t o = 0; o < out; ++o) {
        const double center = (o + 0.5) * scale + offset;
        double total = 0.0;
        if (antialias) {
            for (int64_t i = 0; i < in; ++i)
                total += m.value[o * in + i] = kernel(filter, (i + 0.5 - center) / stretch, -0.5);
        } else {
            // torch keeps the linear filter's coordinate from leaving the image on the left; on the right the border
            // does it.
            const double at = filter == Filter::kTriangle ? std::max(center, 0.5) : center;
            for (int64_t i = -3; i < in + 3; ++i) {
                const double w = kernel(filter, i + 0.5 - at, -0.75);
                m.value[o * in + std::clamp<int64_t>(i, 0, in - 1)] += w;
                total += w;
            }
        }
        for (int64_t i = 0; i < in; ++i) m.value[o * in + i] /= total;
    }
    return m;
}

Dense transposed(const Dense& m) {
    Dense t{m.columns, m.rows, std::vector<double>(m.value.size())};
    for (int64_t r = 0; r < m.rows; ++r)
        for (int64_t c = 0; c < m.columns; ++c) t.value[c * m.rows + r] = m.at(r, c);
    return t;
}

Table table_of(const Dense& m) {
    Table t;
    t.in_size = m.columns;
    t.offset.push_back(0);
    int64_t previous = 0;
    for (int64_t r = 0; r < m.rows; ++r) {
        int64_t first = m.columns, last = -1;
        for (int64_t c = 0; c < m.columns; ++c) {
            if (m.at(r, c) == 0.0) continue;
            first = std::min(first, c);
            last = c;
        }
        if (last >= 0) previous = first;
        t.start.push_back(static_cast<int32_t>(previous));
        for (int64_t c = first; c <= last; ++c) t.weight.push_back(m.at(r, c));
        t.offset.push_back(static_cast<int32_t>(t.weight.size()));
    }
    return t;
}

}  // namespace learned_resizer::test
