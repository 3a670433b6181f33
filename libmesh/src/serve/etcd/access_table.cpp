#include "serve/etcd/access_table.hpp"

#include <algorithm>
#include <cctype>
#include <utility>

#include "model/keys.hpp"

namespace mesh::serve {

namespace {

namespace config = sources::config;
using config::AccessPattern;
using config::AccessUser;

std::string lower(std::string_view text) {
    std::string out(text);
    std::ranges::transform(out, out.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return out;
}

std::string with_cluster(std::string_view text, std::string_view cluster) {
    constexpr std::string_view kPlace = "{cluster}";
    std::string out;
    for (auto at = text.find(kPlace); at != std::string_view::npos; at = text.find(kPlace)) {
        out.append(text.substr(0, at)).append(cluster);
        text.remove_prefix(at + kPlace.size());
    }
    return out.append(text);
}

ClientLimits merged(ClientLimits limits, const config::AccessLimits& said) {
    const auto take = [](std::uint64_t& to, const std::optional<std::uint64_t>& from) {
        if (from) to = *from;
    };
    take(limits.streams, said.streams);
    take(limits.watches, said.watches);
    take(limits.requests_per_second, said.requests_per_second);
    if (said.requests_per_second) limits.request_burst = *said.requests_per_second;
    take(limits.request_burst, said.request_burst);
    limits.request_burst = std::max<std::uint64_t>(limits.request_burst, 1);
    take(limits.waiting_requests, said.waiting_requests);
    take(limits.bytes_in_per_second, said.bytes_in_per_second);
    take(limits.bytes_out_per_second, said.bytes_out_per_second);
    return limits;
}

AccessPattern key(std::string text) {
    return {std::move(text), false};
}
AccessPattern all_below(std::string_view text) {
    return {std::string(text), true};
}

/// @source spec protocol.md §10; the key .has-cluster-config is asked for by readers of 1.14 to
/// 1.16
std::vector<config::AccessRole> built_in_roles() {
    config::AccessRole remote;
    remote.name = config::kRemoteRole;
    remote.listeners = {"remote"};
    remote.read = {all_below(model::kHeartbeatKey), all_below(model::kStatePrefix),
                   key(model::cluster_config_key("{cluster}")),
                   key(std::string(model::kHasClusterConfigKey)),
                   all_below(model::synced_prefix("{cluster}"))};
    config::AccessRole local;
    local.name = config::kLocalRole;
    local.listeners = {"local"};
    local.read = {all_below("")};
    local.transactions = true;
    local.status = true;
    config::AccessRole admin = local;
    admin.name = config::kAdminRole;
    admin.write = {all_below("")};
    admin.maintenance = true;
    config::AccessRole none;
    none.name = config::kNoRole;
    return {std::move(remote), std::move(local), std::move(admin), std::move(none)};
}

std::vector<AccessUser> own_users() {
    return {{AccessUser::By::kName, key("local-{cluster}"), std::string(config::kLocalRole)},
            {AccessUser::By::kName, key("admin-{cluster}"), std::string(config::kAdminRole)}};
}

/// The built-in role with what the file says of it.
void change(config::AccessRole& role, const config::AccessRole& said) {
    const auto take = [](auto& to, const auto& from) {
        if (from) to = from;
    };
    take(role.listeners, said.listeners);
    take(role.read, said.read);
    take(role.write, said.write);
    take(role.transactions, said.transactions);
    take(role.status, said.status);
    take(role.maintenance, said.maintenance);
    role.limits = said.limits;
    role.limits_per_name = said.limits_per_name;
}

}  // namespace

// --- AccessRole
// ----------------------------------------------------------------------------------------------

AccessRole::AccessRole(const config::AccessRole& described, std::string_view own_cluster)
    : name_(described.name),
      listeners_(described.listeners.value_or(std::vector<std::string>{"remote", "local"})),
      read_(ranges(described.read.value_or(std::vector<AccessPattern>{}), own_cluster)),
      write_(ranges(described.write.value_or(std::vector<AccessPattern>{}), own_cluster)),
      transactions_(described.transactions.value_or(false)),
      status_(described.status.value_or(false)),
      maintenance_(described.maintenance.value_or(false)),
      limits_(merged(kDefaultLimits, described.limits)),
      limits_per_name_(merged(kDefaultLimitsPerName, described.limits_per_name)) {}

std::vector<AccessRole::Range> AccessRole::ranges(const std::vector<AccessPattern>& patterns,
                                                  std::string_view own_cluster) {
    std::vector<Range> out;
    for (const AccessPattern& pattern : patterns) {
        std::string start = with_cluster(pattern.text, own_cluster);
        // [key, key + '\0') holds the key alone.
        std::string end = pattern.prefix ? store::prefix_end(start) : start + '\0';
        out.push_back({std::move(start), std::move(end)});
    }
    return out;
}

bool AccessRole::within(const std::vector<Range>& ranges, const store::KeyRange& range) {
    return std::ranges::any_of(
        ranges, [&range](const Range& one) { return lies_within(range, one.start, one.end); });
}

bool AccessRole::counts_on(std::string_view listener) const {
    return std::ranges::find(listeners_, listener) != listeners_.end();
}

bool AccessRole::may_read(const store::KeyRange& range) const {
    return within(read_, range);
}
bool AccessRole::may_write(const store::KeyRange& range) const {
    return within(write_, range);
}

bool AccessRole::may_call(EtcdAction action) const noexcept {
    switch (action) {
        case EtcdAction::kRange:
        case EtcdAction::kWatch:
            return !read_.empty();
        case EtcdAction::kPut:
        case EtcdAction::kDelete:
        case EtcdAction::kLease:
            return !write_.empty();
        case EtcdAction::kTxn:
            return transactions_;
        case EtcdAction::kStatus:
        case EtcdAction::kMembers:
            return status_;
        case EtcdAction::kCompact:
        case EtcdAction::kMaintenance:
            return maintenance_;
        case EtcdAction::kOther:
            return false;
    }
    return false;
}

// --- AccessTable
// ---------------------------------------------------------------------------------------------

void AccessTable::add(const AccessUser& user, std::string_view own_cluster, bool replace) {
    std::string text = with_cluster(user.pattern.text, own_cluster);
    if (user.by == AccessUser::By::kDns) text = lower(text);
    Names& names = names_.at(static_cast<std::size_t>(user.by));
    const AccessRole* role = &roles_.find(user.role)->second;
    if (user.pattern.prefix) names.prefix_lengths.insert(text.size());
    ByText& place = user.pattern.prefix ? names.prefix : names.exact;
    const auto [at, added] = place.try_emplace(std::move(text), role);
    if (!added && replace) at->second = role;
    users_ += added ? 1 : 0;
}

std::shared_ptr<const AccessTable> AccessTable::built_in(std::string_view own_cluster) {
    config::AccessFile file;
    file.users = {{AccessUser::By::kName, key("remote"), std::string(config::kRemoteRole)},
                  {AccessUser::By::kName, all_below("remote-"), std::string(config::kRemoteRole)}};
    return make(file, own_cluster);
}

std::shared_ptr<const AccessTable> AccessTable::make(const config::AccessFile& file,
                                                     std::string_view own_cluster) {
    auto table = std::make_shared<AccessTable>();
    std::vector<config::AccessRole> roles = built_in_roles();
    for (const config::AccessRole& said : file.roles) {
        const auto known = std::ranges::find(roles, said.name, &config::AccessRole::name);
        if (known != roles.end())
            change(*known, said);
        else
            roles.push_back(said);
    }
    for (const config::AccessRole& role : roles)
        table->roles_.try_emplace(role.name, role, own_cluster);
    for (const AccessUser& user : own_users()) table->add(user, own_cluster, false);
    for (const AccessUser& user : file.users) table->add(user, own_cluster, true);
    return table;
}

void AccessTable::look(const Names& names, std::string_view text, Match& best) {
    if (text.empty() || best.exact) return;
    if (const auto exact = names.exact.find(text); exact != names.exact.end()) {
        best = {exact->second, true, text.size()};
        return;
    }
    for (const std::size_t length : names.prefix_lengths) {
        if (best.role != nullptr && length <= best.length) return;
        if (length > text.size()) continue;
        const auto prefix = names.prefix.find(text.substr(0, length));
        if (prefix == names.prefix.end()) continue;
        best = {prefix->second, false, length};
        return;
    }
}

const AccessRole* AccessTable::role_of(const rpc::Peer& peer) const {
    if (!peer.verified) return nullptr;
    const auto names = [this](AccessUser::By by) -> const Names& {
        return names_.at(static_cast<std::size_t>(by));
    };
    Match best;
    look(names(AccessUser::By::kName), peer.common_name, best);
    for (const std::string& uri : peer.uris) look(names(AccessUser::By::kUri), uri, best);
    const Names& dns = names(AccessUser::By::kDns);
    if (!dns.exact.empty() || !dns.prefix.empty())
        for (const std::string& name : peer.dns_names) look(dns, lower(name), best);
    return best.role;
}

}  // namespace mesh::serve
