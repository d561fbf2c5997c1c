// SPDX-License-Identifier: Apache-2.0
// From one GPU to the next, where several share a model.
#include "cuda/cuda_backend.h"

namespace lectern::engine::cuda {

// The next device waits for this one by itself: the host waits for neither.
void CudaBackend::pass_on(const Tensor& rows, Backend& next, const Tensor& to) {
  auto* const other = dynamic_cast<CudaBackend*>(&next);
  if (other == nullptr) {
    Backend::pass_on(rows, next, to);
    return;
  }
  launch_pass();
  if (failure_) return;
  choose_device();
  if (passed_on_ == nullptr) {
    note(cudaEventCreateWithFlags(&passed_on_, cudaEventDisableTiming), "Preparing a computation");
  }
  if (!failure_) note(cudaEventRecord(passed_on_, stream_), "A pass");
  if (!failure_) other->take_over(*this, rows, to);
}

void CudaBackend::take_over(const CudaBackend& from, const Tensor& rows, const Tensor& to) {
  if (failure_) return;
  choose_device();
  reach(from.device_);
  if (!failure_) note(cudaStreamWaitEvent(stream_, from.passed_on_, 0), "A pass");
  if (failure_ || rows.rows == 0) return;
  note(cudaMemcpyPeerAsync(to.data, device_, rows.data, from.device_,
                           static_cast<std::size_t>(rows.rows * rows.cols) * sizeof(float), stream_),
       "Copying from another GPU");
}

// Where the two cannot read each other's memory, the driver copies by way of page-locked memory of the computer.
void CudaBackend::reach(int device) {
  if (!reached_.insert(device).second) return;
  int can = 0;
  if (cudaDeviceCanAccessPeer(&can, device_, device) == cudaSuccess && can != 0) cudaDeviceEnablePeerAccess(device, 0);
  cudaGetLastError();  // having access already is no failure
}

}  // namespace lectern::engine::cuda
