#include "base/log_fields.hpp"

namespace mesh {

namespace {
thread_local const LogFields* innermost = nullptr;
}  // namespace

LogFields::LogFields(std::initializer_list<Field> fields) : fields_(fields), outer_(innermost) {
    innermost = this;
}

LogFields::~LogFields() {
    innermost = outer_;
}

std::span<const LogFields::Field> LogFields::current() noexcept {
    if (innermost == nullptr) return {};
    return innermost->fields_;
}

}  // namespace mesh
