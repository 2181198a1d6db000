// A CUDA device for a build of PyTorch that has none: so much of it that tensors without values can live there.
//
// PyTorch asks a backend for two things before it computes: a device guard, which switches devices and streams (autograd and
// every operator hold one), and the CUDA hooks, which tell how many devices there are and allocate pinned memory. A CPU build
// registers neither, so the first backward pass on a fake CUDA tensor fails. This library registers a guard that does nothing
// and hooks that tell of one device. It has no kernels and no memory: only tensors of FakeTensorMode work on the device.
//
// The hooks are looked up once, so the library has to be loaded before torch is imported (tests/fake_gpu/test_fake_gpu.py).

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/FakeGuardImpl.h>

namespace {

struct OneDeviceHooks : at::CUDAHooksInterface {
  explicit OneDeviceHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
};

struct Registration {
  Registration() {
    c10::impl::registerDeviceGuard(c10::DeviceType::CUDA, new c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>());
  }
} registration;

}  // namespace

namespace at {
using ::OneDeviceHooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, OneDeviceHooks)
}  // namespace at
