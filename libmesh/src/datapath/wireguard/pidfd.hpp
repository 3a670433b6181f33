// pidfd_open(2) and pidfd_send_signal(2), which glibc 2.36 declares without extern "C".
// Internal to this folder.
#pragma once

#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

namespace mesh::datapath {

/// A descriptor that is readable once the process has ended; -1 and errno on failure.
inline int open_pidfd(pid_t pid) noexcept {
    return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
}
/// @return false if the process has ended, or with errno
inline bool signal_pidfd(int pidfd, int signal) noexcept {
    return ::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) == 0;
}

}  // namespace mesh::datapath
