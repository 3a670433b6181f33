#include "serve/etcd/access_control.hpp"

#include <boost/asio/post.hpp>
#include <utility>

namespace mesh::serve {

namespace {

/// Calls that change something, leases included.
bool writes(EtcdAction action) {
    switch (action) {
        case EtcdAction::kPut:
        case EtcdAction::kDelete:
        case EtcdAction::kLease:
        case EtcdAction::kCompact:
        case EtcdAction::kMaintenance:
            return true;
        default:
            return false;
    }
}

}  // namespace

AccessControl::AccessControl(std::string own_cluster, const Clock& clock, Logger log)
    : own_cluster_(std::move(own_cluster)),
      denials_(clock, std::move(log)),
      table_(AccessTable::built_in(own_cluster_)) {}

std::shared_ptr<const AccessTable> AccessControl::table() const {
    const std::lock_guard lock(mutex_);
    return table_;
}

void AccessControl::set_table(std::shared_ptr<const AccessTable> next) {
    const std::lock_guard lock(mutex_);
    table_ = std::move(next);
    generation_.fetch_add(1, std::memory_order_release);
    std::erase_if(subscribers_, [](const Subscriber& one) { return one.changed.expired(); });
    for (const Subscriber& one : subscribers_) {
        boost::asio::post(one.executor, [weak = one.changed] {
            if (const auto changed = weak.lock()) (*changed)();
        });
    }
}

Result<void> AccessControl::load(std::string_view text, std::string_view file) {
    auto parsed = sources::config::parse_access_file(text, file);
    if (!parsed) {
        note_failure(parsed.error().detail());
        return parsed.error();
    }
    set_table(AccessTable::make(*parsed, own_cluster_));
    note_failure({});
    return {};
}

void AccessControl::note_failure(std::string why) {
    const std::lock_guard lock(mutex_);
    error_ = std::move(why);
}

std::string AccessControl::error() const {
    const std::lock_guard lock(mutex_);
    return error_;
}

std::shared_ptr<void> AccessControl::subscribe(boost::asio::any_io_executor executor,
                                               std::function<void()> changed) {
    auto token = std::make_shared<std::function<void()>>(std::move(changed));
    const std::lock_guard lock(mutex_);
    subscribers_.push_back({std::move(executor), token});
    return token;
}

// --- TableAccess
// ---------------------------------------------------------------------------------------------

TableAccess::TableAccess(std::shared_ptr<const AccessControl> control, Options options)
    : control_(std::move(control)), options_(options) {}

const AccessTable& TableAccess::table() const {
    const std::uint64_t generation = control_->generation();
    if (generation != generation_) {
        table_ = control_->table();
        generation_ = generation;
    }
    return *table_;
}

std::optional<DenialReason> TableAccess::judge(const AccessRequest& request) const {
    const AccessRole* role = table().role_of(request.peer);
    if (role == nullptr) return DenialReason::kNoRole;
    if (!role->counts_on(request.listener)) return DenialReason::kListener;
    if (!role->may_call(request.action)) return DenialReason::kMethod;
    if (writes(request.action) && !options_.writable) return DenialReason::kMirror;
    switch (request.action) {
        case EtcdAction::kRange:
        case EtcdAction::kWatch:
            if (!role->may_read(request.range)) return DenialReason::kKey;
            break;
        case EtcdAction::kPut:
        case EtcdAction::kDelete:
            if (!role->may_write(request.range)) return DenialReason::kKey;
            break;
        default:
            break;
    }
    return {};
}

bool TableAccess::allows(const AccessRequest& request) const {
    return !judge(request);
}

bool TableAccess::admits(const AccessRequest& request) const {
    const auto denial = judge(request);
    if (!denial || *denial == DenialReason::kKey) return true;
    if (!options_.init_locks || *denial != DenialReason::kMethod) return false;
    const bool lock = request.action == EtcdAction::kPut || request.action == EtcdAction::kDelete ||
                      request.action == EtcdAction::kTxn || request.action == EtcdAction::kLease;
    return lock && table().role_of(request.peer)->reads();
}

DenialReason TableAccess::reason(const AccessRequest& request) const {
    return judge(request).value_or(DenialReason::kMethod);
}

std::string_view TableAccess::advice(const AccessRequest& request) const {
    if (judge(request) != DenialReason::kMirror) return {};
    return "this proxy mirrors an etcd; write to that etcd directly";
}

}  // namespace mesh::serve
