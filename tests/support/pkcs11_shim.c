/*
 * A PKCS#11 module in front of another one, which fails on demand.
 *
 * SHIM_MODULE is the module behind it; SHIM_CONTROL a file that every process with this
 * module maps, and that the test maps too (pkcs11_shim.py). It holds, in words of 64 bits:
 *
 *     calls[68]      how often each function was called, by all processes together
 *     rules[64][8]   what is to happen: see `struct rule`
 *
 * A rule belongs to one function, or to all (ANY). It counts that function's calls from
 * when it was written, lets the first `from - 1` pass, and then happens `times` times, in
 * whichever process comes next. What can happen, with its argument:
 *
 *     RETURN rv       return it as CK_RV. A call that ends an operation (C_Encrypt,
 *                     C_Verify ...) is made all the same, and its result dropped: an error
 *                     ends the operation as well (PKCS#11, 5.2), but for BUFFER_TOO_SMALL.
 *                     Calls that make or change something are not made.
 *     DELAY ms        sleep, then make the call
 *     HANG            never return
 *     CRASH           abort the process
 *     CORRUPT         make the call, then flip a bit of its output, if it has one
 *     HIDE_OBJECTS    make the call, then say that nothing was found (C_FindObjects)
 *     FINAL_TRY       make the call, then set CKF_USER_PIN_FINAL_TRY (C_GetTokenInfo)
 *     LOSE_LOGIN      log out behind the caller's back, then make the call
 *     DROP_SESSIONS n close the n-th session that this process opened (1 is the first),
 *                     or with 0 all of them, then make the call
 *
 * The table is CK_FUNCTION_LIST of PKCS#11 2.40, a version and 68 pointers, which 3.x
 * modules offer as well. No function has more than 8 arguments, and all are passed like
 * pointers, so that one signature fits all: those that take fewer ignore the rest.
 *
 * A process that uses this module has one thread; only the mapped file is shared.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* In the order of the table; pkcs11_shim.py reads the names from here. */
#define FUNCTIONS(X) \
    X(C_Initialize) X(C_Finalize) X(C_GetInfo) X(C_GetFunctionList) X(C_GetSlotList) \
    X(C_GetSlotInfo) X(C_GetTokenInfo) X(C_GetMechanismList) X(C_GetMechanismInfo) \
    X(C_InitToken) X(C_InitPIN) X(C_SetPIN) X(C_OpenSession) X(C_CloseSession) \
    X(C_CloseAllSessions) X(C_GetSessionInfo) X(C_GetOperationState) \
    X(C_SetOperationState) X(C_Login) X(C_Logout) X(C_CreateObject) X(C_CopyObject) \
    X(C_DestroyObject) X(C_GetObjectSize) X(C_GetAttributeValue) X(C_SetAttributeValue) \
    X(C_FindObjectsInit) X(C_FindObjects) X(C_FindObjectsFinal) X(C_EncryptInit) \
    X(C_Encrypt) X(C_EncryptUpdate) X(C_EncryptFinal) X(C_DecryptInit) X(C_Decrypt) \
    X(C_DecryptUpdate) X(C_DecryptFinal) X(C_DigestInit) X(C_Digest) X(C_DigestUpdate) \
    X(C_DigestKey) X(C_DigestFinal) X(C_SignInit) X(C_Sign) X(C_SignUpdate) X(C_SignFinal) \
    X(C_SignRecoverInit) X(C_SignRecover) X(C_VerifyInit) X(C_Verify) X(C_VerifyUpdate) \
    X(C_VerifyFinal) X(C_VerifyRecoverInit) X(C_VerifyRecover) X(C_DigestEncryptUpdate) \
    X(C_DecryptDigestUpdate) X(C_SignEncryptUpdate) X(C_DecryptVerifyUpdate) \
    X(C_GenerateKey) X(C_GenerateKeyPair) X(C_WrapKey) X(C_UnwrapKey) X(C_DeriveKey) \
    X(C_SeedRandom) X(C_GenerateRandom) X(C_GetFunctionStatus) X(C_CancelFunction) \
    X(C_WaitForSlotEvent)

#define NUMBER(name) name##_,
enum function { FUNCTIONS(NUMBER) FUNCTION_COUNT };

typedef unsigned long ul;
typedef ul (*call_t)(ul, ul, ul, ul, ul, ul, ul, ul);

enum what {
    RETURN, DELAY, HANG, CRASH, CORRUPT, HIDE_OBJECTS, FINAL_TRY, LOSE_LOGIN, DROP_SESSIONS
};

enum { ANY = FUNCTION_COUNT, RULES = 64, SESSIONS = 256 };
#define CKR_FUNCTION_FAILED 0x006
#define CKR_GENERAL_ERROR 0x005
#define CKR_BUFFER_TOO_SMALL 0x150
#define CKF_USER_PIN_FINAL_TRY 0x00020000
#define TOKEN_FLAGS 96 /* offset of CK_TOKEN_INFO.flags: after label to serialNumber */

struct rule {
    uint64_t is_active; /* written last, cleared first */
    uint64_t function;  /* its place in the table, or ANY */
    uint64_t from;      /* the first call that it happens to: 1 is the next */
    uint64_t times;     /* how often it happens */
    uint64_t what;
    uint64_t argument;
    uint64_t seen;      /* calls so far */
    uint64_t happened;  /* at least `times`: it is over */
};

struct control {
    uint64_t calls[FUNCTION_COUNT];
    struct rule rules[RULES];
};

struct list {
    unsigned char version[2];
    call_t call[FUNCTION_COUNT];
};

static struct list *real;
static struct list shim;
static struct control *control;
static char control_path[4096];
static ul slot, opened[SESSIONS], opened_count;

/* Maps the control file; another one when the environment names another. */
static int find_control(void)
{
    const char *path = getenv("SHIM_CONTROL");
    if (!path || strlen(path) >= sizeof control_path) return 0;
    if (control && !strcmp(path, control_path)) return 1;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return 0;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return 0;
    if (control) munmap(control, sizeof *control);
    control = mapped;
    strcpy(control_path, path);
    return 1;
}

/* Says whether a rule happens to this call; the process that takes a turn has it. */
static int happens(struct rule *rule, enum function function)
{
    if (!__atomic_load_n(&rule->is_active, __ATOMIC_ACQUIRE)) return 0;
    if (rule->function != function && rule->function != ANY) return 0;
    uint64_t seen = __atomic_add_fetch(&rule->seen, 1, __ATOMIC_RELAXED);
    if (seen < rule->from) return 0;
    return __atomic_fetch_add(&rule->happened, 1, __ATOMIC_RELAXED) < rule->times;
}

/* The calls that end an operation, whatever they return. */
static int ends_operation(enum function function)
{
    switch (function) {
    case C_Encrypt_: case C_EncryptFinal_: case C_Decrypt_: case C_DecryptFinal_:
    case C_Digest_: case C_DigestFinal_: case C_Sign_: case C_SignFinal_:
    case C_Verify_: case C_VerifyFinal_: case C_FindObjectsFinal_:
        return 1;
    default:
        return 0;
    }
}

/* Where a call leaves its output, or NULL. */
static unsigned char *output(enum function function, ul b, ul d, ul e)
{
    switch (function) {
    case C_Encrypt_: case C_Decrypt_: case C_Digest_: case C_Sign_:
        return (unsigned char *)d;
    case C_GenerateRandom_:
        return (unsigned char *)b;
    case C_WrapKey_:
        return (unsigned char *)e;
    default:
        return NULL;
    }
}

static void drop_sessions(ul which)
{
    if (which == 0) real->call[C_CloseAllSessions_](slot, 0, 0, 0, 0, 0, 0, 0);
    else if (which <= opened_count)
        real->call[C_CloseSession_](opened[which - 1], 0, 0, 0, 0, 0, 0, 0);
}

static ul pass(enum function function, ul a, ul b, ul c, ul d, ul e, ul f, ul g, ul h)
{
    ul rv = real->call[function](a, b, c, d, e, f, g, h);
    if (function == C_Initialize_) opened_count = 0;
    if (function == C_OpenSession_ && rv == 0) {
        slot = a;
        if (opened_count < SESSIONS) opened[opened_count++] = *(ul *)e;
    }
    return rv;
}

static ul run(enum function function, ul a, ul b, ul c, ul d, ul e, ul f, ul g, ul h)
{
    int corrupts = 0, hides = 0, is_final_try = 0;
    if (!find_control()) return CKR_GENERAL_ERROR;
    __atomic_add_fetch(&control->calls[function], 1, __ATOMIC_RELAXED);
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &control->rules[i];
        if (!happens(rule, function)) continue;
        struct timespec delay = {
            rule->argument / 1000, (rule->argument % 1000) * 1000000};
        switch ((enum what)rule->what) {
        case RETURN:
            if (ends_operation(function) && rule->argument != CKR_BUFFER_TOO_SMALL)
                pass(function, a, b, c, d, e, f, g, h);
            return rule->argument;
        case DELAY: nanosleep(&delay, NULL); break;
        case HANG: for (;;) pause();
        case CRASH: abort();
        case CORRUPT: corrupts = 1; break;
        case HIDE_OBJECTS: hides = 1; break;
        case FINAL_TRY: is_final_try = 1; break;
        case LOSE_LOGIN: real->call[C_Logout_](a, 0, 0, 0, 0, 0, 0, 0); break;
        case DROP_SESSIONS: drop_sessions(rule->argument); break;
        }
    }
    ul rv = pass(function, a, b, c, d, e, f, g, h);
    if (rv != 0) return rv;
    unsigned char *made = output(function, b, d, e);
    if (corrupts && made) *made ^= 1;
    if (hides && function == C_FindObjects_) *(ul *)d = 0;
    if (is_final_try && function == C_GetTokenInfo_)
        *(ul *)(b + TOKEN_FLAGS) |= CKF_USER_PIN_FINAL_TRY;
    return 0;
}

#define SHIM(name) \
    static ul shim_##name(ul a, ul b, ul c, ul d, ul e, ul f, ul g, ul h) \
    { return run(name##_, a, b, c, d, e, f, g, h); }
FUNCTIONS(SHIM)

ul C_GetFunctionList(struct list **out)
{
    if (!real) {
        const char *behind = getenv("SHIM_MODULE");
        if (!find_control()) return CKR_GENERAL_ERROR;
        void *module = behind ? dlopen(behind, RTLD_NOW | RTLD_LOCAL) : NULL;
        if (!module) return CKR_FUNCTION_FAILED;
        ul (*get)(struct list **) = (ul(*)(struct list **))dlsym(module, "C_GetFunctionList");
        if (!get || get(&real) != 0) return CKR_FUNCTION_FAILED;
        shim.version[0] = real->version[0];
        shim.version[1] = real->version[1];
#define PLACE(name) shim.call[name##_] = real->call[name##_] ? shim_##name : NULL;
        FUNCTIONS(PLACE)
        shim.call[C_GetFunctionList_] = (call_t)(void *)C_GetFunctionList;
    }
    *out = &shim;
    return 0;
}
