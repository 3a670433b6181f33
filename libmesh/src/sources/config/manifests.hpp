// Kubernetes manifests as a source of a cluster's objects: files of YAML or JSON, several documents
// and Lists in each, in a directory. A file with a mistake keeps the objects of its last good
// version. Users: mesh-operator.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/kubernetes.hpp"
#include "runtime/clock.hpp"
#include "sources/config/definitions.hpp"
#include "sources/config/directory_watcher.hpp"
#include "sources/config/policy_set.hpp"

namespace mesh::sources::config {

/// What a file of manifests holds.
struct ParsedManifests {
    std::vector<std::shared_ptr<const model::k8s::Object>> objects;
    /// One per bad document: "<file>: document <n>: line <n>: <field>: expected ..., got ...".
    std::vector<std::string> errors;
    /// "<apiVersion> <kind>" of documents that are none of ours.
    std::set<std::string> skipped;
};

/// Reads the documents of a file: Service, Pod, Node, Namespace of v1, EndpointSlice of
/// discovery.k8s.io/v1, and Lists of them (List, ServiceList, ...). Names, labels and values are
/// held to Kubernetes' own rules, fields that the mesh has no use for are not looked at. A missing
/// namespace is "default".
/// @thread any thread
[[nodiscard]] ParsedManifests parse_manifests(std::string_view text, std::string_view file);

/// What changed in a set of manifests, and what there is to say about it.
struct ManifestUpdate {
    std::vector<model::k8s::ObjectChange> changes;    ///< each object at most once
    std::vector<model::PolicyRecordChange> policies;  ///< likewise; of ManifestDirectory
    std::vector<std::string> errors;                  ///< that were not there before
    std::vector<std::string> warnings;
};

/// The objects of several files as one set. An object that several files define is that of the
/// bytewise first file name, and an error. @thread one thread
class ManifestSet {
  public:
    /// A file's new text. With a mistake anywhere in it the file's objects stay as they were.
    [[nodiscard]] ManifestUpdate apply(std::string_view file, std::string_view text);
    /// The file is gone, and its objects with it.
    [[nodiscard]] ManifestUpdate remove(std::string_view file);
    /// The file cannot be read: its objects stay as they were. @param why names the file
    [[nodiscard]] ManifestUpdate fail(std::string_view file, std::string why);

    [[nodiscard]] std::size_t size() const noexcept { return definitions_.size(); }
    /// Number of objects by kind.
    [[nodiscard]] std::map<model::k8s::Kind, std::size_t> counts() const;
    /// All that is wrong now, by file.
    [[nodiscard]] std::vector<std::string> errors() const;
    /// True if some file has never been good: the set may lack objects that are meant to exist.
    [[nodiscard]] bool incomplete() const;

  private:
    using ObjectDefinitions = Definitions<model::k8s::ObjectKey, model::k8s::Object>;
    using Objects = ObjectDefinitions::Values;
    struct File {
        Objects objects;
        std::vector<std::string> errors;
        bool ever_good = false;
    };
    void replace(const std::string& name, File& file, Objects objects, ManifestUpdate& update);

    std::map<std::string, File, std::less<>> files_;
    ObjectDefinitions definitions_;
    std::set<std::string> skipped_told_;
};

/// A directory of manifests: *.yaml, *.yml and *.json, objects and network policies. @thread one
/// thread; blocks for the reads
class ManifestDirectory {
  public:
    ManifestDirectory(std::filesystem::path directory, const Clock& clock);
    /// Reads what changed since the last call.
    /// @errors as DirectoryReader::read(); the objects stay as they are
    [[nodiscard]] Result<ManifestUpdate> refresh();
    [[nodiscard]] const ManifestSet& set() const noexcept { return set_; }
    [[nodiscard]] const PolicySet& policies() const noexcept { return policies_; }
    /// All that is wrong now, each mistake once.
    [[nodiscard]] std::vector<std::string> errors() const;
    /// True once the directory has been read.
    [[nodiscard]] bool loaded() const noexcept { return loaded_; }

  private:
    DirectoryReader reader_;
    ManifestSet set_;
    PolicySet policies_;
    bool loaded_ = false;
};

}  // namespace mesh::sources::config
