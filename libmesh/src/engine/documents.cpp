#include "engine/documents.hpp"

namespace mesh::engine {

namespace json = boost::json;

json::object to_json(const ServiceView& view) {
    json::array frontends;
    for (const auto& frontend : view.frontends) {
        json::array backends;
        for (const auto& backend : frontend.backends) {
            backends.push_back(json::object{{"address", backend.address},
                                            {"port", backend.port},
                                            {"cluster", backend.cluster},
                                            {"state", backend.state},
                                            {"weight", backend.weight},
                                            {"selected", backend.selected},
                                            {"reason", backend.reason}});
        }
        frontends.push_back(json::object{{"address", frontend.address},
                                         {"port", frontend.port},
                                         {"protocol", frontend.protocol},
                                         {"port_name", frontend.port_name},
                                         {"backends", std::move(backends)}});
    }
    return {{"namespace", view.namespace_}, {"name", view.name},
            {"global", view.global},        {"shared", view.shared},
            {"affinity", view.affinity},    {"frontends", std::move(frontends)},
            {"notes", json::array(view.notes.begin(), view.notes.end())}};
}

json::array to_json(std::span<const ServiceView> views) {
    json::array array;
    for (const auto& view : views) array.push_back(to_json(view));
    return array;
}

}  // namespace mesh::engine
