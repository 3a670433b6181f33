# The Debian packages: one install component each. What only packages have is EXCLUDE_FROM_ALL, so that `cmake --install`
# into a prefix does not write to /etc.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME libmesh)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
# Each package has its own first line.
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")
set(CPACK_PACKAGE_CONTACT "The libmesh authors <maintainers@libmesh.io>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PRE_BUILD_SCRIPTS ${here}/pre_build.cmake)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ
    WORLD_EXECUTE)
set(CPACK_COMPONENTS_ALL ${packages})
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
# Where dpkg-shlibdeps finds libmesh.so.1, which no installed package has.
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR}/lib)
set(version ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})

# mesh_package(<name> SUMMARY <line> TEXT <sentences> [SECTION s] [DEPENDS d] [RECOMMENDS r] [SUGGESTS s] [UNIT u STATE paths]
#              [SCRIPTS debian/<name>.<script>...])
function(mesh_package name)
  cmake_parse_arguments(ARG "" "SUMMARY;TEXT;SECTION;DEPENDS;RECOMMENDS;SUGGESTS;UNIT;STATE" "SCRIPTS" ${ARGN})
  if(NOT name IN_LIST packages)
    return()
  endif()
  string(TOUPPER ${name} upper)
  set(prefix CPACK_DEBIAN_${upper}_PACKAGE)
  set(${prefix}_NAME ${name} PARENT_SCOPE)
  set(CPACK_DEBIAN_${upper}_DESCRIPTION "${ARG_SUMMARY}\n${ARG_TEXT}" PARENT_SCOPE)
  foreach(field IN ITEMS SECTION DEPENDS RECOMMENDS SUGGESTS)
    if(ARG_${field})
      set(${prefix}_${field} "${ARG_${field}}" PARENT_SCOPE)
    endif()
  endforeach()
  set(control)
  set(executable FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
  foreach(script IN LISTS ARG_SCRIPTS)
    configure_file(${here}/debian/${name}.${script} ${made}/control/${name}/${script} COPYONLY ${executable})
    list(APPEND control ${made}/control/${name}/${script})
  endforeach()
  if(ARG_UNIT)
    set(UNIT ${ARG_UNIT}.service)
    set(STATE ${ARG_STATE})
    foreach(script IN ITEMS postinst prerm postrm)
      configure_file(${here}/debian/${script}.in ${made}/control/${name}/${script} @ONLY ${executable})
      list(APPEND control ${made}/control/${name}/${script})
    endforeach()
    file(WRITE ${made}/control/${name}/conffiles "/etc/libmesh/${ARG_UNIT}.env\n")
    list(APPEND control ${made}/control/${name}/conffiles)
    install(FILES ${here}/systemd/${UNIT} DESTINATION lib/systemd/system COMPONENT ${name} EXCLUDE_FROM_ALL)
    install(FILES ${here}/etc/${ARG_UNIT}.env DESTINATION /etc/libmesh COMPONENT ${name} EXCLUDE_FROM_ALL)
  endif()
  set(${prefix}_CONTROL_EXTRA "${control}" PARENT_SCOPE)
  set(doc ${CMAKE_INSTALL_DATADIR}/doc/${name})
  install(FILES ${here}/debian/copyright DESTINATION ${doc} COMPONENT ${name} EXCLUDE_FROM_ALL)
  # make_packages makes these two; whoever installs a component by hand goes without.
  install(FILES ${made}/changelog.Debian.gz DESTINATION ${doc} COMPONENT ${name} EXCLUDE_FROM_ALL OPTIONAL)
  install(FILES ${made}/sbom/${name}.cdx.json DESTINATION ${doc} RENAME sbom.cdx.json COMPONENT ${name} EXCLUDE_FROM_ALL OPTIONAL)
  if(EXISTS ${here}/debian/${name}.lintian-overrides)
    install(FILES ${here}/debian/${name}.lintian-overrides DESTINATION ${CMAKE_INSTALL_DATADIR}/lintian/overrides
      RENAME ${name} COMPONENT ${name} EXCLUDE_FROM_ALL)
  endif()
endfunction()

set(about "libmesh joins clusters to one mesh, as Cilium ClusterMesh does and on the
same wire: a Service of the same name in several clusters is one, pods reach
each other by their own addresses, network policies mean the same everywhere.
.")
mesh_package(libmesh1 SECTION libs
  SUMMARY "Many clusters, one mesh: the library"
  TEXT "${about}\nThis is the shared library, by which a program sees the whole mesh.")
mesh_package(libmesh-dev SECTION libdevel
  DEPENDS "libmesh1 (= ${version})"
  RECOMMENDS "libboost1.81-dev"
  SUGGESTS "libboost-json1.81-dev, libbpf-dev, libfmt-dev, libnghttp2-dev, libprotobuf-dev, libre2-dev, libssl-dev, libyaml-cpp-dev, prometheus-cpp-dev"
  SUMMARY "Many clusters, one mesh: what programs are built with"
  TEXT "${about}\nThese are the headers for C and C++ (which needs Boost's), the static library
(which needs the suggested packages), and files for CMake and pkg-config.")
mesh_package(mesh-agent UNIT mesh-agent STATE "/var/lib/libmesh /var/log/libmesh"
  RECOMMENDS "meshctl" SUGGESTS "wireguard-go, containernetworking-plugins"
  SUMMARY "Many clusters, one mesh: the agent of a node"
  TEXT "${about}\nThis is the agent, which writes the node's service load balancing, pod
network and policies, and mesh-cni, which attaches pods.")
mesh_package(mesh-proxy UNIT mesh-proxy STATE "/var/lib/mesh-proxy /var/lib/private/mesh-proxy"
  SUMMARY "Many clusters, one mesh: the etcd proxy of a cluster"
  TEXT "${about}\nThis shows a cluster's etcd to other clusters, read-only and over mutual TLS;
or it is that etcd.")
mesh_package(mesh-operator UNIT mesh-operator STATE "/var/lib/private/mesh-operator"
  SUMMARY "Many clusters, one mesh: publishes a cluster's objects"
  TEXT "${about}\nThis reads a cluster's Kubernetes manifests and keeps its etcd equal to them.")
mesh_package(meshctl
  RECOMMENDS "mesh-agent, mesh-operator, mesh-proxy" SUGGESTS "etcd-server, iproute2"
  SUMMARY "Many clusters, one mesh: the command line"
  TEXT "${about}\nThis asks agents what they know, explains policies, connects clusters, and
makes clusters on one machine to try.")
mesh_package(python3-libmesh SECTION python SCRIPTS postinst prerm
  DEPENDS "libmesh1 (= ${version}), python3 (>= 3.11~), python3 (<< 3.12), python3-cffi-backend"
  SUGGESTS "python3-numpy"
  SUMMARY "Many clusters, one mesh: the library for Python"
  TEXT "${about}\nThis is package libmesh for Python 3, by which a program sees the whole mesh.")
foreach(examples IN ITEMS libmesh-dev:link python3-libmesh:python)
  string(REPLACE ":" ";" examples ${examples})
  list(GET examples 0 package)
  list(GET examples 1 folder)
  if(package IN_LIST packages)
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples/${folder}/ DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${package}/examples
      USE_SOURCE_PERMISSIONS COMPONENT ${package} EXCLUDE_FROM_ALL PATTERN __pycache__ EXCLUDE)
  endif()
endforeach()
if(TARGET mesh-proxy)
  install(FILES ${PROJECT_SOURCE_DIR}/examples/access.yaml DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/mesh-proxy/examples
    COMPONENT mesh-proxy EXCLUDE_FROM_ALL)
endif()
if(TARGET mesh-operator)
  install(FILES ${here}/etc/manifests.README DESTINATION /etc/libmesh/manifests RENAME README COMPONENT mesh-operator
    EXCLUDE_FROM_ALL)
  file(APPEND ${made}/control/mesh-operator/conffiles "/etc/libmesh/manifests/README\n")
endif()
if(TARGET mesh-agent)
  # Container runtimes look for plugins there.
  file(CREATE_LINK ../../bin/mesh-cni ${made}/mesh-cni SYMBOLIC)
  install(FILES ${made}/mesh-cni DESTINATION lib/cni COMPONENT mesh-agent EXCLUDE_FROM_ALL)
endif()
# Programs that link libmesh.so.1 depend on the package that has it.
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
file(WRITE ${made}/control/libmesh1/triggers "activate-noawait ldconfig\n")
set(CPACK_DEBIAN_LIBMESH1_PACKAGE_CONTROL_EXTRA ${made}/control/libmesh1/triggers)
include(CPack)
