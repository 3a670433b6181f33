#include "datapath/bpf/libbpf_call.hpp"

#include <bpf/libbpf.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <mutex>

#include "datapath/bpf/pin_directory.hpp"

namespace mesh::datapath {
namespace {

/// libbpf's print function is global to the process, so it looks here for whether anybody listens.
thread_local std::string* libbpf_text = nullptr;

int keep_libbpf_text(libbpf_print_level level, const char* format, va_list arguments) {
    if (libbpf_text == nullptr || level == LIBBPF_DEBUG) return 0;
    std::array<char, 1024> line{};
    const int length = std::vsnprintf(line.data(), line.size(), format, arguments);
    if (length > 0 && libbpf_text->size() < 8192) libbpf_text->append(line.data());
    return length;
}

}  // namespace

LibbpfText::LibbpfText() {
    static std::once_flag once;
    std::call_once(once, [] { libbpf_set_print(keep_libbpf_text); });
    libbpf_text = &text_;
}

LibbpfText::~LibbpfText() {
    libbpf_text = nullptr;
}

Error LibbpfText::error(std::string_view what, int number) const {
    const Error plain = system_error(what, number);
    if (text_.empty()) return plain;
    return {plain.code(), plain.detail() + "; libbpf: " + text_};
}

}  // namespace mesh::datapath
