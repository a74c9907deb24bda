// The dtypes that the ops know.
#pragma once

namespace torch::headeronly {

enum class ScalarType { Float, Double, Half, BFloat16, Long, Int, Byte };
inline const char* toString(ScalarType) { return "another dtype"; }

}  // namespace torch::headeronly
