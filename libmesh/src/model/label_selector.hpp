// Label selectors in Kubernetes' text form: "zone in (a, b), !spot, tier != test, cores > 8".
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/string_map.hpp"

namespace mesh::model {

/// All requirements must hold; none holds for all labels. @thread any thread (a plain value)
class LabelSelector {
  public:
    LabelSelector() = default;
    /// Requirements parted by commas: "key", "!key", "key = value" (or "=="), "key != value",
    /// "key in (a, b)", "key notin (a, b)", "key > 8", "key < 8" (64-bit integers). Spaces do not
    /// matter, save between words. Empty text selects everything.
    /// @errors kInvalidArgument with the text, what was expected and where
    /// @source https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
    [[nodiscard]] static Result<LabelSelector> parse(std::string_view text);
    [[nodiscard]] bool matches(const StringMap& labels) const;

    friend bool operator==(const LabelSelector&, const LabelSelector&) = default;

  private:
    enum class Operator : std::uint8_t { kExists, kAbsent, kIn, kNotIn, kGreater, kLess };
    struct Requirement {
        std::string key;
        Operator op = Operator::kExists;
        std::vector<std::string> values;
        std::int64_t number = 0;
        friend bool operator==(const Requirement&, const Requirement&) = default;
    };
    class Parser;
    [[nodiscard]] static bool holds(const Requirement& requirement, const StringMap& labels);

    std::vector<Requirement> requirements_;
};

}  // namespace mesh::model
