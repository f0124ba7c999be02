/* Coreutils ask statx not to mount anything (AT_NO_AUTOMOUNT). Old gVisors refuse that flag, and nothing there mounts
 * by itself: so the flag is taken away. Preloaded into programs, without a library of its own: `syscall` is their libc's. */
#if defined(__x86_64__)
#define STATX_NUMBER 332
#elif defined(__aarch64__)
#define STATX_NUMBER 291
#endif
#define NO_AUTOMOUNT 0x800

extern long syscall(long number, ...);

__attribute__((visibility("default"))) int statx(int folder, const char *path, int flags, unsigned mask, void *buffer)
{
	return (int)syscall(STATX_NUMBER, (long)folder, path, (long)(flags & ~NO_AUTOMOUNT), (unsigned long)mask, buffer);
}
