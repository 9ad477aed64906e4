//! A device's context, and everything taken from the driver, given back together.
//!
//! All calls of the driver are made here, in [`device`](super::device) and in [`region`](super::region), each
//! on the thread that the context was bound to just before. A driver may be missing, too old or without a device: [`count`] says
//! which, and is asked before anything else, because cudarc panics where the library is not there.

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUevent_flags, CUfunction,
    CUmodule, CUresult, CUstream, CUstream_flags,
};
use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The oldest driver that has every function called here: the newest of them is `cuEventElapsedTime_v2`.
const DRIVER_VERSION_MIN: Version = Version { major: 12, minor: 8 };
/// A wait spins for so long, since most launches and copies are short, and then sleeps in between.
const SPIN: Duration = Duration::from_micros(200);
const NAP: Duration = Duration::from_micros(50);

/// A result of the driver, with what was called.
pub(super) fn check(what: &str, code: CUresult) -> Result<(), String> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let words = DriverError(code)
        .error_string()
        .map_or_else(|_| String::new(), |words| format!(" ({})", words.to_string_lossy()));
    Err(format!("{what}: {code:?}{words}"))
}

/// Waits until what was recorded is done, but not for ever: no function of the driver that waits can be told
/// when to give up.
///
/// # Safety
/// The event is alive, and its context is bound.
pub(super) unsafe fn wait(event: CUevent, what: &str, longest: Duration) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        // SAFETY: the caller has seen to it.
        match unsafe { sys::cuEventQuery(event) } {
            CUresult::CUDA_ERROR_NOT_READY => {}
            code => return check("the device", code),
        }
        let waited = begun.elapsed();
        if waited >= longest {
            return Err(format!("{what} has not ended within {longest:?} (--cuda-hang-timeout)"));
        }
        if waited < SPIN { std::hint::spin_loop() } else { std::thread::sleep(NAP) }
    }
}

/// How many devices there are, 1 or more; or why there is none.
pub fn count() -> Result<u32, String> {
    // SAFETY: it only tries to load the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(
            "libcuda is not here: no NVIDIA driver is installed, or the loader does not find it"
                .into(),
        );
    }
    let version = driver_version()?;
    if version < DRIVER_VERSION_MIN {
        return Err(format!(
            "the NVIDIA driver offers CUDA {version}, and {DRIVER_VERSION_MIN} or later is needed; install a newer \
             driver"
        ));
    }
    // SAFETY: 0 is the one value there is.
    check("cuInit", unsafe { sys::cuInit(0) })?;
    let mut count: c_int = 0;
    // SAFETY: the driver is initialized; it writes one integer.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    match u32::try_from(count) {
        Ok(1..) => Ok(count as u32),
        _ => Err("the NVIDIA driver is here, but has no device".into()),
    }
}

/// A version of CUDA, which is how drivers are numbered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub major: u32,
    pub minor: u32,
}

impl From<c_int> for Version {
    /// 12080 is 12.8.
    fn from(number: c_int) -> Self {
        let number = number.max(0) as u32;
        Self { major: number / 1000, minor: number % 1000 / 10 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The version of CUDA that the driver, which is there, offers.
pub(super) fn driver_version() -> Result<Version, String> {
    let mut version: c_int = 0;
    // SAFETY: the library is present, and this is allowed before cuInit; it writes one integer.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    Ok(version.into())
}

/// The driver's handle of a device below [`count`], which has initialized the driver.
fn device(ordinal: u32) -> Result<CUdevice, String> {
    let mut device = 0;
    // SAFETY: it writes one handle, or refuses.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, ordinal as c_int) })?;
    Ok(device)
}

/// What tells the device with this number from all others, however a process numbers them.
pub(super) fn uuid(ordinal: u32) -> Result<[u8; 16], String> {
    let device = device(ordinal)?;
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: the device is the driver's; it writes sixteen bytes.
    check("cuDeviceGetUuid", unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) })?;
    Ok(uuid.bytes.map(|byte| byte as u8))
}

/// A device's primary context. Whatever is taken through it is given back when it is dropped, unless the
/// device is [lost](Self::lose): then freeing could wait forever for a launch that does not end, and a
/// device that may still write to memory keeps it.
pub(super) struct Context {
    ordinal: u32,
    device: CUdevice,
    context: CUcontext,
    lost: Arc<AtomicBool>,
    modules: Vec<CUmodule>,
    streams: Vec<CUstream>,
    events: Vec<CUevent>,
    device_memory: Vec<CUdeviceptr>,
    host_memory: Vec<*mut c_void>,
}

// SAFETY: the driver's handles may be used from any thread that has the context bound, which every method
// here sees to; and only one thread has the context at a time.
unsafe impl Send for Context {}

impl Context {
    /// Retains the primary context of the device with this number, and binds it to the calling thread.
    pub fn retain(ordinal: u32) -> Result<Self, String> {
        let count = count()?;
        if ordinal >= count {
            return Err(match count {
                1 => "there is no such device; the only one is cuda:0".into(),
                _ => format!("there is no such device; there are cuda:0 to cuda:{}", count - 1),
            });
        }
        let device = device(ordinal)?;
        let mut context = ptr::null_mut();
        // SAFETY: the device is the driver's; it writes one handle.
        check("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&mut context, device)
        })?;
        let retained = Self {
            ordinal,
            device,
            context,
            lost: Arc::default(),
            modules: Vec::new(),
            streams: Vec::new(),
            events: Vec::new(),
            device_memory: Vec::new(),
            host_memory: Vec::new(),
        };
        retained.bind()?;
        Ok(retained)
    }

    /// Makes it the calling thread's context. Another one may have been bound since, so it is not enough to
    /// know the thread.
    pub fn bind(&self) -> Result<(), String> {
        // SAFETY: the context is retained until this is dropped.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// From now on nothing is given back.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Says, also when this is gone, whether it was [lost](Self::lose).
    pub fn lost(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lost)
    }

    /// The device, as the driver knows it.
    pub fn device(&self) -> CUdevice {
        self.device
    }

    /// The device's number.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The chip's name.
    pub fn name(&self) -> Result<String, String> {
        let mut name = [0u8; 256];
        // SAFETY: it writes a string that ends in zero within the given length.
        check("cuDeviceGetName", unsafe {
            sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, self.device)
        })?;
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| "cuDeviceGetName: no end")?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// A property of the device.
    pub fn attribute(&self, attribute: CUdevice_attribute) -> Result<u32, String> {
        let mut value: c_int = 0;
        // SAFETY: the device is the driver's; it writes one integer.
        check("cuDeviceGetAttribute", unsafe {
            sys::cuDeviceGetAttribute(&mut value, attribute, self.device)
        })?;
        u32::try_from(value).map_err(|_| format!("cuDeviceGetAttribute: {attribute:?} is {value}"))
    }

    /// The device's compute capability: 90 for 9.0.
    pub fn chip(&self) -> Result<u32, String> {
        use CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        Ok(self.attribute(MAJOR)? * 10 + self.attribute(MINOR)?)
    }

    /// Loads a fatbin, a cubin or PTX.
    pub fn load(&mut self, image: &[u8]) -> Result<CUmodule, String> {
        self.bind()?;
        let mut module = ptr::null_mut();
        // SAFETY: the image is whole: a file of nvcc's or a result of NVRTC's, and PTX of its ends in zero.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&mut module, image.as_ptr().cast())
        })?;
        self.modules.push(module);
        Ok(module)
    }

    /// A kernel of a module of this context.
    pub fn function(&self, module: CUmodule, name: &CStr) -> Result<CUfunction, String> {
        self.bind()?;
        let mut function = ptr::null_mut();
        let what = format!("cuModuleGetFunction({})", name.to_string_lossy());
        // SAFETY: the module is loaded, and the name ends in zero.
        check(&what, unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) })?;
        Ok(function)
    }

    /// A stream that waits for no other.
    pub fn stream(&mut self) -> Result<CUstream, String> {
        self.bind()?;
        let mut stream = ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a context is bound; it writes one handle.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        self.streams.push(stream);
        Ok(stream)
    }

    /// An event that takes the time.
    pub fn timer(&mut self) -> Result<CUevent, String> {
        self.event(CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// An event that only says that something is done.
    pub fn signal(&mut self) -> Result<CUevent, String> {
        self.event(CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    fn event(&mut self, flags: CUevent_flags) -> Result<CUevent, String> {
        self.bind()?;
        let mut event = ptr::null_mut();
        // SAFETY: a context is bound; it writes one handle.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, flags as u32) })?;
        self.events.push(event);
        Ok(event)
    }

    /// Memory of the device. It is as aligned as the driver does it: to 256 bytes.
    pub fn device_memory(&mut self, bytes: usize) -> Result<CUdeviceptr, String> {
        self.bind()?;
        let mut address = 0;
        let what = format!("cuMemAlloc of {bytes} bytes");
        // SAFETY: a context is bound; it writes one address.
        check(&what, unsafe { sys::cuMemAlloc_v2(&mut address, bytes) })?;
        self.device_memory.push(address);
        Ok(address)
    }

    /// Memory of the host that the device copies from and to by itself.
    pub fn host_memory(&mut self, bytes: usize) -> Result<HostMemory, String> {
        self.bind()?;
        let mut address = ptr::null_mut();
        let what = format!("cuMemHostAlloc of {bytes} bytes");
        // SAFETY: a context is bound; it writes one address. 0: no flags.
        check(&what, unsafe { sys::cuMemHostAlloc(&mut address, bytes, 0) })?;
        self.host_memory.push(address);
        // SAFETY: it is ours, and that long; a slice of bytes has to be initialized.
        unsafe { address.cast::<u8>().write_bytes(0, bytes) };
        Ok(HostMemory { start: address.cast(), bytes })
    }
}

/// Memory of the host, for as long as its context is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostMemory {
    /// Its first byte.
    pub start: *mut u8,
    /// How much there is.
    pub bytes: usize,
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.lost.load(Ordering::Acquire) || self.bind().is_err() {
            return;
        }
        // SAFETY: every handle and address is this context's own and goes with it; nothing is running, since
        // whoever could not wait for the end of a launch has called `lose`.
        unsafe {
            self.events.drain(..).for_each(|event| ignore(sys::cuEventDestroy_v2(event)));
            self.streams.drain(..).for_each(|stream| ignore(sys::cuStreamDestroy_v2(stream)));
            self.device_memory.drain(..).for_each(|address| ignore(sys::cuMemFree_v2(address)));
            self.host_memory.drain(..).for_each(|address| ignore(sys::cuMemFreeHost(address)));
            self.modules.drain(..).for_each(|module| ignore(sys::cuModuleUnload(module)));
            ignore(sys::cuCtxSetCurrent(ptr::null_mut()));
            ignore(sys::cuDevicePrimaryCtxRelease_v2(self.device));
        }
    }
}

/// What fails while everything is given back fails for a reason that was told before.
fn ignore(_: CUresult) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_shown_as_cuda_writes_them() {
        let shown = [11_040, 12_080, 13_000].map(|number| Version::from(number).to_string());
        assert_eq!(shown, ["11.4", "12.8", "13.0"]);
    }
}
