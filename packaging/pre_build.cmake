# Run by cpack between installing and packing: what dh_compress and dh_strip would do beyond cpack's own stripping.
file(GLOB_RECURSE pages ${CPACK_TEMPORARY_DIRECTORY}/*/usr/share/man/*.[1-8])
file(GLOB_RECURSE archives ${CPACK_TEMPORARY_DIRECTORY}/*/usr/lib/*.a)
file(GLOB_RECURSE binaries ${CPACK_TEMPORARY_DIRECTORY}/*/usr/bin/* ${CPACK_TEMPORARY_DIRECTORY}/*/usr/lib/*.so.*
  ${CPACK_TEMPORARY_DIRECTORY}/*/usr/lib/python3/*.so)
if(NOT binaries)
  message(FATAL_ERROR "there is nothing below ${CPACK_TEMPORARY_DIRECTORY}")
endif()
if(pages)
  execute_process(COMMAND gzip -9nf ${pages} COMMAND_ERROR_IS_FATAL ANY)
endif()
execute_process(COMMAND strip --remove-section=.comment --remove-section=.note ${binaries} COMMAND_ERROR_IS_FATAL ANY)
if(archives)
  execute_process(COMMAND strip --strip-debug --enable-deterministic-archives --remove-section=.comment ${archives}
    COMMAND_ERROR_IS_FATAL ANY)
endif()
