add_executable(test_stem_backward
  test_stem_backward.cpp
  dense.cpp
  host/fibers.cpp)
target_include_directories(test_stem_backward PRIVATE ../core host .)
target_compile_options(test_stem_backward PRIVATE ${kernel_flags} ${sanitizers})
target_link_options(test_stem_backward PRIVATE ${sanitizers})
foreach(group IN ITEMS arithmetic filters sizes)
  add_test(NAME stem_backward_${group} COMMAND test_stem_backward ${group})
  set_tests_properties(stem_backward_${group} PROPERTIES TIMEOUT 300)
endforeach()
