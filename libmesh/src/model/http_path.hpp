// What else than itself a path of an HTTP request may mean to a server: for rules, which must hold
// for both.
#pragma once

#include <string>
#include <string_view>

namespace mesh::model {

/// The path as servers may resolve it: escapes of unreserved characters, of "/" and of "\" are
/// decoded, "\" is "/", "//" is "/", segments "." and ".." (also with ";...") are resolved. The
/// query is left alone. @source RFC 3986 §6.2.2
void normalise_path(std::string_view path, std::string& out);

}  // namespace mesh::model
