// A decoder's step on a device: one new column for each row, from tokens to the next column, as a chain of kernels.
//
//     embed ─► [ norm, product ─► attend ─► product, added ─► norm, product, activated ─► product, added ] x layers
//           ─► norm, product, told ─► sample
//
// ``chain.py`` puts the chain together. With many rows the norms are kernels of their own and the products cuBLAS's. It
// computes what the ONNX graph of the same weights does, which is its twin and fills the rows that it goes on with.

#include "attention.h"
#include "products.h"
#include "sampler.h"
#include "stream.h"
