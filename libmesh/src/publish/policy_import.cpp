#include "publish/policy_import.hpp"

#include <fmt/format.h>

#include <utility>

#include "sources/etcd/client.hpp"

namespace mesh::publish {

namespace asio = boost::asio;
using What = PolicyImportChange::What;

namespace {

/// A write that is due, and what it found.
struct Step {
    PolicyImportChange change;
    std::string key;
    std::string value;  ///< to put; empty: to delete
    std::int64_t mod_revision = 0;
};

// Requests are named before they are awaited: see sources/etcd/client.hpp.
asio::awaitable<Result<Step>> look(etcd::Client& client, model::policy::PolicyKey key,
                                   std::string value) {
    Step step;
    step.key = model::local_policy_key(key);
    step.value = std::move(value);
    etcd::RangeRequest request;
    request.range.key = step.key;
    MESH_CO_TRY(const etcd::RangeResult found, co_await client.async_range(std::move(request)));
    const bool put = !step.value.empty();
    step.change = {std::move(key), put ? What::kCreated : What::kAbsent};
    if (found.kvs.empty()) co_return step;
    const etcd::KeyValue& kv = found.kvs.front();
    step.mod_revision = kv.mod_revision;
    step.change.what = !put                     ? What::kDeleted
                       : kv.value == step.value ? What::kUnchanged
                                                : What::kConfigured;
    if (kv.lease != 0) {
        co_return Error(Errc::kPermission,
                        fmt::format("{} is published from a manifest: change that",
                                    step.change.key.to_string()));
    }
    co_return step;
}

asio::awaitable<Result<void>> write(etcd::Client& client, const Step& step) {
    etcd::Txn txn;
    etcd::Compare same;
    same.key = step.key;
    same.number = step.mod_revision;
    txn.compare.push_back(std::move(same));
    if (step.value.empty()) {
        etcd::DeleteOp op;
        op.range.key = step.key;
        txn.success.emplace_back(std::move(op));
    } else {
        etcd::PutOp op;
        op.key = step.key;
        op.value = step.value;
        txn.success.emplace_back(std::move(op));
    }
    MESH_CO_TRY(const etcd::TxnResult done, co_await client.async_txn(std::move(txn)));
    if (done.succeeded) co_return Result<void>{};
    co_return Error(Errc::kConflict, fmt::format("{}: somebody else changed it at the same time",
                                                 step.change.key.to_string()));
}

}  // namespace

std::string_view to_string(What what) {
    switch (what) {
        case What::kCreated:
            return "created";
        case What::kConfigured:
            return "configured";
        case What::kUnchanged:
            return "unchanged";
        case What::kDeleted:
            return "deleted";
        case What::kAbsent:
            return "not found";
    }
    return "";
}

asio::awaitable<Result<std::vector<PolicyImportChange>>> import_policies(etcd::Client& client,
                                                                         PolicyImport what) {
    std::vector<Step> steps;
    for (const auto& record : what.puts) {
        MESH_CO_TRY(Step step, co_await look(client, record->key, model::encode(*record)));
        steps.push_back(std::move(step));
    }
    for (const auto& key : what.deletes) {
        MESH_CO_TRY(Step step, co_await look(client, key, {}));
        steps.push_back(std::move(step));
    }
    std::vector<PolicyImportChange> changes;
    for (const Step& step : steps) {
        const bool idle = step.change.what == What::kUnchanged || step.change.what == What::kAbsent;
        if (!idle && !what.dry_run) MESH_CO_CHECK(co_await write(client, step));
        changes.push_back(step.change);
    }
    co_return changes;
}

}  // namespace mesh::publish
