/* Makes system calls fail with EIO, by LD_PRELOAD: those that FAULTS_TRIGGER has a file for, on files of the directory that
 * the file's first line names. Each failure is a line of the file `failed` beside it. Where the second line is `hang`, the call
 * hangs instead, until the trigger is gone, and is then made.
 *
 *     echo /var/lib/portcullis/store/sled >$FAULTS_TRIGGER/fdatasync
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FAILS = 1, HANGS = 2 };

/* The first line of the trigger, raw, as what is called here may be wrapped below. */
static int triggered(const char *call, char *directory, size_t size) {
    const char *triggers = getenv("FAULTS_TRIGGER");
    if (!triggers) return 0;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", triggers, call);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    long count = syscall(SYS_read, fd, directory, size - 1);
    syscall(SYS_close, fd);
    if (count <= 0) return 0;
    directory[count] = 0;
    int hangs = strstr(directory, "\nhang\n") != NULL;
    directory[strcspn(directory, "\n")] = 0;
    return hangs ? HANGS : FAILS;
}

/* By device and inode, as a process that is not dumpable cannot read its own /proc. */
static int stands_in(int fd, const char *directory) {
    struct stat file, entry;
    if (fstat(fd, &file)) return 0;
    DIR *listing = opendir(directory);
    if (!listing) return 0;
    int found = 0;
    for (struct dirent *one; !found && (one = readdir(listing));)
        found = strcmp(one->d_name, "..") && !fstatat(dirfd(listing), one->d_name, &entry, AT_SYMLINK_NOFOLLOW)
            && entry.st_dev == file.st_dev && entry.st_ino == file.st_ino;
    closedir(listing);
    return found;
}

static int fails(const char *call, int fd) {
    char directory[4096], line[64], path[4096];
    int before = errno;
    int how = triggered(call, directory, sizeof directory);
    if (!how || !stands_in(fd, directory)) {
        errno = before;
        return 0;
    }
    snprintf(path, sizeof path, "%s/failed", getenv("FAULTS_TRIGGER"));
    int failed = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int length = snprintf(line, sizeof line, "%s\n", call);
    if (failed >= 0) {
        syscall(SYS_write, failed, line, length);
        syscall(SYS_close, failed);
    }
    while (how == HANGS) {
        usleep(10000);
        if (triggered(call, directory, sizeof directory) != HANGS) {
            errno = before;
            return 0;
        }
    }
    errno = EIO;
    return 1;
}

#define REAL(name, result, ...) ((result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

int fsync(int fd) { return fails("fsync", fd) ? -1 : REAL("fsync", int, int)(fd); }

int fdatasync(int fd) { return fails("fdatasync", fd) ? -1 : REAL("fdatasync", int, int)(fd); }

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    if (fails("pwrite", fd)) return -1;
    return REAL("pwrite", ssize_t, int, const void *, size_t, off_t)(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    if (fails("pwrite", fd)) return -1;
    return REAL("pwrite64", ssize_t, int, const void *, size_t, off64_t)(fd, bytes, count, at);
}
