// Keeps calls of mesh-cni apart that change the same directory. The lock is on the directory itself
// and goes with the process, however that ends.
#pragma once

#include <mesh/error.hpp>
#include <string>
#include <utility>

namespace mesh::attach {

/// Held until it goes out of scope.
class DirectoryLock {
  public:
    /// Makes the directory if need be, and waits: who holds the lock only reads and writes a few
    /// small files.
    /// @errors kUnavailable
    [[nodiscard]] static Result<DirectoryLock> take(const std::string& directory);
    DirectoryLock(DirectoryLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    DirectoryLock(const DirectoryLock&) = delete;
    DirectoryLock& operator=(const DirectoryLock&) = delete;
    ~DirectoryLock();

  private:
    explicit DirectoryLock(int fd) : fd_(fd) {}
    int fd_;
};

}  // namespace mesh::attach
