// What clients of a mesh-proxy take by the second, from two looks at them.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cstddef>

namespace mesh::ctl {

/// @param before,after documents of /v1/clients of all clients
/// @param seconds between them
/// @return after's rows, each with events_per_second and bytes_per_second, busiest first; at most
///   `limit`, 0 = all. Counters that went back (connections that ended) count from zero.
[[nodiscard]] boost::json::array client_rates(const boost::json::object& before,
                                              const boost::json::object& after, double seconds,
                                              std::size_t limit);

}  // namespace mesh::ctl
