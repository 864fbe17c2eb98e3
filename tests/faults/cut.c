/* Cuts the power of a disk that is a file: `cut DIRECTORY FILE SEED`.
 *
 * DIRECTORY is where the file system that FILE lies on is mounted. What was written to FILE and not flushed is a disk's
 * volatile cache; by chance a part of it has reached the medium before the cut, in no order. Then the file system is shut
 * down without flushing its journal (EXT4_IOC_SHUTDOWN, as xfstests' `godown -f` and `xfs_io -c shutdown` do), and
 * what its page cache held is gone.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXT4_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define NO_LOG_FLUSH 2
#define PIECE (16 * 4096)

int main(int count, char **arguments) {
    if (count != 4) return 64;
    int directory = open(arguments[1], O_RDONLY | O_DIRECTORY), disk = open(arguments[2], O_RDWR);
    struct stat stat;
    if (directory < 0 || disk < 0 || fstat(disk, &stat)) return perror("open"), 1;
    srandom((unsigned)atoi(arguments[3]));
    /* A third of the cuts lose all of the cache, the others a half or most of it. */
    long keep = random() % 3;
    for (off_t at = 0; keep && at < stat.st_size; at += PIECE)
        if (random() % 4 < keep && sync_file_range(disk, at, PIECE, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER))
            return perror("sync_file_range"), 1;
    uint32_t how = NO_LOG_FLUSH;
    if (ioctl(directory, EXT4_IOC_SHUTDOWN, &how)) return perror("EXT4_IOC_SHUTDOWN"), 1;
    return 0;
}
