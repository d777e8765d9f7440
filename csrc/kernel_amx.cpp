#include "layout.h"
const bilstm::Instructions *const bilstm::kAmx = nullptr;
