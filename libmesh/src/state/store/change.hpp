// What happened to a store as a whole, for whoever keeps a copy of it: a further event loop of a
// proxy serves from a Store of its own, which shares the records and follows the first one.
#pragma once

#include <cstdint>
#include <vector>

#include "state/store/key_value.hpp"

namespace mesh::store {

/// @thread any thread (records are immutable)
struct StoreChange {
    enum class Kind : std::uint8_t {
        kChanges,     ///< new versions and tombstones, one or several whole revisions
        kDifference,  ///< what a list of a mirrored etcd found; history before it is gone
        kReplaced,    ///< another history: `records` are all live keys
    };
    Kind kind = Kind::kChanges;
    Revision revision = 0;  ///< everything up to here is in
    /// kChanges: by (mod revision, sub revision). kDifference: by mod revision. kReplaced: by key.
    std::vector<KeyValue> records{};
};

}  // namespace mesh::store
