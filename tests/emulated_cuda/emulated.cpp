// The driver, the compiler and the products of CUDA as far as the decoder calls them, on the host's processor.
//
// Device memory is the host's, modules hold the kernels that were compiled in here, streams do at once what they are
// told unless they capture. It knows no speed and no races between blocks, but every kernel's arithmetic and addresses.

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <numeric>
#include <setjmp.h>
#include <string>
#include <ucontext.h>
#include <vector>

#include "decoder.cu"

namespace {

constexpr int MOST_THREADS = 256;
constexpr size_t STACK = 64 << 10;
constexpr size_t LAUNCHED_BYTES = 48 << 10;

typedef std::function<void()> Work;
enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Fiber {
    ucontext_t context;  // to begin with; to go on, a jump costs no call of the system
    jmp_buf place;
    bool begun;
    State state;
    std::vector<char> stack = std::vector<char>(STACK);
};

struct Warp {
    uint64_t values[2][32];
};

std::vector<Fiber> fibers(MOST_THREADS);
Warp warps[MOST_THREADS / 32];
jmp_buf scheduler;
int running, count;
Work thread;

void fiber_main() {
    thread();
    fibers[running].state = DONE;
    _longjmp(scheduler, 1);
}

void wait(State state) {
    fibers[running].state = state;
    if (!_setjmp(fibers[running].place)) _longjmp(scheduler, 1);
}

void go_on(Fiber &fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

bool everyone(int first, int last, State state) {
    bool any = false;
    for (int i = first; i < last; i++) {
        if (fibers[i].state != DONE && fibers[i].state != state) return false;
        any |= fibers[i].state == state;
    }
    return any;
}

void release(int first, int last) {
    for (int i = first; i < last; i++)
        if (fibers[i].state != DONE) fibers[i].state = READY;
}

void run_block(unsigned order) {
    for (int i = 0; i < count; i++) {
        Fiber &fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
        fiber.state = READY, fiber.begun = false;
    }
    for (size_t i = 0; i < LAUNCHED_BYTES / 4; i++) launched[i] = NAN;
    const unsigned stride = 2 * (order % 61) + 1;  // odd, so that every thread comes up
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < count; i++) {
            running = (i * stride + order) % count;
            if (fibers[running].state != READY) continue;
            threadIdx = {(unsigned)running, 0, 0};
            go_on(fibers[running]);
            moved = true;
        }
        for (int first = 0; first < count; first += 32)
            if (everyone(first, first + 32, AT_WARP)) release(first, first + 32), moved = true;
        if (everyone(0, count, AT_BLOCK)) release(0, count), moved = true;
    }
    for (int i = 0; i < count; i++)
        if (fibers[i].state != DONE) {
            fprintf(stderr, "thread %d of block %u waits for one that never comes\n", i, blockIdx.x);
            abort();
        }
}

constexpr size_t GUARD = 256;
constexpr unsigned char UNTOUCHED = 0xa5;
std::map<void *, size_t> allocated;  // each with a guard behind it

size_t allocated_bytes_now() {
    size_t sum = 0;
    for (const auto &[place, bytes] : allocated) sum += bytes;
    return sum;
}

void check_guards(const char *after) {
    for (const auto &[place, bytes] : allocated)
        for (size_t i = 0; i < GUARD; i++)
            if (((unsigned char *)place)[bytes + i] != UNTOUCHED) {
                fprintf(stderr, "%s wrote behind the end of %zu bytes\n", after, bytes);
                abort();
            }
}

void check_launched(const char *by, size_t bytes) {
    for (size_t i = (bytes + 3) / 4; i < LAUNCHED_BYTES / 4; i++)
        if (!std::isnan(launched[i])) {
            fprintf(stderr, "%s wrote behind the %zu bytes that it was launched with\n", by, bytes);
            abort();
        }
}

// Blocks run in an order of their own each time: whoever is last must not always be the one with the highest number.
void run_kernel(const char *name, Work kernel, Place grid, int threads, size_t launched_bytes) {
    static unsigned launches = 0;
    thread = kernel, count = threads, gridDim = grid;
    const unsigned blocks = grid.x * grid.y * grid.z;
    unsigned stride = 7919 % blocks;
    while (std::gcd(stride, blocks) != 1) stride++;
    for (unsigned i = 0; i < blocks; i++) {
        const unsigned block = (unsigned)(((uint64_t)i * stride + launches) % blocks);
        blockIdx = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
        run_block(launches + i);
        check_launched(name, launched_bytes);
    }
    launches++;
    check_guards(name);
}

typedef std::function<Work(void *)> Bound;  // arguments -> what a thread does, the arguments copied

template <typename Arguments>
Bound bound(void (*kernel)(Arguments)) {
    return [kernel](void *given) -> Work {
        const Arguments arguments = *(Arguments *)given;
        return [kernel, arguments] { kernel(arguments); };
    };
}

std::map<std::string, Bound> kernels = {
    {"embed", bound(embed)}, {"normalize", bound(normalize)}, {"gelu_all", bound(gelu_all)},
    {"attend_halves", bound(attend_halves)}, {"attend_bytes", bound(attend_bytes)}, {"sample", bound(sample)},
    {"keep_2", bound(keep_2)}, {"activate_2", bound(activate_2)}, {"add_2", bound(add_2)}, {"tell_2", bound(tell_2)},
};

std::vector<Work> *captured = nullptr;

int now_or_later(Work work) {
    if (captured)
        captured->push_back(work);
    else
        work();
    return 0;
}

}  // namespace

Place threadIdx, blockIdx, gridDim;
float launched[LAUNCHED_BYTES / 4];

void meet_block() { wait(AT_BLOCK); }

const uint64_t *meet_warp(uint64_t value) {
    // Two sets in turn: nobody can hand over again before all have taken what they came for.
    static thread_local unsigned meeting[MOST_THREADS];
    uint64_t *values = warps[running / 32].values[meeting[running]++ % 2];
    values[running % 32] = value;
    wait(AT_WARP);
    return values;
}

extern "C" {

struct Launch {
    unsigned grid[3], block[3], memory;
    void *stream, *attributes;
    unsigned attribute_count;
};

int cuInit(unsigned) { return 0; }
int cuDeviceGet(int *device, int) { return *device = 0; }
int cuDeviceGetAttribute(int *value, int which, int) { return *value = which == 75 ? 9 : 0, 0; }
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = nullptr, 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuGetErrorName(int, const char **words) { return *words = "emulated", 0; }
int cuModuleLoadData(void **module, const void *) { return *module = nullptr, 0; }
int cuModuleGetFunction(void **function, void *, const char *name) {
    auto found = kernels.find(name);
    return found == kernels.end() ? 500 : (*function = (void *)&*found, 0);
}
size_t allocated_bytes() { return allocated_bytes_now(); }
// With a bound in the environment it can run out.
int cuMemAlloc_v2(void **place, size_t bytes) {
    const char *bound = getenv("EMULATED_DEVICE_BYTES");
    if (bound && allocated_bytes() + bytes > strtoull(bound, nullptr, 10)) return 2;
    *place = aligned_alloc(256, (bytes + GUARD + 255) / 256 * 256);
    memset((char *)*place + bytes, UNTOUCHED, GUARD);
    allocated[*place] = bytes;
    return 0;
}
int cuMemFree_v2(void *place) { return allocated.erase(place), free(place), 0; }
int cuMemFreeHost(void *place) { return cuMemFree_v2(place); }
int cuMemHostAlloc(void **place, size_t bytes, unsigned) { return cuMemAlloc_v2(place, bytes); }
int cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) { return memcpy(to, from, bytes), 0; }
int cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) { return memcpy(to, from, bytes), 0; }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *) {
    return now_or_later([=] { memcpy(to, from, bytes); });
}
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *) {
    return now_or_later([=] { memcpy(to, from, bytes); });
}
int cuMemsetD8_v2(void *place, unsigned char value, size_t bytes) { return memset(place, value, bytes), 0; }
int cuMemsetD8Async(void *place, unsigned char value, size_t bytes, void *) {
    return now_or_later([=] { memset(place, value, bytes); });
}
int cuMemGetInfo_v2(size_t *free, size_t *whole) {
    const char *bound = getenv("EMULATED_DEVICE_BYTES");
    *whole = bound ? strtoull(bound, nullptr, 10) : (size_t)1 << 40;
    *free = *whole - allocated_bytes();
    return 0;
}
int cuCtxSynchronize() { return 0; }
int cuStreamCreate(void **stream, unsigned) { return *stream = nullptr, 0; }
int cuStreamSynchronize(void *) { return 0; }
int cuStreamBeginCapture_v2(void *, int) { return captured = new std::vector<Work>, 0; }
int cuStreamEndCapture(void *, void **graph) { return *graph = captured, captured = nullptr, 0; }
int cuGraphInstantiateWithFlags(void **run, void *graph, unsigned long long) {
    return getenv("EMULATED_CAPTURES") ? 2 : (*run = graph, 0);
}
int cuGraphDestroy(void *) { return 0; }
int cuGraphLaunch(void *run, void *) {
    for (const Work &work : *(std::vector<Work> *)run) work();
    return 0;
}
int cuLaunchKernelEx(const Launch *launch, void *function, void **arguments, void **) {
    const bool odd = launch->block[1] != 1 || launch->block[2] != 1 || launch->attribute_count > 1;
    if (odd || launch->memory > LAUNCHED_BYTES || launch->block[0] > MOST_THREADS) return 1;
    const auto &[name, kernel_of] = *(std::pair<const std::string, Bound> *)function;
    const Work kernel = kernel_of(arguments[0]);
    const Place grid = {launch->grid[0], launch->grid[1], launch->grid[2]};
    const int threads = launch->block[0];
    const char *words = name.c_str();
    const size_t bytes = launch->memory;
    return now_or_later([=] { run_kernel(words, kernel, grid, threads, bytes); });
}

int cublasCreate_v2(void **handle) { return *handle = nullptr, 0; }
int cublasDestroy_v2(void *) { return 0; }
const char *cublasGetStatusString(int) { return "emulated"; }
int cublasSetStream_v2(void *, void *) { return 0; }
int cublasSetWorkspace_v2(void *, void *, size_t) { return 0; }
int cublasGemmEx(void *, int, int, int m, int n, int k, const float *alpha, const Half *a, int, int lda, const Half *b,
                 int, int ldb, const float *beta, void *c, int type, int ldc, int, int) {
    const float by = *alpha, keep = *beta;
    return now_or_later([=] {
        for (int column = 0; column < n; column++)
            for (int row = 0; row < m; row++) {
                float sum = 0;
                for (int i = 0; i < k; i++) sum += widen(a[(size_t)i * lda + row]) * widen(b[(size_t)column * ldb + i]);
                const size_t place = (size_t)column * ldc + row;
                if (type == 0)
                    ((float *)c)[place] = by * sum + (keep ? keep * ((float *)c)[place] : 0);
                else
                    ((Half *)c)[place] = narrow(by * sum);
            }
    });
}

int nvrtcCreateProgram(void **program, const char *, const char *, int, void *, void *) { return *program = nullptr, 0; }
int nvrtcCompileProgram(void *, int, void *) { return 0; }
int nvrtcGetProgramLogSize(void *, size_t *size) { return *size = 1, 0; }
int nvrtcGetProgramLog(void *, char *log) { return *log = 0, 0; }
int nvrtcGetCUBINSize(void *, size_t *size) { return *size = 1, 0; }
int nvrtcGetCUBIN(void *, char *cubin) { return *cubin = 0, 0; }
int nvrtcDestroyProgram(void **) { return 0; }
const char *nvrtcGetErrorString(int) { return "emulated"; }
}
