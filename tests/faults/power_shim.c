/* Log what a process does to the files of one folder, in order and with contents: what a disk would see.
 * POWER_FOLDER is the folder, POWER_LOG the log. Loaded with LD_PRELOAD. Shared memory (-shm) is no file on a disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct header {
    char op, pad[3];
    uint32_t length;
    uint64_t inode, offset;
};

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static const char *folder;
static int log_fd = -1;
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_open)(const char *, int, ...);

#define REAL(type, name, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

__attribute__((constructor)) static void start(void) {
    real_write = REAL(ssize_t, "write", int, const void *, size_t);
    real_pwrite = REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    real_open = REAL(int, "open64", const char *, int, ...);
    const char *where = getenv("POWER_LOG");
    if (where == NULL) return;
    log_fd = real_open(where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    folder = getenv("POWER_FOLDER");
}

static void put(char op, uint64_t inode, uint64_t offset, const void *data, uint32_t length) {
    struct header head = {.op = op, .length = length, .inode = inode, .offset = offset};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, length}};
    if (writev(log_fd, parts, 2) != (ssize_t)(sizeof head + length)) abort();
}

static int is_ours(const char *path) {
    size_t length = folder == NULL ? 0 : strlen(folder), all = strlen(path);
    if (length == 0 || strncmp(path, folder, length) != 0) return 0;
    if (path[length] == 0) return 2; /* the folder itself */
    return path[length] == '/' && !(all > 4 && strcmp(path + all - 4, "-shm") == 0);
}

static int kind_of(int fd, uint64_t *inode) {
    char link[64], path[4096];
    struct stat status;
    if (folder == NULL) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    int kind = is_ours(path);
    if (kind && fstat(fd, &status) == 0) *inode = status.st_ino;
    return kind;
}

static int opened(const char *path, int flags, mode_t mode) {
    if (is_ours(path) != 1 || !(flags & (O_CREAT | O_TRUNC))) return real_open(path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat status;
    int existed = stat(path, &status) == 0;
    int fd = real_open(path, flags, mode), failed = errno;
    if (fd >= 0 && fstat(fd, &status) == 0) {
        const char *name = path + strlen(folder) + 1;
        if (!existed) put('C', status.st_ino, 0, name, strlen(name));
        else if (flags & O_TRUNC) put('T', status.st_ino, 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    errno = failed;
    return fd;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;                                                      \
        va_end(list);                                                                                                  \
        return opened(path, flags, mode);                                                                              \
    }
OPEN(open)
OPEN(open64)

static ssize_t wrote(int fd, const void *data, size_t length, off_t offset, int at_offset) {
    uint64_t inode = 0;
    if (fd == log_fd || kind_of(fd, &inode) != 1)
        return at_offset ? real_pwrite(fd, data, length, offset) : real_write(fd, data, length);
    pthread_mutex_lock(&lock);
    if (!at_offset) offset = lseek(fd, 0, SEEK_CUR);
    ssize_t done = at_offset ? real_pwrite(fd, data, length, offset) : real_write(fd, data, length);
    int failed = errno;
    if (done > 0) put('W', inode, offset, data, done);
    pthread_mutex_unlock(&lock);
    errno = failed;
    return done;
}

ssize_t write(int fd, const void *data, size_t length) { return wrote(fd, data, length, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return wrote(fd, data, length, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) { return wrote(fd, data, length, offset, 1); }

static int cut(const char *name, int fd, off_t length) {
    uint64_t inode = 0;
    pthread_mutex_lock(&lock);
    int kind = kind_of(fd, &inode), result = REAL(int, name, int, off_t)(fd, length), failed = errno;
    if (kind == 1 && result == 0) put('T', inode, length, "", 0);
    pthread_mutex_unlock(&lock);
    errno = failed;
    return result;
}

int ftruncate(int fd, off_t length) { return cut("ftruncate64", fd, length); }
int ftruncate64(int fd, off_t length) { return cut("ftruncate64", fd, length); }

static int synced(const char *name, int fd) {
    uint64_t inode = 0;
    pthread_mutex_lock(&lock); /* nothing is written while it runs, so that it covers all that came before it */
    int kind = kind_of(fd, &inode), result = REAL(int, name, int)(fd), failed = errno;
    if (kind && result == 0) put(kind == 2 ? 'D' : 'F', inode, 0, "", 0);
    pthread_mutex_unlock(&lock);
    errno = failed;
    return result;
}

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }

int unlink(const char *path) {
    pthread_mutex_lock(&lock);
    int result = REAL(int, "unlink", const char *)(path), failed = errno;
    if (result == 0 && is_ours(path) == 1) put('U', 0, 0, path + strlen(folder) + 1, strlen(path) - strlen(folder) - 1);
    pthread_mutex_unlock(&lock);
    errno = failed;
    return result;
}

/* Whatever else changes files would escape the log: better no answer than a wrong one. */
int rename(const char *from, const char *to) {
    if (is_ours(from) || is_ours(to)) abort();
    return REAL(int, "rename", const char *, const char *)(from, to);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    uint64_t inode;
    if (kind_of(fd, &inode)) abort();
    return REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off_t)(fd, parts, count, offset);
}

void power_note(const char *text) {
    pthread_mutex_lock(&lock);
    put('N', 0, 0, text, strlen(text));
    pthread_mutex_unlock(&lock);
}
