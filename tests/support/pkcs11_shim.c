/*
 * A PKCS#11 module in front of another one, which fails on demand.
 *
 * SHIM_MODULE is the module behind it, SHIM_DIRECTORY a directory of faults: a file
 * NAME.once (consumed by the first call, of any process) or NAME.always, NAME being a
 * function below, holds what the call does instead of its work:
 *
 *     a number     return it as CK_RV
 *     hang         never return
 *     crash        abort the process
 *     corrupt      do the work, then flip a bit of the output (C_Encrypt)
 *     final-try    do the work, then set CKF_USER_PIN_FINAL_TRY (C_GetTokenInfo)
 *
 * Each call of C_Login appends a line to SHIM_DIRECTORY/logins.
 *
 * CK_FUNCTION_LIST (PKCS#11 2.40) is a version and 68 pointers. The calls that can fail
 * have at most 6 arguments, all as wide as a pointer, so one signature fits all.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ul;
typedef ul (*call_t)(ul, ul, ul, ul, ul, ul);

#define FUNCTIONS 68
struct list { unsigned char version[2]; call_t call[FUNCTIONS]; };

static struct list *real;
static struct list shim;

static int fault(const char *name, char *what, int size)
{
    static const char *const suffixes[] = {"once", "always"};
    const char *directory = getenv("SHIM_DIRECTORY");
    char path[4096], taken[4200];
    for (int i = 0; directory && i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s.%s", directory, name, suffixes[i]);
        if (i == 0) { /* whoever renames it has it */
            snprintf(taken, sizeof taken, "%s.%d", path, (int)getpid());
            if (rename(path, taken) != 0) continue;
            strcpy(path, taken);
        }
        FILE *file = fopen(path, "r");
        if (!file) continue;
        int got = fgets(what, size, file) != NULL;
        fclose(file);
        if (i == 0) unlink(path);
        if (got) return 1;
    }
    return 0;
}

static ul run(const char *name, int index, ul a, ul b, ul c, ul d, ul e, ul f)
{
    char what[64];
    if (!fault(name, what, sizeof what)) return real->call[index](a, b, c, d, e, f);
    if (!strncmp(what, "hang", 4)) for (;;) pause();
    if (!strncmp(what, "crash", 5)) abort();
    if (!strncmp(what, "corrupt", 7)) {
        ul rv = real->call[index](a, b, c, d, e, f);
        if (d) *(unsigned char *)d ^= 1;
        return rv;
    }
    if (!strncmp(what, "final-try", 9)) {
        ul rv = real->call[index](a, b, c, d, e, f);
        *(ul *)(b + 96) |= 0x00020000; /* CK_TOKEN_INFO.flags, after label to serialNumber */
        return rv;
    }
    return strtoul(what, NULL, 0);
}

#define SHIM(name, index) \
    static ul name(ul a, ul b, ul c, ul d, ul e, ul f) { return run(#name, index, a, b, c, d, e, f); }

SHIM(C_GetTokenInfo, 6)
SHIM(C_OpenSession, 12)
SHIM(C_GetAttributeValue, 24)
SHIM(C_FindObjectsInit, 26)
SHIM(C_EncryptInit, 29)
SHIM(C_Encrypt, 30)
SHIM(C_DecryptInit, 33)
SHIM(C_GenerateKey, 58)
SHIM(C_GenerateRandom, 64)

static ul C_Login(ul a, ul b, ul c, ul d, ul e, ul f)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/logins", getenv("SHIM_DIRECTORY"));
    FILE *file = fopen(path, "a");
    if (file) {
        fprintf(file, "%d\n", (int)getpid());
        fclose(file);
    }
    return run("C_Login", 18, a, b, c, d, e, f);
}

ul C_GetFunctionList(struct list **out)
{
    if (!real) {
        void *module = dlopen(getenv("SHIM_MODULE"), RTLD_NOW | RTLD_LOCAL);
        if (!module) return 0x5;
        ul (*get)(struct list **) = (ul(*)(struct list **))dlsym(module, "C_GetFunctionList");
        if (!get || get(&real) != 0) return 0x5;
        shim = *real;
        shim.call[6] = C_GetTokenInfo;
        shim.call[12] = C_OpenSession;
        shim.call[18] = C_Login;
        shim.call[24] = C_GetAttributeValue;
        shim.call[26] = C_FindObjectsInit;
        shim.call[29] = C_EncryptInit;
        shim.call[30] = C_Encrypt;
        shim.call[33] = C_DecryptInit;
        shim.call[58] = C_GenerateKey;
        shim.call[64] = C_GenerateRandom;
    }
    *out = &shim;
    return 0;
}
