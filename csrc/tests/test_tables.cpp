// Tables that travel as parameters, and the device memory for them, on a runtime of the host. Usage: test_tables
// <group>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "resample/resample_plan.h"
#include "tables/tables.cu"

namespace learned_resizer {
namespace {

int failures = 0;

void expect(bool holds, const char* what, int64_t of) {
    if (holds) return;
    std::fprintf(stderr, "%s: %lld\n", what, static_cast<long long>(of));
    ++failures;
}

// Stores `source` between guards, which must stay.
void check_store(const std::vector<unsigned char>& source) {
    const auto bytes = static_cast<int64_t>(source.size()), padded = (bytes + 15) / 16 * 16;
    std::vector<Quad<uint32_t>> memory(padded / 16 + 2);
    auto* target = reinterpret_cast<unsigned char*>(memory.data() + 1);
    std::memset(memory.data(), 0xA5, memory.size() * 16);
    // Of exactly this size, so that the sanitizer sees a read beyond its end.
    expect(store_tables(source.data(), bytes, target, 0, nullptr) == cudaSuccess, "error for bytes", bytes);
    expect(std::equal(source.begin(), source.end(), target), "other contents of bytes", bytes);
    const auto is = [](unsigned char value) { return [value](unsigned char c) { return c == value; }; };
    expect(std::all_of(target + bytes, target + padded, is(0)), "padding of bytes", bytes);
    expect(std::all_of(target - 16, target, is(0xA5)) && std::all_of(target + padded, target + padded + 16, is(0xA5)),
           "writes outside of bytes", bytes);
}

void check_sizes() {
    for (const int64_t bytes : {1,    15,    16,    17,    511,   512,   528,   4079,  4080,  4081,  8160,
                                8161, 20000, 32751, 32752, 32753, 36832, 36833, 65504, 65505, 100003}) {
        std::vector<unsigned char> source(bytes);
        for (int64_t i = 0; i < bytes; ++i) source[i] = static_cast<unsigned char>(i * 31 + i / 251 + 1);
        check_store(source);
    }
    expect(store_tables(nullptr, 0, nullptr, 0, nullptr) == cudaSuccess, "error for bytes", 0);
}

// What a real plan stores.
void check_plan() {
    const Axis axis = make_axis(500, 100, Filter::kBox, true);
    ResamplePlanRequest request{};
    request.tensors.assign(20, {3, 1, false, true, axis, axis, 0, 0, 0, 0, false});
    request.dtype = request.out_dtype = DType::kFloat32;
    request.multiprocessors = 132, request.shared_memory = 227 * 1024;
    check_store(make_resample_plan(request).stored);
}

void check_memory() {
    void* memory = nullptr;
    expect(allocate_tables(4096, 0, &memory) == cudaSuccess && memory != nullptr, "error for bytes", 4096);
    std::memset(memory, 1, 4096);
    std::free(memory);
    expect(host::runtime.mode == cudaStreamCaptureModeGlobal, "capture mode afterwards", host::runtime.mode);
    host::runtime.free_bytes = 4095;
    expect(allocate_tables(4096, 0, &memory) == cudaErrorMemoryAllocation, "no error for bytes", 4096);
    expect(host::runtime.last_error == cudaSuccess, "error left for torch", host::runtime.last_error);
    expect(host::runtime.mode == cudaStreamCaptureModeGlobal, "capture mode after a failure", host::runtime.mode);
    expect(allocate_tables(16, 1, &memory) == cudaErrorInvalidDevice, "no error for device", 1);
}

void check_streams() {
    bool captures = true;
    uint64_t identity = 0;
    const auto stream = reinterpret_cast<void*>(uintptr_t{48});
    expect(identify_stream(0, stream, &captures, &identity) == cudaSuccess, "error for stream", 48);
    expect(!captures && identity == 48, "identity of stream 48", static_cast<int64_t>(identity));
    host::runtime.capturing = true;
    expect(identify_stream(0, stream, &captures, &identity) == cudaSuccess && captures, "no capture of stream", 48);
}

}  // namespace
}  // namespace learned_resizer

int main(int argc, char** argv) {
    using namespace learned_resizer;
    const std::string group = argc > 1 ? argv[1] : "";
    if (group == "store" || group == "old_driver") {
        host::runtime.driver = group == "store" ? 12010 : 12000;
        check_sizes();
        check_plan();
    } else if (group == "memory") {
        check_memory();
    } else if (group == "streams") {
        check_streams();
    } else {
        std::fprintf(stderr, "unknown group '%s'\n", group.c_str());
        return 2;
    }
    return failures == 0 ? 0 : 1;
}
