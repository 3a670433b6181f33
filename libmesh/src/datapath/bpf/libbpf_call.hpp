// Around calls of libbpf: what it says while it fails, and its option structs. Internal to this
// folder.
#pragma once

#include <mesh/error.hpp>
#include <string>
#include <string_view>

namespace mesh::datapath {

/// An empty option struct of libbpf's (its macro for this is no C++).
template <class Options>
[[nodiscard]] Options sized() {
    Options options{};
    options.sz = sizeof options;
    return options;
}

/// Keeps what libbpf says on this thread while it lives, for the error. One at a time per thread.
class LibbpfText {
  public:
    LibbpfText();
    ~LibbpfText();
    LibbpfText(const LibbpfText&) = delete;
    LibbpfText& operator=(const LibbpfText&) = delete;
    /// @param number errno, positive or negative
    [[nodiscard]] Error error(std::string_view what, int number) const;

  private:
    std::string text_;
};

}  // namespace mesh::datapath
