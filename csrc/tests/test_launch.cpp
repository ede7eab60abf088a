// csrc/core/common/launch.h as nvcc compiles it, against a runtime that counts: a kernel's shared memory is set once
// per device, and to the most, whoever launches. Usage: test_launch

#define __CUDACC__
#include "common/launch.h"

#include <cstdio>
#include <thread>
#include <vector>

namespace learned_resizer {
namespace {

int failures = 0;
void expect(bool right, const char* what) {
    if (right) return;
    std::printf("%s\n", what);
    ++failures;
}

void first_kernel(int) {}
void second_kernel(int) {}
using Kernel = void (*)(int);
fake::Kernel& record(Kernel kernel) { return fake::kernel(reinterpret_cast<const void*>(kernel)); }

void test_once_per_kernel_and_device() {
    // Small and large launches of two kernels on devices 0 and 64, which share a list, from four threads at once.
    std::vector<std::thread> threads;
    std::atomic<int> refused{0};
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&, i] {
            const DeviceGuard guard(i % 2 * 64);
            for (int turn = 0; turn < 1000; ++turn)
                for (const Kernel kernel : {first_kernel, second_kernel})
                    for (const int bytes : {100, 49 * 1024, fake::kOptIn - fake::kStatic, 60 * 1024})
                        refused += launch(kernel, 1, 32, bytes, nullptr, 1) != cudaSuccess;
        });
    for (std::thread& thread : threads) thread.join();
    expect(refused == 0, "a launch had too little shared memory");
    for (const int device : {0, 64}) {
        fake::device = device;
        for (const Kernel kernel : {first_kernel, second_kernel}) {
            expect(record(kernel).calls == 1, "a kernel's shared memory was not set exactly once");
            expect(record(kernel).most == fake::kOptIn - fake::kStatic, "it was not set to the most");
            expect(record(kernel).launches == 2 * 4 * 1000, "a launch is missing");
        }
    }
    fake::device = 0;
}

void test_errors() {
    expect(launch(first_kernel, 1, 32, fake::kOptIn, nullptr, 1) == cudaErrorInvalidValue,
           "more than there is: refused");
    fake::device = 1;
    expect(launch(first_kernel, 0, 32, 1 << 20, nullptr, 1) == cudaSuccess, "no blocks: nothing to do");
    expect(launch(first_kernel, 1, 32, 48 * 1024, nullptr, 1) == cudaSuccess && record(first_kernel).calls == 0,
           "48 KiB need no permission");
    // The runtime's error as it is, and another attempt at the next launch.
    fake::attribute_error = cudaErrorInvalidDeviceFunction;
    expect(launch(first_kernel, 1, 32, 49 * 1024, nullptr, 1) == cudaErrorInvalidDeviceFunction, "another error");
    fake::attribute_error = cudaSuccess;
    expect(launch(first_kernel, 1, 32, 49 * 1024, nullptr, 1) == cudaSuccess, "not tried again");
    expect(record(first_kernel).calls == 2, "not tried exactly twice");
    fake::device = 0;
}

}  // namespace
}  // namespace learned_resizer

int main() {
    using namespace learned_resizer;
    test_once_per_kernel_and_device();
    test_errors();
    return failures != 0;
}
