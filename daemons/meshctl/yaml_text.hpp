// A JSON value as YAML text.
#pragma once

#include <boost/json/value.hpp>
#include <string>

namespace mesh::ctl {

/// Block style; strings are quoted where plain they would be read as something else.
[[nodiscard]] std::string yaml_text(const boost::json::value& value);

}  // namespace mesh::ctl
