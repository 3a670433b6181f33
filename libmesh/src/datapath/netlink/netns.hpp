// Named network namespaces as ip-netns(8) keeps them: a file below /run/netns with the namespace
// bind-mounted on it. What this module makes, `ip netns` lists, and the other way round.
#pragma once

#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::datapath {

/// A handle on a network namespace; keeps it alive. Moves only.
/// @thread any thread, the same handle not concurrently
class Netns {
  public:
    /// The namespace of the calling thread.
    [[nodiscard]] static Result<Netns> current();
    /// A named one.
    /// @errors kNotFound, kInvalidArgument for a name with "/", kCorrupt for a name that a crash
    /// left
    ///   without a namespace: delete_netns() removes it
    [[nodiscard]] static Result<Netns> open(std::string_view name);
    /// The one that a file is: a bind mount of it, or "/proc/<pid>/ns/net".
    /// @errors kNotFound, kPermission, kCorrupt when the file is no network namespace
    [[nodiscard]] static Result<Netns> at(const std::string& path);
    /// That of a process. @errors kNotFound when it is gone
    [[nodiscard]] static Result<Netns> of_process(int pid);

    Netns(Netns&& other) noexcept
        : fd_(std::exchange(other.fd_, -1)), name_(std::move(other.name_)) {}
    Netns& operator=(Netns&& other) noexcept;
    Netns(const Netns&) = delete;
    Netns& operator=(const Netns&) = delete;
    ~Netns();

    [[nodiscard]] int fd() const noexcept { return fd_; }
    /// For messages: the name, or how it was opened.
    [[nodiscard]] const std::string& name() const noexcept { return name_; }

  private:
    Netns(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
    friend class NetnsScope;
    static Result<Netns> open_path(const std::string& path, std::string name);
    int fd_;
    std::string name_;
};

/// Puts the calling thread into a namespace until it goes out of scope. Sockets opened inside stay
/// in that namespace afterwards. If the way back fails the process aborts: going on in the wrong
/// namespace would change the wrong machine.
class NetnsScope {
  public:
    /// @errors kPermission without CAP_SYS_ADMIN
    [[nodiscard]] static Result<NetnsScope> enter(const Netns& netns);
    NetnsScope(NetnsScope&& other) noexcept = default;
    NetnsScope(const NetnsScope&) = delete;
    NetnsScope& operator=(const NetnsScope&) = delete;
    ~NetnsScope();

  private:
    explicit NetnsScope(Netns home) : home_(std::move(home)) {}
    Netns home_;
};

/// The directory of the names.
[[nodiscard]] std::string_view netns_directory() noexcept;

/// Makes a named namespace, its loopback up.
/// @errors kConflict if the name exists, kInvalidArgument, kPermission
[[nodiscard]] Result<void> create_netns(std::string_view name);

/// Removes the name; the namespace goes once no process and no handle holds it. A name that a
/// crash left without a namespace is removed as well.
/// @errors kNotFound, kPermission
[[nodiscard]] Result<void> delete_netns(std::string_view name);

/// Names with this prefix, sorted.
[[nodiscard]] Result<std::vector<std::string>> list_netns(std::string_view prefix = {});

/// Moves the calling process into the namespace for good, before it becomes another program.
/// @errors kPermission
[[nodiscard]] Result<void> join_netns(const Netns& netns);

/// Sets a variable below /proc/sys/net in a namespace.
/// @param key with slashes, e.g. "ipv4/ip_forward"; none of its parts is ".."
/// @errors kNotFound for an unknown key, kInvalidArgument for a refused value
[[nodiscard]] Result<void> set_sysctl(const Netns& netns, std::string_view key,
                                      std::string_view value);
/// Reads one, without the final newline.
[[nodiscard]] Result<std::string> get_sysctl(const Netns& netns, std::string_view key);

}  // namespace mesh::datapath
