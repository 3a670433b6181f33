# What an embedder gets: both libraries, headers, CMake config files and libmesh.pc. Install components carry the names
# of the Debian packages.
#
# The shared library brings what it needs with it; the static one's users link that themselves, so for each third-party
# target that libmesh links there is a line here: target | how a CMake project finds it | linker flags.
set(MESH_THIRD_PARTY
  "Boost::headers|find_dependency(Boost 1.81)|"
  "Boost::json|find_dependency(Boost 1.81 COMPONENTS json)|-lboost_json"
  "OpenSSL::SSL|find_dependency(OpenSSL 3)|-lssl"
  "OpenSSL::Crypto|find_dependency(OpenSSL 3)|-lcrypto"
  "fmt::fmt|find_dependency(fmt)|-lfmt"
  "protobuf::libprotobuf-lite|find_dependency(Protobuf)|-lprotobuf-lite"
  "yaml-cpp|find_dependency(yaml-cpp)|-lyaml-cpp"
  "prometheus-cpp::core|find_dependency(prometheus-cpp COMPONENTS core)|-lprometheus-cpp-core"
  "Threads::Threads|find_dependency(Threads)|-pthread"
  "PkgConfig::NGHTTP2|pkg_check_modules(NGHTTP2 REQUIRED IMPORTED_TARGET libnghttp2)|-lnghttp2"
  "PkgConfig::RE2|pkg_check_modules(RE2 REQUIRED IMPORTED_TARGET re2)|-lre2"
  "PkgConfig::LMDB|pkg_check_modules(LMDB REQUIRED IMPORTED_TARGET lmdb)|-llmdb"
  "PkgConfig::LIBBPF|pkg_check_modules(LIBBPF REQUIRED IMPORTED_TARGET libbpf)|-lbpf")

# mesh_imported(<libs> <out>): the imported targets behind a list of targets, our own interface targets resolved.
function(mesh_imported libs out)
  set(found)
  foreach(lib IN LISTS libs)
    get_target_property(imported ${lib} IMPORTED)
    if(imported)
      list(APPEND found ${lib})
    else()
      get_target_property(below ${lib} INTERFACE_LINK_LIBRARIES)
      if(below)
        mesh_imported("${below}" more)
        list(APPEND found ${more})
      endif()
    endif()
  endforeach()
  list(REMOVE_DUPLICATES found)
  set(${out} ${found} PARENT_SCOPE)
endfunction()

# mesh_install_library(<third-party targets>)
function(mesh_install_library libs)
  mesh_imported("${libs}" third_party)
  set(MESH_STATIC_DEPENDENCIES)
  set(MESH_PRIVATE_LIBS)
  foreach(target IN LISTS third_party)
    set(line ${MESH_THIRD_PARTY})
    list(FILTER line INCLUDE REGEX "^${target}\\|")
    if(NOT line)
      message(FATAL_ERROR "${target} is linked to libmesh, but cmake/MeshInstall.cmake does not say how its users find it")
    endif()
    string(REPLACE "|" ";" line "${line}")
    list(GET line 1 find)
    list(GET line 2 flags)
    list(APPEND MESH_STATIC_DEPENDENCIES "  ${find}")
    list(APPEND MESH_PRIVATE_LIBS ${flags})
  endforeach()
  list(REMOVE_DUPLICATES MESH_STATIC_DEPENDENCIES)
  list(JOIN MESH_STATIC_DEPENDENCIES "\n" MESH_STATIC_DEPENDENCIES)
  list(JOIN MESH_PRIVATE_LIBS " " MESH_PRIVATE_LIBS)
  # Order between static archives matters to nobody: behind these are shared libraries.
  target_link_libraries(mesh_static INTERFACE ${third_party})

  include(CMakePackageConfigHelpers)
  set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/libmesh)
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/libmeshConfig.cmake.in
    ${PROJECT_BINARY_DIR}/libmeshConfig.cmake INSTALL_DESTINATION ${config_dir})
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/libmeshConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
    message(FATAL_ERROR "CMAKE_INSTALL_LIBDIR: expected a path relative to the prefix, got ${CMAKE_INSTALL_LIBDIR}")
  endif()
  # How libmesh.pc, wherever it is installed, finds its prefix.
  file(RELATIVE_PATH MESH_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  string(REGEX REPLACE "/$" "" MESH_PC_PREFIX "${MESH_PC_PREFIX}")
  foreach(pc IN ITEMS libmesh libmesh-static)
    configure_file(${PROJECT_SOURCE_DIR}/cmake/${pc}.pc.in ${PROJECT_BINARY_DIR}/${pc}.pc @ONLY)
  endforeach()

  if(MESH_SANITIZE)
    install(CODE "message(FATAL_ERROR \"a build with MESH_SANITIZE=${MESH_SANITIZE} is not for installing\")" ALL_COMPONENTS)
    return()
  endif()
  install(TARGETS mesh_shared EXPORT libmeshShared
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT libmesh1 NAMELINK_COMPONENT libmesh-dev)
  install(TARGETS mesh_static EXPORT libmeshStatic
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT libmesh-dev)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/libmesh/include/mesh ${PROJECT_BINARY_DIR}/include/mesh
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT libmesh-dev FILES_MATCHING PATTERN "*.hpp" PATTERN "*.h")
  foreach(export IN ITEMS libmeshShared libmeshStatic)
    install(EXPORT ${export} NAMESPACE libmesh:: DESTINATION ${config_dir} COMPONENT libmesh-dev)
  endforeach()
  install(FILES ${PROJECT_BINARY_DIR}/libmeshConfig.cmake ${PROJECT_BINARY_DIR}/libmeshConfigVersion.cmake
    DESTINATION ${config_dir} COMPONENT libmesh-dev)
  install(FILES ${PROJECT_BINARY_DIR}/libmesh.pc ${PROJECT_BINARY_DIR}/libmesh-static.pc
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT libmesh-dev)
endfunction()
