#include "attach/agent_wait.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <thread>

#include "serve/status/http_get.hpp"

namespace mesh::attach {
namespace {

namespace json = boost::json;

constexpr std::chrono::milliseconds kInterval{10};
constexpr std::chrono::milliseconds kMaxAsk{
    1000};  // an agent that hangs may be restarted meanwhile

bool has_text(const json::object& object, std::string_view name, std::string_view text) {
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_string() && std::string_view(value->get_string()) == text;
}

Result<void> ask(const std::string& socket, std::string_view id, std::string_view device,
                 std::chrono::milliseconds timeout) {
    MESH_TRY(const serve::HttpReply reply, serve::http_get(socket, "/v1/endpoints", timeout));
    if (reply.status != 200) {
        return unavailable(fmt::format("{}: GET /v1/endpoints: status {}", socket, reply.status));
    }
    return check_attached(reply.body, id, device);
}

}  // namespace

Result<void> check_attached(std::string_view endpoints_json, std::string_view id,
                            std::string_view device) {
    boost::system::error_code ec;
    const json::value document = json::parse(endpoints_json, ec);
    if (ec || !document.is_array()) return Error(Errc::kCorrupt, "/v1/endpoints: expected a list");
    for (const json::value& item : document.get_array()) {
        if (!item.is_object()) continue;
        const json::object& endpoint = item.get_object();
        if (!has_text(endpoint, "id", id) || !has_text(endpoint, "device", device)) continue;
        const json::value* attached = endpoint.if_contains("attached");
        if (attached != nullptr && *attached == json::value(true)) return {};
        const json::value* error = endpoint.if_contains("error");
        if (error == nullptr || !error->is_string() || error->get_string().empty()) {
            return unavailable("the agent knows it and has not attached it yet");
        }
        return unavailable(
            fmt::format("the agent says: {}", std::string_view(error->get_string())));
    }
    return unavailable("the agent does not know it");
}

Result<void> wait_until_attached(const std::string& agent_socket, std::string_view id,
                                 std::string_view device, std::chrono::seconds timeout,
                                 const Clock& clock) {
    const TimePoint deadline = clock.now() + timeout;
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock.now());
        auto asked =
            ask(agent_socket, id, device, std::clamp(left, std::chrono::milliseconds(1), kMaxAsk));
        if (asked) return {};
        if (clock.now() + kInterval >= deadline) {
            return Error(Errc::kTimeout, fmt::format("endpoint {} is not attached after {} s: {}",
                                                     id, timeout.count(), asked.error().detail()));
        }
        std::this_thread::sleep_for(kInterval);
    }
}

}  // namespace mesh::attach
