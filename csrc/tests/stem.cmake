add_executable(test_stem
  test_stem.cpp
  dense.cpp
  host/fibers.cpp
  ../core/stem/stem_plan.cpp)
target_include_directories(test_stem PRIVATE ../core host .)
target_compile_options(test_stem PRIVATE ${kernel_flags} ${sanitizers})
target_link_options(test_stem PRIVATE ${sanitizers})
foreach(group IN ITEMS filters images sizes statistics refusals)
  add_test(NAME stem_${group} COMMAND test_stem ${group})
  set_tests_properties(stem_${group} PROPERTIES TIMEOUT 300)
endforeach()
