// Users, roles and limits as they are asked for per request: made once of an access file, or of
// what holds without one, then immutable. Deny is the default.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "serve/etcd/access.hpp"
#include "sources/config/access_file.hpp"

namespace mesh::serve {

/// Bounds of one client, or of all clients of a name together; 0 = none.
struct ClientLimits {
    std::uint64_t streams = 0;  ///< Watch and LeaseKeepAlive calls at a time
    std::uint64_t watches = 0;
    std::uint64_t requests_per_second = 0;
    std::uint64_t request_burst = 0;
    std::uint64_t waiting_requests = 0;
    std::uint64_t bytes_in_per_second = 0;
    std::uint64_t bytes_out_per_second = 0;
    friend bool operator==(const ClientLimits&, const ClientLimits&) = default;
};

/// What holds where a file says nothing. A Cilium agent makes 20 requests per second, while it
/// begins up to 10,000 (pages of 256 keys), and has less than 10 watches; a whole remote cluster
/// may share one name, and behind a NAT gateway one address as well: so these bounds only keep a
/// client from using up what all have. That one client does not slow the others is not their
/// matter, but that of the turns in which requests are answered (RequestQueue).
inline constexpr ClientLimits kDefaultLimits{.streams = 50'000,
                                             .watches = 100'000,
                                             .requests_per_second = 50'000,
                                             .request_burst = 50'000,
                                             .waiting_requests = 20'000};
inline constexpr ClientLimits kDefaultLimitsPerName{.streams = 100'000,
                                                    .watches = 100'000,
                                                    .requests_per_second = 500'000,
                                                    .request_burst = 500'000,
                                                    .waiting_requests = 100'000};

/// @thread any thread (immutable)
class AccessRole {
  public:
    AccessRole(const sources::config::AccessRole& described, std::string_view own_cluster);

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] const ClientLimits& limits() const noexcept { return limits_; }
    [[nodiscard]] const ClientLimits& limits_per_name() const noexcept { return limits_per_name_; }
    [[nodiscard]] bool counts_on(std::string_view listener) const;
    /// Whether it may make such a call at all, whatever the keys.
    [[nodiscard]] bool may_call(EtcdAction action) const noexcept;
    [[nodiscard]] bool may_read(const store::KeyRange& range) const;
    [[nodiscard]] bool may_write(const store::KeyRange& range) const;
    [[nodiscard]] bool reads() const noexcept { return !read_.empty(); }

  private:
    struct Range {
        std::string start, end;
    };
    static std::vector<Range> ranges(const std::vector<sources::config::AccessPattern>& patterns,
                                     std::string_view own_cluster);
    static bool within(const std::vector<Range>& ranges, const store::KeyRange& range);

    std::string name_;
    std::vector<std::string> listeners_;  // empty = none
    std::vector<Range> read_, write_;
    bool transactions_, status_, maintenance_;
    ClientLimits limits_, limits_per_name_;
};

/// @thread any thread (immutable)
class AccessTable {
  public:
    /// What holds without a file: `remote` and `remote-<peer>` have role remote, `local-<own>` role
    /// local, `admin-<own>` role admin.
    [[nodiscard]] static std::shared_ptr<const AccessTable> built_in(std::string_view own_cluster);
    /// What a file says. The own cluster's users keep the roles above unless it names them, and of
    /// a role what it does not change; everybody else is who the file says.
    [[nodiscard]] static std::shared_ptr<const AccessTable> make(
        const sources::config::AccessFile& file, std::string_view own_cluster);

    /// The role of a verified peer: an exact match before a prefix, a longer prefix before a
    /// shorter one; of equals the common name before a URI before a DNS name. @return nullptr: none
    [[nodiscard]] const AccessRole* role_of(const rpc::Peer& peer) const;
    [[nodiscard]] std::size_t users() const noexcept { return users_; }

  private:
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const noexcept {
            return std::hash<std::string_view>{}(text);
        }
    };
    using ByText = std::unordered_map<std::string, const AccessRole*, Hash, std::equal_to<>>;
    struct Names {
        ByText exact, prefix;
        std::set<std::size_t, std::greater<>> prefix_lengths;
    };
    struct Match {
        const AccessRole* role = nullptr;
        bool exact = false;
        std::size_t length = 0;
    };
    void add(const sources::config::AccessUser& user, std::string_view own_cluster, bool replace);
    static void look(const Names& names, std::string_view text, Match& best);

    std::map<std::string, AccessRole, std::less<>> roles_;
    std::array<Names, 3> names_;  // by AccessUser::By
    std::size_t users_ = 0;
};

}  // namespace mesh::serve
