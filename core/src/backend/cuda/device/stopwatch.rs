//! Times launches on the device's own clock, for the benchmark.
//!
//! Before a launch is timed, memory that is larger than the L2 cache is read, so that the launch finds nothing of its
//! rows there. Writing that memory would do the same, and more: the cache would be full of what must be written back
//! before a row has room, which takes the launch up to 16 us if it is to fill 50 MB.

use super::launch::Grid;
use super::{CudaDriver, elapsed};
use crate::backend::cuda::context::check;
use crate::backend::cuda::driver::Launch;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUevent, CUfunction, CUstream};
use std::ffi::c_void;
use std::time::Duration;

/// Bytes that a thread of the reading kernel reads at once.
const PIECE: usize = 16;
/// Its blocks: enough to have a chip's whole bandwidth.
const READ_GRID: Grid = Grid { blocks: 528, threads: 512, shared_bytes: 0, cluster_blocks: 1 };

/// Events, and memory that is larger than the caches.
pub struct Stopwatch {
    events: [CUevent; 12],
    read: CUfunction,
    /// All zero, and as long as the other one.
    from: u64,
    to: u64,
    large_bytes: usize,
    sink: u64,
}

/// What one pass took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// The kernels, the logits in the device's memory and not in its caches when the first one begins.
    pub cold: Kernels,
    /// The same at once again, the logits in the L2 cache as far as they fit.
    pub cached: Kernels,
    /// Upload, kernels and download.
    pub uploaded: Duration,
}

/// What each kernel of a launch took, one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernels {
    /// The one that changes logits; next to nothing where no row has adjustments.
    pub adjust: Duration,
    /// The one that cuts before; next to nothing where no row has such a cut.
    pub cut: Duration,
    /// The one that draws.
    pub sample: Duration,
    /// The one that answers questions about rows; next to nothing where there are none.
    pub inspect: Duration,
}

impl CudaDriver {
    /// Takes what timing needs.
    pub fn stopwatch(&mut self) -> Result<Stopwatch, String> {
        let context = &mut self.context;
        let large_bytes =
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize * 4;
        let mut events = [std::ptr::null_mut(); 12];
        for event in &mut events {
            *event = context.timer()?;
        }
        let stopwatch = Stopwatch {
            events,
            read: context.function(self.module, c"logitd_read")?,
            from: context.device_memory(large_bytes)?,
            to: context.device_memory(large_bytes)?,
            large_bytes,
            sink: context.device_memory(size_of::<u32>())?,
        };
        self.wind_up(&stopwatch).inspect_err(|_| self.context.lose())?;
        Ok(stopwatch)
    }

    fn wind_up(&self, stopwatch: &Stopwatch) -> Result<(), String> {
        self.context.bind()?;
        let stream = self.slots[0].stream;
        // SAFETY: the memory is this driver's own, and that long; nothing else uses it yet.
        check("cuMemsetD8Async", unsafe {
            sys::cuMemsetD8Async(stopwatch.from, 0, stopwatch.large_bytes, stream)
        })?;
        let [done, ..] = stopwatch.events;
        self.record(done, stream)?;
        self.wait(done)
    }

    /// One pass of a launch whose input was prepared in slot 0.
    pub fn time(&mut self, stopwatch: &Stopwatch, launch: &Launch) -> Result<Pass, String> {
        self.pass(stopwatch, launch).inspect_err(|_| self.context.lose())
    }

    /// Bytes a second that the device copies within its memory: each is read and written, and counts twice.
    pub fn copy_bandwidth(&mut self, stopwatch: &Stopwatch) -> Result<f64, String> {
        let bytes = stopwatch.large_bytes;
        let time = self.copy(stopwatch).inspect_err(|_| self.context.lose())?;
        Ok(2.0 * bytes as f64 / time.as_secs_f64().max(1e-9))
    }

    fn copy(&self, stopwatch: &Stopwatch) -> Result<Duration, String> {
        self.context.bind()?;
        let Stopwatch { from, to, large_bytes, .. } = *stopwatch;
        let stream = self.slots[0].stream;
        let [begin, end, ..] = stopwatch.events;
        self.record(begin, stream)?;
        // SAFETY: both are this driver's own, that long, and used by this alone.
        check("cuMemcpyDtoDAsync", unsafe {
            sys::cuMemcpyDtoDAsync_v2(to, from, large_bytes, stream)
        })?;
        self.record(end, stream)?;
        self.wait(end)?;
        elapsed(begin, end)
    }

    fn pass(&self, stopwatch: &Stopwatch, launch: &Launch) -> Result<Pass, String> {
        let slot = &self.slots[0];
        assert!(!slot.busy && launch.input_bytes <= self.capacity.input_bytes);
        assert!(launch.has_its_input());
        assert!(launch.output_bytes <= self.capacity.output_bytes());
        assert_eq!(launch.batch.rows, slot.input, "prepared in slot 0");
        self.context.bind()?;
        let stream = slot.stream;
        let [a, b, c, d, e, f, g, h, i, j, begin, end] = stopwatch.events;
        let (cold, cached) = ([a, b, c, d, e], [f, g, h, i, j]);
        self.upload(0, launch)?;
        // It keeps the device busy until the rest is in the stream, too: no gap is timed.
        read_large(stopwatch, stream)?;
        self.launch_between(launch, stream, cold)?;
        self.launch_between(launch, stream, cached)?;
        self.record(begin, stream)?;
        self.upload(0, launch)?;
        self.launch_adjust(launch, stream)?;
        self.launch_cut(launch, stream)?;
        self.launch_sample(launch, stream)?;
        self.launch_inspect(launch, stream)?;
        self.download(0, launch)?;
        self.record(end, stream)?;
        self.wait(end)?;
        Ok(Pass {
            cold: Kernels::between(cold)?,
            cached: Kernels::between(cached)?,
            uploaded: elapsed(begin, end)?,
        })
    }

    /// The kernels of a launch, with an event before each and behind the last.
    fn launch_between(
        &self,
        launch: &Launch,
        stream: CUstream,
        [begun, adjusted, cut, sampled, inspected]: [CUevent; 5],
    ) -> Result<(), String> {
        self.record(begun, stream)?;
        self.launch_adjust(launch, stream)?;
        self.record(adjusted, stream)?;
        self.launch_cut(launch, stream)?;
        self.record(cut, stream)?;
        self.launch_sample(launch, stream)?;
        self.record(sampled, stream)?;
        self.launch_inspect(launch, stream)?;
        self.record(inspected, stream)
    }
}

impl Kernels {
    fn between([begun, adjusted, cut, sampled, inspected]: [CUevent; 5]) -> Result<Self, String> {
        Ok(Self {
            adjust: elapsed(begun, adjusted)?,
            cut: elapsed(adjusted, cut)?,
            sample: elapsed(cut, sampled)?,
            inspect: elapsed(sampled, inspected)?,
        })
    }
}

/// Fills the L2 cache with memory that was only read.
fn read_large(stopwatch: &Stopwatch, stream: CUstream) -> Result<(), String> {
    let (mut from, mut sink) = (stopwatch.from, stopwatch.sink);
    let mut count = (stopwatch.large_bytes / PIECE) as u64;
    let parameters = [&raw mut from, &raw mut count, &raw mut sink].map(|p| p.cast::<c_void>());
    READ_GRID.launch(stopwatch.read, stream, &parameters)
}
