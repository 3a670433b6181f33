#include "meshctl/policy_files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <map>
#include <utility>

#include "sources/config/policy_documents.hpp"
#include "sources/config/read_file.hpp"

namespace mesh::ctl {

namespace json = boost::json;
namespace fs = std::filesystem;
using sources::config::kMaxPolicyText;

namespace {

bool is_manifest(const fs::path& path) {
    const std::string end = path.extension().string();
    return end == ".yaml" || end == ".yml" || end == ".json";
}

Result<std::vector<std::string>> expand(const std::string& path) {
    std::error_code error;
    if (path == "-" || !fs::is_directory(path, error)) return std::vector{path};
    std::vector<std::string> files;
    for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
        if (is_manifest(it->path())) files.push_back(it->path().string());
    }
    if (error) return unavailable(fmt::format("{}: {}", path, error.message()));
    std::ranges::sort(files);
    return files;
}

}  // namespace

Result<std::vector<InputFile>> read_inputs(const std::vector<std::string>& paths) {
    std::vector<InputFile> files;
    for (const std::string& path : paths) {
        MESH_TRY(const std::vector<std::string> names, expand(path));
        for (const std::string& name : names) {
            if (name == "-") {
                files.push_back({name, std::string(std::istreambuf_iterator<char>(std::cin), {})});
                continue;
            }
            MESH_TRY(std::string text, sources::config::read_file(name, kMaxPolicyText));
            files.push_back({name, std::move(text)});
        }
    }
    return files;
}

PolicyFiles parse_policy_files(const std::vector<InputFile>& files) {
    PolicyFiles out;
    std::map<model::policy::PolicyKey, std::string> seen;
    for (const InputFile& file : files) {
        auto parsed = sources::config::parse_policy_records(
            file.text, file.name, sources::config::PolicyFeatures::enforced());
        std::ranges::move(parsed.errors, std::back_inserter(out.errors));
        out.skipped.merge(parsed.skipped);
        for (std::size_t i = 0; i < parsed.policies.size(); ++i) {
            const auto& key = parsed.policies[i]->key;
            const auto [at, added] = seen.try_emplace(key, parsed.policies[i]->source);
            if (!added) {
                out.errors.push_back(fmt::format("{}: {} is in {}, too", parsed.policies[i]->source,
                                                 key.to_string(), at->second));
                continue;
            }
            out.policies.push_back(parsed.policies[i]);
            out.records.push_back(parsed.records[i]);
        }
    }
    return out;
}

Result<PolicyFiles> good_policy_files(const std::vector<std::string>& paths) {
    MESH_TRY(const std::vector<InputFile> inputs, read_inputs(paths));
    PolicyFiles files = parse_policy_files(inputs);
    if (!files.errors.empty()) return invalid_argument(all_errors(files));
    return files;
}

std::string all_errors(const PolicyFiles& files) {
    std::string all;
    for (const std::string& error : files.errors) all += (all.empty() ? "" : "\n") + error;
    return all;
}

json::object validation_document(const PolicyFiles& files) {
    json::array policies, errors, skipped;
    for (const auto& policy : files.policies) {
        policies.push_back(json::object{{"kind", to_string(policy->key.kind)},
                                        {"namespace", policy->key.namespace_},
                                        {"name", policy->key.name},
                                        {"rules", policy->rules.size()},
                                        {"source", policy->source}});
    }
    for (const std::string& error : files.errors) errors.emplace_back(error);
    for (const std::string& kind : files.skipped) skipped.emplace_back(kind);
    return {{"valid", files.errors.empty() && !files.policies.empty()},
            {"policies", std::move(policies)},
            {"errors", std::move(errors)},
            {"skipped", std::move(skipped)}};
}

}  // namespace mesh::ctl
