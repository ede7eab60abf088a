// The vertical half of a plan: which image row each step requests, which output row it completes, with which weights.
#include "resample/resample_plan_parts.h"

namespace learned_resizer::planning {
namespace {

// The vertical program of one strip, before its weights are stored in slots.
struct Work {
    int64_t row = -1;     // image row, -1: none
    int64_t output = -1;  // output row that is complete afterwards, -1: none
    int flush = 0;
};

// Groups the steps so that a batch is complete at the end of a group, with idle steps where needed.
std::vector<Work> grouped(const std::vector<Work>& steps, int64_t outputs) {
    std::vector<Work> result;
    int64_t emitted = 0;
    for (const Work& step : steps) {
        result.push_back(step);
        if (step.output < 0) continue;
        ++emitted;
        if (emitted % kBatchRows != 0 && emitted != outputs) continue;
        result.resize(round_up(static_cast<int64_t>(result.size()), kGroupSteps));
        result.back().flush = static_cast<int>((emitted - 1) % kBatchRows + 1);
    }
    return result;
}

std::vector<Work> fold_strip(const Axis& axis, int64_t first, int64_t last) {
    std::vector<Work> steps;
    int64_t next = first;
    axis.sweep(first, last, [&](int64_t row) {
        for (; next < last && axis.end[next] <= row; ++next) steps.push_back({-1, next});  // empty rows
        steps.push_back({row});
        if (next < last && axis.end[next] <= row + 1) steps.back().output = next++;
        for (; next < last && axis.end[next] <= row + 1; ++next) steps.push_back({-1, next});
    });
    for (; next < last; ++next) steps.push_back({-1, next});
    return grouped(steps, last - first);
}

std::vector<Work> gather_strip(const Axis& axis, int64_t first, int64_t last) {
    std::vector<Work> steps;
    int64_t row = 0;
    for (int64_t o = first; o < last; ++o) {
        steps.push_back({});
        for (row = std::max(row, axis.begin[o]); row < axis.end[o]; ++row) {
            if (steps.back().row >= 0) steps.push_back({});
            steps.back().row = row;
        }
        steps.back().output = o;
    }
    return grouped(steps, last - first);
}

template <class A, int K>
void encode_strip(const std::vector<Work>& work, const Axis& axis, Form form, double scale, int64_t first, int64_t last,
                  std::vector<Step<A, K>>& steps, int32_t* strip_first) {
    const size_t base = steps.size();
    steps.resize(base + work.size());
    std::fill(strip_first, strip_first + kGroupSteps, -1);
    int64_t previous = -1;  // gather: the last step that consumed a row
    int64_t next = first;   // fold: the first output that is still open
    for (size_t j = 0; j < work.size(); ++j) {
        Step<A, K>& step = steps[base + j];
        step.next_row = -1;
        step.flags = work[j].flush << kStepFlushShift;
        const int64_t row = work[j].row;
        const int64_t output = work[j].output;
        if (output >= 0) {
            step.flags |= kStepEmit | static_cast<int32_t>((output - first) % kBatchRows) << kStepBatchShift;
        }
        if (row >= 0) step.flags |= kStepRow;
        if (form == Form::kFold) {
            if (row >= 0) {
                int32_t& ask = j < kGroupSteps ? strip_first[j] : steps[base + j - kGroupSteps].next_row;
                ask = static_cast<int32_t>(row);
                for (int64_t o = next; o < last && axis.begin[o] <= row; ++o)
                    if (axis.end[o] > row) step.weight[(o - first) % K] = static_cast<A>(scale * axis.weight(o, row));
            }
            if (output >= 0) {
                step.flags |= static_cast<int32_t>((output - first) % K) << kStepSlotShift;
                next = output + 1;
            }
        } else {
            if (row >= 0) {
                int32_t& ask = previous < 0 ? strip_first[0] : steps[base + previous].next_row;
                ask = static_cast<int32_t>(row);
                previous = static_cast<int64_t>(j);
                step.flags |= static_cast<int32_t>(row % K) << kStepSlotShift;
            }
            if (output >= 0) {
                for (int64_t i = axis.begin[output]; i < axis.end[output]; ++i)
                    step.weight[i % K] = static_cast<A>(scale * axis.weight(output, i));
            }
        }
    }
}

template <class A, int K>
void write_rows_as(const Axis& axis, PlanShape& shape, Writer& writer) {
    std::vector<int32_t> strip_begin(shape.strips + 1), strip_first(shape.strips * kGroupSteps);
    std::vector<Step<A, K>> steps;
    for (int64_t strip = 0; strip < shape.strips; ++strip) {
        const int64_t first = strip * shape.strip_rows;
        const int64_t last = std::min<int64_t>(first + shape.strip_rows, shape.out_height);
        const auto work = shape.form == Form::kFold ? fold_strip(axis, first, last) : gather_strip(axis, first, last);
        if (steps.size() + work.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
            throw std::length_error("resample plan: more than 2^31 - 1 vertical steps");
        encode_strip<A, K>(work, axis, shape.form, row_scale(shape.dtype), first, last, steps,
                           &strip_first[strip * kGroupSteps]);
        strip_begin[strip + 1] = static_cast<int32_t>(steps.size());
    }
    shape.strip_begin = writer.put(strip_begin);
    shape.strip_first = writer.put(strip_first);
    shape.steps = writer.put(steps);
}

template <class A>
void write_rows_of(const Axis& axis, PlanShape& shape, Writer& writer) {
    switch (shape.slots) {
        case 2:
            return write_rows_as<A, 2>(axis, shape, writer);
        case 4:
            return write_rows_as<A, 4>(axis, shape, writer);
        case 6:
            return write_rows_as<A, 6>(axis, shape, writer);
        default:
            return write_rows_as<A, 8>(axis, shape, writer);
    }
}

}  // namespace

void write_rows(const Axis& axis, PlanShape& shape, Writer& writer) {
    if (shape.dtype == DType::kFloat64)
        write_rows_of<double>(axis, shape, writer);
    else
        write_rows_of<float>(axis, shape, writer);
}

}  // namespace learned_resizer::planning
