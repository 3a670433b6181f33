// The recorded cases of Cilium's own client (tests/golden/samples/interop-README): reading them,
// and what we report in the form in which they are recorded.
#pragma once

#include <boost/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "state/clusters/session.hpp"
#include "state/tables/changes.hpp"

namespace mesh::interop {

namespace json = boost::json;

/// One event as recorded.
struct Event {
    std::string kind, key;
    bool deleted = false;
    json::value object;  ///< of an upsert
};
[[nodiscard]] std::string text_of(const Event& event);

[[nodiscard]] std::vector<json::object> read_cases();
[[nodiscard]] std::string text(const json::value& value);
/// The bytes of a put operation.
[[nodiscard]] std::string put_value(const json::object& put);
/// Equality where the recording may stand for a long string by its hash.
[[nodiscard]] bool matches(const json::value& ours, const json::value& recorded);

/// Turns a session's changes to recorded form. A delete names its object by the value that went.
class Recorder {
  public:
    /// @param keep_zones services keep fields that 1.15 did not know
    explicit Recorder(bool keep_zones) : keep_zones_(keep_zones) {}
    [[nodiscard]] std::vector<Event> take(const state::ClusterBatch& batch);

  private:
    bool keep_zones_;
    std::map<std::string, std::string> names_;  ///< cluster, kind and our key → recorded key
};

/// The events that change something: re-emitted equal upserts and deletes of nothing are dropped.
class Effects {
  public:
    [[nodiscard]] std::vector<Event> effective(const std::vector<Event>& events);

  private:
    std::map<std::string, json::value> held_;
};

}  // namespace mesh::interop
