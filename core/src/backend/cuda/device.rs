//! A CUDA device as a driver of launches.
//!
//! Each slot has a stream of its own, in which its launch goes from beginning to end:
//!
//! ```text
//! copy the input -> adjust rows -> wait for the kernels launched before -> cut -> sample -> inspect -> copy the output
//! ```
//!
//! so that the copies of one slot overlap with the kernel of another, while kernels, which share one scratch
//! memory, run one after another. All memory is taken at start; a launch takes none, and nothing but
//! [`finish`](Driver::finish) waits. It waits by asking again and again, and not longer than it is told to,
//! because no function of the driver that waits can be told when to give up.

mod choice;
mod launch;
pub mod stopwatch;

use super::Found;
use super::abi::{Batch, Probe, RowDescriptor};
use super::adjust;
use super::context::{self, Context, HostMemory, check};
use super::driver::{Addresses, Driver, Launch, Part};
use super::kernels::{self, Loaded, Tier};
use super::plan::{Capacity, Geometry, Kernel, Packing, Properties, TEAM_BLOCKS_MAX, TILE};
use super::region::RegionExporter;
use super::tensor::Tensors;
use crate::backend::DeviceInfo;
use crate::batch::VOCAB_SIZE_MAX;
use choice::Choice;
use cudarc::driver::sys::{self, CUevent, CUfunction, CUmodule, CUstream};
use launch::Grid;
use std::ffi::c_void;
use std::fmt;
use std::mem::size_of;
use std::time::Duration;

/// One launch that is being uploaded, one that runs, and one that is being prepared.
const SLOTS: usize = 3;
/// Draws of a launch. More than any request has by default.
const DRAWS: usize = 1 << 16;
/// Bytes of what is said beside tokens of the rows of a launch: the bitmasks of some 250 rows of 131,072 tokens.
const ANSWER_BYTES: usize = 4 << 20;
/// Rows of the most usual kind are of at most 2^18 tokens; longer ones go fewer a launch.
const TILES_OF_USUAL_ROW: usize = (1 << 18) / TILE + 8;
const TILES_OF_ROW_MAX: usize = VOCAB_SIZE_MAX as usize / TILE + 1;
/// Threads that copy logits, where nobody says how many: about as many as the way to the device can take.
const COPY_THREADS: usize = 8;
/// The most that there can be.
pub const COPY_THREADS_MAX: usize = 64;
/// The oldest chips that the kernels are written for.
const CHIP_MIN: u32 = 75;

/// How a device is used.
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    /// Rows of one launch at most, 1 or more; each takes scratch memory.
    pub launch_rows_max: usize,
    /// Bytes of one launch's rows and descriptors, [`launch_bytes_min`] or more: pinned memory of the host and
    /// memory of the device, three times each.
    pub launch_bytes_max: usize,
    /// How long a launch may take before the device counts as hung.
    pub hang_timeout: Duration,
    /// Which kernel instead of the best one for the chip.
    pub kernel: Option<Kernel>,
    /// Blocks a row instead of the planner's choice.
    pub team_blocks: Option<u32>,
    /// Whether slices are staged in shared memory instead of the planner's choice.
    pub stage: Option<bool>,
    /// How rows are laid out.
    pub packing: Packing,
    /// Threads that copy the logits of a batch together into pinned memory; 0 is one for each two cores, up to 8.
    pub copy_threads: usize,
    /// Whether other processes may have memory of it.
    pub regions: bool,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            launch_rows_max: 256,
            launch_bytes_max: 32 << 20,
            hang_timeout: Duration::from_secs(10),
            kernel: None,
            team_blocks: None,
            stage: None,
            packing: Packing::Aligned,
            copy_threads: 0,
            regions: false,
        }
    }
}

impl CudaOptions {
    /// How many threads copy logits.
    pub(super) fn copy_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        match self.copy_threads {
            0 => (cores() / 2).clamp(1, COPY_THREADS),
            n => n.min(COPY_THREADS_MAX),
        }
    }
}

/// What must fit a launch: a row of the largest kind, with ids of its tokens, after the descriptors of so many rows.
pub const fn launch_bytes_min(rows: usize) -> usize {
    let of_token = size_of::<f32>() + size_of::<u32>();
    rows * size_of::<RowDescriptor>() + VOCAB_SIZE_MAX as usize * of_token + 256
}

/// A device, ready to launch.
pub struct CudaDriver {
    device: DeviceInfo,
    properties: Properties,
    capacity: Capacity,
    tier: Tier,
    notes: Vec<String>,
    hang_timeout: Duration,
    module: CUmodule,
    kernel: CUfunction,
    /// The grid kernel, where launches may take it in place of `kernel`.
    grid: Option<CUfunction>,
    adjust: CUfunction,
    cut: CUfunction,
    inspect: CUfunction,
    probe: CUfunction,
    slots: Vec<Slot>,
    control: u64,
    scratch: u64,
    tiles: u64,
    /// The slot whose kernel was launched last, unless it has been waited for.
    last: Option<usize>,
    upload_time: Duration,
    context: Context,
}

// SAFETY: the handles of the driver may be used from any thread that has the context bound, which each
// method sees to; the pinned memory is this driver's own.
unsafe impl Send for CudaDriver {}

struct Slot {
    stream: CUstream,
    begun: CUevent,
    uploaded: CUevent,
    computed: CUevent,
    done: CUevent,
    host_input: HostMemory,
    host_output: HostMemory,
    input: u64,
    output: u64,
    busy: bool,
}

impl CudaDriver {
    /// Takes the device with this number, compiles or loads the kernels, and takes all memory.
    pub fn new(ordinal: u32, options: &CudaOptions) -> Result<Self, String> {
        let (rows, bytes) = (options.launch_rows_max, options.launch_bytes_max);
        let least = launch_bytes_min(rows);
        if rows == 0 || bytes < least {
            return Err(format!(
                "launches of {rows} rows need 1 row and {least} bytes or more, not {bytes}"
            ));
        }
        let mut context = Context::retain(ordinal)?;
        let name = context.name()?;
        let chip = usable_chip(&context, &name)?;
        let Loaded { module, tier, note } = kernels::load(&mut context, chip)?;
        let geometry = Geometry::SHIPPED;
        let choice = Choice::make(&mut context, module, chip, options)?;
        let capacity = Capacity {
            rows: options.launch_rows_max,
            input_bytes: options.launch_bytes_max,
            draws: DRAWS,
            tiles: (options.launch_rows_max * TILES_OF_USUAL_ROW).max(TILES_OF_ROW_MAX),
            answer_bytes: ANSWER_BYTES,
        };
        let slots = (0..SLOTS)
            .map(|_| Slot::new(&mut context, &capacity))
            .collect::<Result<_, String>>()?;
        let control = context.device_memory(128)?;
        let scratch = context.device_memory(capacity.rows * geometry.scratch_bytes as usize)?;
        let tiles = context.device_memory(capacity.tiles_bytes())?;
        let mut driver = Self {
            device: DeviceInfo {
                id: format!("cuda:{ordinal}"),
                name,
                isa: isa(chip, tier, choice.kind),
                threads: 0,
            },
            properties: Properties {
                geometry,
                kernel: choice.kind,
                residency: choice.residency,
                grid_residency: choice.grid.map(|(_, residency)| residency),
                shared_bytes_max: choice.shared_bytes_max,
                packing: options.packing,
                team_blocks: options.team_blocks,
                stage: options.stage,
            },
            tier,
            notes: note.into_iter().chain(choice.note).collect(),
            hang_timeout: options.hang_timeout,
            kernel: choice.function,
            grid: choice.grid.map(|(function, _)| function),
            adjust: choice::beside(&context, module, c"logitd_adjust")?,
            cut: choice::beside(&context, module, c"logitd_cut")?,
            inspect: choice::beside(&context, module, c"logitd_inspect")?,
            probe: context.function(module, c"logitd_probe")?,
            module,
            slots,
            control,
            scratch,
            tiles,
            last: None,
            upload_time: Duration::ZERO,
            capacity,
            context,
        };
        driver.clear().inspect_err(|_| driver.context.lose())?;
        Ok(driver)
    }

    /// The chip's name.
    pub fn device_name(&self) -> &str {
        &self.device.name
    }

    /// Where the kernels came from.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// What is not as it is on most such devices, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Memory of this device for other processes to write to.
    pub fn regions(&self) -> Result<RegionExporter, String> {
        RegionExporter::new(&self.context, &self.device.id, self.hang_timeout)
    }

    /// What reads tensors of others in this process on this device.
    pub fn tensors(&self) -> Result<Tensors, String> {
        Tensors::new(self.context.ordinal(), &self.device.id, self.hang_timeout)
    }

    /// Has launches that are started from now on come behind what the stream of these tensors has now.
    pub fn follow(&mut self, tensors: &Tensors) -> Result<(), String> {
        let streams = self.slots.iter().map(|slot| slot.stream);
        // SAFETY: the streams are this driver's own and alive, in the primary context, which both have retained; tensors
        // of another device have another context, which the driver refuses.
        unsafe { tensors.lane().lead(streams) }
    }

    /// Asks the kernels whether their compiler kept to the arithmetic.
    pub fn probe(&mut self) -> Result<(), String> {
        let answer = self.ask(&Probe::question()).inspect_err(|_| self.context.lose())?;
        answer.verdict()
    }

    /// Counters and scratch memory begin at zero. Outputs begin with what no kernel writes, so that one that
    /// writes nothing is noticed.
    fn clear(&mut self) -> Result<(), String> {
        self.context.bind()?;
        let scratch_bytes = self.capacity.rows * self.properties.geometry.scratch_bytes as usize;
        let stream = self.slots[0].stream;
        let outputs =
            self.slots.iter().map(|slot| (slot.output, 0xff, self.capacity.output_bytes()));
        for (address, value, bytes) in
            [(self.control, 0, 128), (self.scratch, 0, scratch_bytes)].into_iter().chain(outputs)
        {
            // SAFETY: the memory is this driver's own, and that long; nothing else uses it yet.
            check("cuMemsetD8Async", unsafe {
                sys::cuMemsetD8Async(address, value, bytes, stream)
            })?;
        }
        self.record(self.slots[0].done, stream)?;
        self.wait(self.slots[0].done)
    }

    fn ask(&mut self, question: &Probe) -> Result<Probe, String> {
        self.context.bind()?;
        let Slot { stream, done, host_input, input, .. } = self.slots[0];
        let memory = host_input.start.cast::<Probe>();
        let mut argument = input;
        let parameters = [(&raw mut argument).cast::<c_void>()];
        // SAFETY: the memory of the slot is larger than a probe and aligned for anything; nothing uses it, as
        // no launch is on its way.
        unsafe { memory.write(*question) };
        // SAFETY: both parts of the slot are as large as that; the host's stays until the copy is done, which is
        // waited for below.
        check("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(input, memory.cast(), size_of::<Probe>(), stream)
        })?;
        Grid { blocks: 1, threads: 1, ..Grid::default() }.launch(
            self.probe,
            stream,
            &parameters,
        )?;
        // SAFETY: as above, the other way.
        check("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(memory.cast(), input, size_of::<Probe>(), stream)
        })?;
        self.record(done, stream)?;
        self.wait(done)?;
        // SAFETY: it was written above, and any bytes are a probe.
        Ok(unsafe { memory.read() })
    }

    fn record(&self, event: CUevent, stream: CUstream) -> Result<(), String> {
        // SAFETY: both are this driver's own and alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event, stream) })
    }

    /// Waits until what was recorded is done, but not for ever.
    fn wait(&self, event: CUevent) -> Result<(), String> {
        // SAFETY: the event is this driver's own and alive, and every caller has bound the context.
        unsafe { context::wait(event, "a launch", self.hang_timeout) }
    }

    /// Puts a launch from beginning to end into the stream of its slot.
    fn enqueue(&mut self, slot: usize, launch: &Launch) -> Result<(), String> {
        self.context.bind()?;
        let Slot { stream, begun, uploaded, computed, done, .. } = self.slots[slot];
        self.record(begun, stream)?;
        self.upload(slot, launch)?;
        self.record(uploaded, stream)?;
        self.launch_adjust(launch, stream)?;
        if let Some(last) = self.last.filter(|&last| last != slot) {
            // SAFETY: stream and event are this driver's own and alive.
            check("cuStreamWaitEvent", unsafe {
                sys::cuStreamWaitEvent(stream, self.slots[last].computed, 0)
            })?;
        }
        self.launch_cut(launch, stream)?;
        self.launch_sample(launch, stream)?;
        self.launch_inspect(launch, stream)?;
        self.last = Some(slot);
        self.record(computed, stream)?;
        self.download(slot, launch)?;
        self.record(done, stream)
    }

    /// What the host has, and what lies in the device's memory already. Others may write to the latter at any
    /// time, and a kernel reads a row more than once: so it reads a copy, which nobody else can write to.
    fn upload(&self, slot: usize, launch: &Launch) -> Result<(), String> {
        let Slot { stream, host_input, input, .. } = self.slots[slot];
        for part in &launch.input {
            match *part {
                // SAFETY: the callers have asserted that it is within both memories; the pinned memory stays,
                // and is not written before the launch is finished: they wait, or the slot is busy.
                Part::Host { at, bytes } => check("cuMemcpyHtoDAsync", unsafe {
                    let from = host_input.start.add(at).cast();
                    sys::cuMemcpyHtoDAsync_v2(input + at as u64, from, bytes, stream)
                })?,
                // SAFETY: as above for where it goes; where it comes from is a loan's, by `Row::address_on`, and is
                // mapped as long as the rows, which are there until the launch is finished. A loan whose device is
                // lost before that stays mapped for good.
                Part::Device { from, at, bytes } => check("cuMemcpyDtoDAsync", unsafe {
                    sys::cuMemcpyDtoDAsync_v2(input + at as u64, from, bytes, stream)
                })?,
            }
        }
        Ok(())
    }

    fn download(&self, slot: usize, launch: &Launch) -> Result<(), String> {
        let Slot { stream, host_output, output, .. } = self.slots[slot];
        // SAFETY: as above; it is not read before the launch is finished.
        check("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(host_output.start.cast(), output, launch.output_bytes, stream)
        })
    }

    /// It needs no memory but the slot's own, so it waits for no other kernel.
    fn launch_adjust(&self, launch: &Launch, stream: CUstream) -> Result<(), String> {
        let Some(mut batch) = launch.adjust else { return Ok(()) };
        let parameters = [(&raw mut batch).cast::<c_void>()];
        let grid = Grid {
            blocks: batch.row_count * batch.row_blocks,
            threads: self.properties.geometry.threads,
            shared_bytes: adjust::SHARED_BYTES,
            cluster_blocks: 1,
        };
        grid.launch(self.adjust, stream, &parameters)
    }

    fn launch_cut(&self, launch: &Launch, stream: CUstream) -> Result<(), String> {
        let Some(mut cut) = launch.cut else { return Ok(()) };
        let parameters = [(&raw mut cut).cast::<c_void>()];
        self.unstaged(&cut.batch, launch).launch(self.cut, stream, &parameters)
    }

    /// The blocks of a kernel with the sampling kernel's teams, for some of its rows.
    fn unstaged(&self, batch: &Batch, launch: &Launch) -> Grid {
        Grid {
            blocks: batch.row_count * batch.team_blocks,
            threads: self.properties.geometry.threads,
            shared_bytes: launch.unstaged_shared_bytes(),
            cluster_blocks: 1,
        }
    }

    fn launch_inspect(&self, launch: &Launch, stream: CUstream) -> Result<(), String> {
        for mut inspect in launch.inspect.into_iter().flatten() {
            let parameters = [(&raw mut inspect).cast::<c_void>()];
            let grid = self.unstaged(&inspect.batch, launch);
            grid.launch(self.inspect, stream, &parameters)?;
        }
        Ok(())
    }

    fn launch_sample(&self, launch: &Launch, stream: CUstream) -> Result<(), String> {
        let mut batch = launch.batch;
        let parameters = [(&raw mut batch).cast::<c_void>()];
        let (kernel, cluster_blocks) = match launch.kernel {
            Kernel::Grid => (self.grid.unwrap_or(self.kernel), 1),
            Kernel::Cluster => (self.kernel, batch.team_blocks),
        };
        let grid = Grid {
            blocks: batch.row_count * batch.team_blocks,
            threads: self.properties.geometry.threads,
            shared_bytes: launch.shared_bytes,
            cluster_blocks,
        };
        grid.launch(kernel, stream, &parameters)
    }

    fn land(&mut self, slot: usize) -> Result<(), String> {
        self.context.bind()?;
        let Slot { begun, uploaded, done, .. } = self.slots[slot];
        self.wait(done)?;
        self.slots[slot].busy = false;
        if self.last == Some(slot) {
            self.last = None;
        }
        self.upload_time = elapsed(begun, uploaded)?;
        Ok(())
    }
}

impl fmt::Debug for CudaDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaDriver")
            .field("device", &self.device)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

impl Driver for CudaDriver {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn addresses(&self, slot: usize) -> Addresses {
        Addresses {
            input: self.slots[slot].input,
            output: self.slots[slot].output,
            control: self.control,
            scratch: self.scratch,
            tiles: self.tiles,
        }
    }

    fn input(&mut self, slot: usize) -> &mut [u8] {
        let Slot { host_input, busy, .. } = &mut self.slots[slot];
        assert!(!*busy, "the input of a launch on its way is the device's");
        // SAFETY: the memory is this slot's own, initialized, that long, and stays as long as the context; the
        // device does not use it, by the assert.
        unsafe { std::slice::from_raw_parts_mut(host_input.start, host_input.bytes) }
    }

    fn start(&mut self, slot: usize, launch: &Launch) -> Result<(), String> {
        let Batch { row_count, tile_capacity, team_blocks, .. } = launch.batch;
        assert!(!self.slots[slot].busy, "one launch a slot");
        assert!(launch.input_bytes <= self.capacity.input_bytes && launch.has_its_input());
        assert!(launch.output_bytes <= self.capacity.output_bytes());
        assert!(row_count as usize <= self.capacity.rows && row_count > 0);
        assert!(row_count as usize * tile_capacity as usize <= self.capacity.tiles);
        assert!((1..=TEAM_BLOCKS_MAX).contains(&team_blocks));
        self.slots[slot].busy = true;
        self.enqueue(slot, launch).inspect_err(|_| self.context.lose())
    }

    fn finish(&mut self, slot: usize) -> Result<(), String> {
        self.land(slot).inspect_err(|_| self.context.lose())
    }

    fn output(&self, slot: usize) -> &[u8] {
        let Slot { host_output, busy, .. } = &self.slots[slot];
        assert!(!busy, "the output of a launch on its way is the device's");
        // SAFETY: as in `input`; it is as long as the capacity's output.
        unsafe { std::slice::from_raw_parts(host_output.start, host_output.bytes) }
    }

    fn upload_time(&self) -> Duration {
        self.upload_time
    }
}

impl Slot {
    fn new(context: &mut Context, capacity: &Capacity) -> Result<Self, String> {
        Ok(Self {
            stream: context.stream()?,
            begun: context.timer()?,
            uploaded: context.timer()?,
            computed: context.signal()?,
            done: context.signal()?,
            host_input: context.host_memory(capacity.input_bytes)?,
            host_output: context.host_memory(capacity.output_bytes())?,
            input: context.device_memory(capacity.input_bytes)?,
            output: context.device_memory(capacity.output_bytes())?,
            busy: false,
        })
    }
}

/// Loads the kernels, chooses one, and lets the device go again.
pub(super) fn look(ordinal: u32) -> Result<Found, String> {
    let mut context = Context::retain(ordinal)?;
    let name = context.name()?;
    let chip = usable_chip(&context, &name)?;
    let Loaded { module, tier, note } = kernels::load(&mut context, chip)?;
    let choice = Choice::make(&mut context, module, chip, &CudaOptions::default())?;
    let notes = note.into_iter().chain(choice.note).collect();
    Ok(Found { name, isa: isa(chip, tier, choice.kind), tier, notes })
}

/// A chip, where its kernels come from, and which of them it runs.
fn isa(chip: u32, tier: Tier, kernel: Kernel) -> String {
    format!("sm_{chip} {tier} {}", kernel.name())
}

/// The time between two events that have happened.
fn elapsed(from: CUevent, to: CUevent) -> Result<Duration, String> {
    let mut milliseconds = 0.0;
    // SAFETY: both events are alive, take the time and were recorded; it writes one number.
    check("cuEventElapsedTime", unsafe {
        sys::cuEventElapsedTime_v2(&mut milliseconds, from, to)
    })?;
    Ok(Duration::try_from_secs_f32(milliseconds / 1000.0).unwrap_or_default())
}

/// The compute capability, if the kernels are written for it.
fn usable_chip(context: &Context, name: &str) -> Result<u32, String> {
    let chip = context.chip()?;
    if chip < CHIP_MIN {
        return Err(format!(
            "{name} has compute capability {}.{}; the kernels need 7.5 or later",
            chip / 10,
            chip % 10
        ));
    }
    Ok(chip)
}
