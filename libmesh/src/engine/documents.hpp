// The JSON documents of the status API (GET /v1/...), made from views. Field names are the API:
// meshctl and scripts read them.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <mesh/mesh.hpp>
#include <span>

namespace mesh::engine {

[[nodiscard]] boost::json::object to_json(const ServiceView& view);
[[nodiscard]] boost::json::array to_json(std::span<const ServiceView> views);

}  // namespace mesh::engine
