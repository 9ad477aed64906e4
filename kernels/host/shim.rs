//! The kernels on the CPU: the same `.cu` text, compiled against the headers of this folder, launch by launch.
//!
//! For proof, not for speed: every CUDA thread is a fiber, and the order in which fibers run is drawn from
//! a seed. What CUDA leaves undefined (a barrier that some threads miss, a shuffle from a lane that takes
//! no part) is an error that names the place.

use logitd_core::backend::DeviceInfo;
use logitd_core::backend::cuda::abi::{Batch, Probe};
use logitd_core::backend::cuda::adjust::{AdjustBatch, SHARED_BYTES};
use logitd_core::backend::cuda::cuts::CutBatch;
use logitd_core::backend::cuda::driver::{Addresses, Driver, Launch};
use logitd_core::backend::cuda::inspect::InspectBatch;
use logitd_core::backend::cuda::launcher::Launcher;
use logitd_core::backend::cuda::plan::{
    Capacity, Geometry, Kernel, Packing, Properties, Residency,
};
use std::ffi::{c_char, c_int};
use std::fmt;

/// Launches that can be on their way at once. One would do, but two find mistakes that one hides.
const SLOTS: usize = 2;
/// Tiles of one row of 2^20 logits that does not start at a multiple of 16 bytes.
const TILES_OF_ROW_MAX: usize = 4097;
/// What fits a launch. Small, so that batches of tests take several launches.
const CAPACITY: Capacity = Capacity {
    rows: 64,
    input_bytes: 8 << 20,
    draws: 1 << 13,
    tiles: TILES_OF_ROW_MAX,
    answer_bytes: 256 << 10,
};

/// One build of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Build {
    /// As it is shipped: 256 threads a block.
    Shipped,
    /// 64 threads and little memory, so that small rows take the ways of large ones.
    Small,
}

impl Build {
    /// Every build.
    pub const ALL: [Self; 2] = [Self::Shipped, Self::Small];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shipped => "shipped",
            Self::Small => "small",
        }
    }
}

/// In which order threads that could run do run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Order {
    /// Any of them, drawn anew at every switch.
    Shuffled(u64) = 0,
    /// The one that has waited longest.
    First = 1,
    /// The one that could run last: one thread runs ahead as far as it can.
    Last = 2,
}

/// How launches run on the shim.
#[derive(Clone, Copy, Debug)]
pub struct ShimOptions {
    /// Which build.
    pub build: Build,
    /// Which kernel.
    pub kernel: Kernel,
    /// Who runs next.
    pub order: Order,
    /// Blocks that are on the machine at once: at least a team.
    pub resident_blocks: u32,
    /// Blocks a row instead of the planner's choice.
    pub team_blocks: Option<u32>,
    /// Whether slices are staged in shared memory instead of the planner's choice.
    pub stage: Option<bool>,
    /// How rows are laid out.
    pub packing: Packing,
}

impl Default for ShimOptions {
    fn default() -> Self {
        Self {
            build: Build::Shipped,
            kernel: Kernel::Cluster,
            order: Order::Shuffled(1),
            resident_blocks: 16,
            team_blocks: None,
            stage: None,
            packing: Packing::Aligned,
        }
    }
}

/// The shim as a backend: device `shim`.
pub type Shim = Launcher<ShimDriver>;

/// A backend that runs the kernels on the CPU, on the calling thread.
pub fn open(options: ShimOptions) -> Shim {
    Launcher::new(ShimDriver::new(options))
}

/// The shim as a driver. "Device" memory is the host's, but a copy of its own.
pub struct ShimDriver {
    options: ShimOptions,
    device: DeviceInfo,
    properties: Properties,
    launches: u64,
    slots: Vec<SlotMemory>,
    control: Vec<Line>,
    scratch: Vec<Line>,
    tiles: Vec<Line>,
}

struct SlotMemory {
    host_input: Vec<u8>,
    input: Vec<Line>,
    output: Vec<Line>,
}

/// Memory as aligned as a device's.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct Line([u8; 128]);

fn lines(bytes: usize, fill: u8) -> Vec<Line> {
    vec![Line([fill; 128]); bytes.div_ceil(128)]
}

fn address(lines: &[Line]) -> u64 {
    lines.as_ptr().expose_provenance() as u64
}

impl ShimDriver {
    /// A driver with memory for two launches at once.
    pub fn new(options: ShimOptions) -> Self {
        let geometry = geometry(options.build);
        let order = match options.order {
            Order::Shuffled(seed) => format!("order {seed}"),
            Order::First => "first come".into(),
            Order::Last => "last come".into(),
        };
        let kernel = match options.kernel {
            Kernel::Grid => "grid",
            Kernel::Cluster => "cluster",
        };
        let device = DeviceInfo {
            id: "shim".into(),
            name: "CUDA kernels on the CPU".into(),
            isa: format!("{} {kernel}, {order}", options.build.name()),
            threads: 1,
        };
        let properties = Properties {
            geometry,
            kernel: options.kernel,
            residency: Residency::of_blocks(options.resident_blocks, 227 << 10),
            grid_residency: None,
            shared_bytes_max: 227 << 10,
            packing: options.packing,
            team_blocks: options.team_blocks,
            stage: options.stage,
        };
        let slot = || SlotMemory {
            host_input: vec![0; CAPACITY.input_bytes],
            input: lines(CAPACITY.input_bytes, 0xff),
            output: lines(CAPACITY.output_bytes(), 0xff),
        };
        Self {
            options,
            device,
            properties,
            launches: 0,
            slots: (0..SLOTS).map(|_| slot()).collect(),
            control: lines(size_of::<u64>(), 0),
            scratch: lines(CAPACITY.rows * geometry.scratch_bytes as usize, 0),
            tiles: lines(CAPACITY.tiles_bytes(), 0xff),
        }
    }

    /// Whether the memory that launches leave as they found it is as it was.
    pub fn is_clean(&self) -> bool {
        let scratch = self.scratch.as_flattened_bytes();
        let row = self.properties.geometry.scratch_bytes as usize;
        let list = self.properties.geometry.list as usize * size_of::<u64>();
        let rows = scratch.chunks_exact(row).map(|row_scratch| &row_scratch[..row - list]);
        self.control.as_flattened_bytes().iter().chain(rows.flatten()).all(|&byte| byte == 0)
    }

    /// Asks the kernels whether their compiler kept to the arithmetic.
    pub fn probe(&self) -> Result<(), String> {
        let mut probe = Probe::question();
        let mut error = [0; ERROR_BYTES];
        let text = error.as_mut_ptr();
        // SAFETY: both point to what the function expects, and it keeps neither.
        let code = unsafe {
            match self.options.build {
                Build::Shipped => logitd_shim_probe_shipped(&mut probe, text, ERROR_BYTES),
                Build::Small => logitd_shim_probe_small(&mut probe, text, ERROR_BYTES),
            }
        };
        said(code, &error)?;
        probe.verdict()
    }
}

impl fmt::Debug for ShimDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShimDriver").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Driver for ShimDriver {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn capacity(&self) -> &Capacity {
        &CAPACITY
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn addresses(&self, slot: usize) -> Addresses {
        Addresses {
            input: address(&self.slots[slot].input),
            output: address(&self.slots[slot].output),
            control: address(&self.control),
            scratch: address(&self.scratch),
            tiles: address(&self.tiles),
        }
    }

    fn input(&mut self, slot: usize) -> &mut [u8] {
        // Ones are a NaN in every dtype: whoever reads beside a row has another status.
        self.slots[slot].host_input.fill(0xff);
        &mut self.slots[slot].host_input
    }

    fn start(&mut self, slot: usize, launch: &Launch) -> Result<(), String> {
        let memory = &mut self.slots[slot];
        let input = memory.input.as_flattened_bytes_mut();
        assert!(
            launch.input_bytes <= input.len() && launch.output_bytes <= memory.output.len() * 128
        );
        assert!(launch.batch.row_count as usize <= CAPACITY.rows);
        let tiles = launch.batch.row_count as usize * launch.batch.tile_capacity as usize;
        assert!(tiles <= CAPACITY.tiles && launch.batch.team_blocks > 0);
        let copied = (launch.input_bytes + 128).min(input.len());
        input[..copied].copy_from_slice(&memory.host_input[..copied]);
        memory.output.fill(Line([0xff; 128]));
        self.launches += 1;
        let (order, seed) = match self.options.order {
            Order::Shuffled(seed) => (0, seed.wrapping_mul(1 << 32) + self.launches),
            Order::First => (1, 0),
            Order::Last => (2, 0),
        };
        let shim = ShimLaunch {
            seed,
            kernel: u32::from(self.options.kernel == Kernel::Cluster),
            order,
            shared_bytes: launch.shared_bytes,
            resident_blocks: self.options.resident_blocks.max(launch.batch.team_blocks),
        };
        let functions = Functions::of(self.options.build);
        if let Some(batch) = &launch.adjust {
            run(functions.adjust, batch, &ShimLaunch { shared_bytes: SHARED_BYTES, ..shim })?;
        }
        let shared_bytes = launch.unstaged_shared_bytes();
        if let Some(batch) = &launch.cut {
            run(functions.cut, batch, &ShimLaunch { shared_bytes, ..shim })?;
        }
        run(functions.sample, &launch.batch, &shim)?;
        for batch in launch.inspect.iter().flatten() {
            run(functions.inspect, batch, &ShimLaunch { shared_bytes, ..shim })?;
        }
        Ok(())
    }

    fn finish(&mut self, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn output(&self, slot: usize) -> &[u8] {
        self.slots[slot].output.as_flattened_bytes()
    }
}

/// Slices of lines as the bytes they are.
trait AsFlattenedBytes {
    fn as_flattened_bytes(&self) -> &[u8];
    fn as_flattened_bytes_mut(&mut self) -> &mut [u8];
}

impl AsFlattenedBytes for [Line] {
    fn as_flattened_bytes(&self) -> &[u8] {
        // SAFETY: a line is 128 bytes without padding, so a slice of lines is that many bytes.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), size_of_val(self)) }
    }

    fn as_flattened_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; any bytes are a line.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), size_of_val(self)) }
    }
}

const ERROR_BYTES: usize = 1024;

/// A kernel of a build, with an argument of this type.
type Function<T> = unsafe extern "C" fn(*const T, *const ShimLaunch, *mut c_char, usize) -> c_int;

/// The kernels of a build.
struct Functions {
    adjust: Function<AdjustBatch>,
    cut: Function<CutBatch>,
    sample: Function<Batch>,
    inspect: Function<InspectBatch>,
}

impl Functions {
    fn of(build: Build) -> Self {
        match build {
            Build::Shipped => Self {
                adjust: logitd_shim_adjust_shipped,
                cut: logitd_shim_cut_shipped,
                sample: logitd_shim_sample_shipped,
                inspect: logitd_shim_inspect_shipped,
            },
            Build::Small => Self {
                adjust: logitd_shim_adjust_small,
                cut: logitd_shim_cut_small,
                sample: logitd_shim_sample_small,
                inspect: logitd_shim_inspect_small,
            },
        }
    }
}

/// Launches a kernel whose argument is of a launch that the driver has looked at.
fn run<T>(function: Function<T>, batch: &T, shim: &ShimLaunch) -> Result<(), String> {
    let mut error = [0; ERROR_BYTES];
    // SAFETY: the batch's addresses are those of the driver's memory, which nothing else borrows now and which is as
    // large as its asserts and the launcher's layout say; the kernels write the output, the scratch memory, the tiles,
    // the control, and in the input the rows that they make and the counters of their descriptors only.
    let code = unsafe { function(batch, shim, error.as_mut_ptr(), ERROR_BYTES) };
    said(code, &error)
}

/// Mirrored in `shim.cpp`.
#[derive(Clone, Copy)]
#[repr(C)]
struct ShimLaunch {
    seed: u64,
    kernel: u32,
    order: u32,
    shared_bytes: u32,
    resident_blocks: u32,
}

// SAFETY: the signatures are those of `shim.cpp`, which build.rs compiles once for each build.
unsafe extern "C" {
    fn logitd_shim_geometry_shipped(geometry: *mut Geometry);
    fn logitd_shim_geometry_small(geometry: *mut Geometry);
    fn logitd_shim_adjust_shipped(
        batch: *const AdjustBatch,
        launch: *const ShimLaunch,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn logitd_shim_adjust_small(
        batch: *const AdjustBatch,
        launch: *const ShimLaunch,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn logitd_shim_cut_shipped(
        batch: *const CutBatch,
        launch: *const ShimLaunch,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn logitd_shim_cut_small(
        batch: *const CutBatch,
        launch: *const ShimLaunch,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn logitd_shim_sample_shipped(
        batch: *const Batch,
        launch: *const ShimLaunch,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn logitd_shim_sample_small(
        batch: *const Batch,
        launch: *const ShimLaunch,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn logitd_shim_inspect_shipped(
        batch: *const InspectBatch,
        launch: *const ShimLaunch,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn logitd_shim_inspect_small(
        batch: *const InspectBatch,
        launch: *const ShimLaunch,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn logitd_shim_probe_shipped(
        probe: *mut Probe,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn logitd_shim_probe_small(probe: *mut Probe, error: *mut c_char, error_bytes: usize) -> c_int;
}

/// The numbers a build was compiled with.
pub fn geometry(build: Build) -> Geometry {
    let mut geometry = Geometry {
        threads: 0,
        list: 0,
        count_bins: 0,
        mass_bins: 0,
        shared_bytes: 0,
        scratch_bytes: 0,
    };
    // SAFETY: it writes one `Geometry`, whose layout `shim.cpp` mirrors, and keeps nothing.
    unsafe {
        match build {
            Build::Shipped => logitd_shim_geometry_shipped(&mut geometry),
            Build::Small => logitd_shim_geometry_small(&mut geometry),
        }
    }
    geometry
}

fn said(code: c_int, error: &[c_char; ERROR_BYTES]) -> Result<(), String> {
    if code == 0 {
        return Ok(());
    }
    let text = error.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect::<Vec<_>>();
    Err(String::from_utf8_lossy(&text).into_owned())
}
