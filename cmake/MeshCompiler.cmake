# Compiler settings that all of our targets share: the interface target mesh_options.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
# C++20 modules are not used; scanning for them only costs build time.
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)

if(NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(MESH_CCACHE ccache)
  if(MESH_CCACHE)
    set(CMAKE_C_COMPILER_LAUNCHER ${MESH_CCACHE})
    set(CMAKE_CXX_COMPILER_LAUNCHER ${MESH_CCACHE})
  endif()
endif()

add_library(mesh_options INTERFACE)
target_compile_options(mesh_options INTERFACE
  # Designated initialisers leave fields out on purpose.
  -Wall -Wextra -Wpedantic -Werror -Wno-missing-field-initializers
  $<$<COMPILE_LANGUAGE:CXX>:-Wconversion;-Wshadow;-Wnon-virtual-dtor;-Woverloaded-virtual>)
target_compile_definitions(mesh_options INTERFACE BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_HAS_STD_INVOKE_RESULT)
target_include_directories(mesh_options INTERFACE
  ${PROJECT_SOURCE_DIR}/libmesh/src ${PROJECT_SOURCE_DIR}/libmesh/include
  ${PROJECT_BINARY_DIR}/include)
configure_file(${PROJECT_SOURCE_DIR}/libmesh/include/mesh/version.hpp.in
  ${PROJECT_BINARY_DIR}/include/mesh/version.hpp @ONLY)

# g++ 12's false alarms with optimisation: the frame allocator of an inlined Asio coroutine as a mismatched pair, and
# the inactive members of a std::variant as uninitialised.
target_compile_options(mesh_options INTERFACE
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-mismatched-new-delete;-Wno-maybe-uninitialized>)

if(MESH_SANITIZE)
  target_compile_options(mesh_options INTERFACE -fsanitize=${MESH_SANITIZE} -fno-omit-frame-pointer
)
  target_link_options(mesh_options INTERFACE -fsanitize=${MESH_SANITIZE})
  if(MESH_SANITIZE MATCHES "undefined")
    target_compile_options(mesh_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
  if(MESH_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # g++ 12 warns about atomic_thread_fence in Asio, which TSan does not model.
    target_compile_options(mesh_options INTERFACE -Wno-tsan)
  endif()
endif()
