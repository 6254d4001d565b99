// Fibers: many threads of control on one OS thread, switched by hand.
//
//   prepare(context, stack, bytes, entry)   the next switch to `context` begins `entry` on that stack
//   swap(from, to)                          stops here and continues there; returns when another fiber swaps to `from`
//
// A switch costs a few ns on x86-64. Elsewhere, and with -DEMULATOR_UCONTEXT, ucontext does the same, much slower: it
// saves the signal mask by a system call. AddressSanitizer is informed of each switch, else it would take a fiber's stack
// for a wild pointer.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator __attribute__((visibility("hidden"))) {

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)

struct Context { void* stack_pointer; };

// The compiler saves what is live: every register but two is listed as clobbered. The frame pointer cannot be listed; vector
// registers need not be, see go_to. It continues by a jump, not by a return, which the processor would predict from the
// calls of the fiber that it leaves.
static inline __attribute__((always_inline)) void swap(Context& from, Context& to) {
    void *keep = &from.stack_pointer, *load = to.stack_pointer;
    asm volatile(R"(
        sub  $128, %%rsp         # the red zone, which a leaf function may use without saying so
        push %%rbp
        lea  1f(%%rip), %%rax
        push %%rax
        mov  %%rsp, (%0)
        mov  %1, %%rsp
        pop  %%rax
        jmp  *%%rax
    1:  pop  %%rbp
        add  $128, %%rsp
    )" : "+D"(keep), "+S"(load) :
       : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory");
}

static inline void prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
    // What swap pops: where to continue. Above it a null return address, which ends every backtrace; the ABI wants the
    // stack pointer at 8 modulo 16 when a function begins.
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15));
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    context.stack_pointer = top;
}

#else

}  // namespace emulator
#include <ucontext.h>
namespace emulator __attribute__((visibility("hidden"))) {

struct Context { ucontext_t saved; };

static inline void swap(Context& from, Context& to) { swapcontext(&from.saved, &to.saved); }

static inline void prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context.saved);
    context.saved.uc_stack.ss_sp = stack;
    context.saved.uc_stack.ss_size = bytes;
    context.saved.uc_link = nullptr;
    makecontext(&context.saved, entry, 0);
}

#endif

// One mapping for all stacks of the library, made at the first launch and unmapped when the library is closed. Untouched
// pages cost nothing. The lowest page of each warp's stacks is inaccessible, so that a runaway recursion soon faults; one per stack
// would be more mappings than a process with forty such libraries may have.
constexpr size_t STACK = 256 << 10, PAGE = 4096;

struct Stacks {
    char* memory;
    size_t bytes;

    explicit Stacks(int count) : bytes(count * STACK) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (mapped == MAP_FAILED) {
            perror("emulator: no memory for the threads' stacks");
            abort();
        }
        memory = static_cast<char*>(mapped);
        for (int i = 0; i < count; i += 32) mprotect(memory + i * STACK, PAGE, PROT_NONE);
    }

    ~Stacks() {
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(memory, bytes);   // whatever is put at these addresses next must find no old frames
#endif
        munmap(memory, bytes);
    }
};

static char* stacks(int count) {
    static Stacks all(count);
    return all.memory;
}

// A place to switch to: a CUDA thread, or the launch itself on the caller's own stack.
struct Fiber {
    Context context;
    const void* stack = nullptr;   // the lowest usable byte
    size_t bytes = 0;
    void* sanitizer = nullptr;     // AddressSanitizer's own record of a fiber that is switched away

    void begin(char* memory, int number, void (*entry)()) {
        stack = memory + PAGE;
        // Stacks are a power of two apart: without a shift the 32 lanes of a warp would share one set of the L1 cache.
        bytes = STACK - PAGE - (number % 32) * 192;
        sanitizer = nullptr;
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(stack, STACK - PAGE);   // a launch that failed left its frames behind
#endif
        prepare(context, memory + PAGE, bytes, entry);
    }

    // noipa: the compiler must not look inside and conclude that a vector register is preserved.
    __attribute__((noipa)) void go_to(Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_start_switch_fiber(&sanitizer, to.stack, to.bytes);
#endif
        swap(context, to.context);
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_finish_switch_fiber(sanitizer, nullptr, nullptr);
#endif
    }
};

// The first act of a new fiber. `launcher` learns where its own stack is when a fiber is first entered from it.
static inline void arrive(Fiber& launcher, bool from_launcher) {
#ifdef __SANITIZE_ADDRESS__
    const void* stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
    if (from_launcher) launcher.stack = stack, launcher.bytes = bytes;
#else
    (void)launcher, (void)from_launcher;
#endif
}

}  // namespace emulator
