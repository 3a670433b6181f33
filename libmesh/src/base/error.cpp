#include <mesh/error.hpp>
#include <stdexcept>

namespace mesh {

void throw_exception_from_error(const Error& error, const boost::source_location& where) {
    throw std::logic_error("unchecked Result at " + std::string(where.file_name()) + ":" +
                           std::to_string(where.line()) + ": " + error.message());
}

}  // namespace mesh
