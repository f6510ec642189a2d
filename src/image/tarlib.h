/*
 * libarchive, loaded when the first archive is read or written: it brings a dozen libraries along, which `run` of an image
 * that is unpacked already should not wait for. Its functions are called through a table of its own names.
 */
#ifndef TRAPEZE_IMAGE_TARLIB_H
#define TRAPEZE_IMAGE_TARLIB_H

#include "base/error.h"
#include "base/types.h"

#include <archive.h>
#include <archive_entry.h>

/* X-macro: what is used of it. */
#define ARCHIVE_FUNCTIONS(X)                   \
    X(archive_read_new)                        \
    X(archive_read_free)                       \
    X(archive_read_support_filter_gzip)        \
    X(archive_read_support_filter_zstd)        \
    X(archive_read_support_filter_none)        \
    X(archive_read_support_filter_xz)          \
    X(archive_read_support_filter_bzip2)       \
    X(archive_read_support_format_raw)         \
    X(archive_read_support_format_empty)       \
    X(archive_read_support_format_tar)         \
    X(archive_read_open)                       \
    X(archive_read_open_fd)                    \
    X(archive_read_next_header)                \
    X(archive_read_data)                       \
    X(archive_read_data_block)                 \
    X(archive_filter_count)                    \
    X(archive_error_string)                    \
    X(archive_errno)                           \
    X(archive_set_error)                       \
    X(archive_entry_pathname)                  \
    X(archive_entry_pathname_utf8)             \
    X(archive_entry_hardlink)                  \
    X(archive_entry_hardlink_utf8)             \
    X(archive_entry_symlink)                   \
    X(archive_entry_symlink_utf8)              \
    X(archive_entry_filetype)                  \
    X(archive_entry_perm)                      \
    X(archive_entry_uid)                       \
    X(archive_entry_gid)                       \
    X(archive_entry_size)                      \
    X(archive_entry_mtime)                     \
    X(archive_entry_mtime_nsec)                \
    X(archive_entry_rdevmajor)                 \
    X(archive_entry_rdevminor)                 \
    X(archive_entry_xattr_reset)               \
    X(archive_entry_xattr_next)                \
    X(archive_entry_new)                       \
    X(archive_entry_free)                      \
    X(archive_entry_clear)                     \
    X(archive_entry_set_pathname)              \
    X(archive_entry_set_hardlink)              \
    X(archive_entry_set_symlink)               \
    X(archive_entry_set_filetype)              \
    X(archive_entry_set_perm)                  \
    X(archive_entry_set_uid)                   \
    X(archive_entry_set_gid)                   \
    X(archive_entry_set_size)                  \
    X(archive_entry_set_mtime)                 \
    X(archive_entry_set_rdevmajor)             \
    X(archive_entry_set_rdevminor)             \
    X(archive_entry_xattr_add_entry)           \
    X(archive_write_new)                       \
    X(archive_write_free)                      \
    X(archive_write_close)                     \
    X(archive_write_set_format_pax_restricted) \
    X(archive_write_set_format_iso9660)        \
    X(archive_write_add_filter_gzip)           \
    X(archive_write_set_filter_option)         \
    X(archive_write_set_options)               \
    X(archive_write_set_bytes_in_last_block)   \
    X(archive_write_open)                      \
    X(archive_write_open_fd)                   \
    X(archive_write_finish_entry)              \
    X(archive_write_set_format_pax)            \
    X(archive_read_support_filter_all)         \
    X(archive_write_header)                    \
    X(archive_write_data)

struct archive_library {
#define X(name) __typeof__(&name) name;
    ARCHIVE_FUNCTIONS(X)
#undef X
};

/* -ENOENT with `e` when the host has none. Safe to call again. */
int archive_library(struct archive_library *out, struct error *e);

#endif
