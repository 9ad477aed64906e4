//! The interpreter as a device: the launcher lays out rows and reads results as for any other.

use super::machine::{Geometry, launch};
use super::memory::Memory;
use super::nvcc::Kernels;
use super::program::Program;
use logitd_core::backend::DeviceInfo;
use logitd_core::backend::cuda::abi::{Batch, Probe};
use logitd_core::backend::cuda::adjust::{self, AdjustBatch};
use logitd_core::backend::cuda::driver::{Addresses, Driver, Launch};
use logitd_core::backend::cuda::launcher::Launcher;
use logitd_core::backend::cuda::plan::{Capacity, Kernel, Packing, Properties, Residency};
use logitd_shim::{Build, ShimOptions};
use std::sync::Arc;

/// Two launches on their way find mistakes that one hides.
const SLOTS: usize = 2;
const CAPACITY: Capacity = Capacity {
    rows: 16,
    input_bytes: 1 << 20,
    draws: 1 << 12,
    tiles: 2048,
    answer_bytes: 256 << 10,
};

/// How launches run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub chip: u32,
    pub build: Build,
    pub kernel: Kernel,
    /// Of the order in which threads run; 0 is the order of their numbers.
    pub seed: u64,
    pub resident_blocks: u32,
    pub team_blocks: Option<u32>,
    pub stage: Option<bool>,
    pub packing: Packing,
}

/// A driver that interprets PTX.
pub struct PtxDriver {
    options: Options,
    kernels: Arc<Kernels>,
    device: DeviceInfo,
    properties: Properties,
    memory: Memory,
    slots: Vec<SlotMemory>,
    control: u64,
    scratch: u64,
    tiles: u64,
    launches: u64,
    executed: Vec<u64>,
}

struct SlotMemory {
    host_input: Vec<u8>,
    input: u64,
    output: u64,
}

/// A backend over these kernels.
pub fn open(kernels: Arc<Kernels>, options: Options) -> Launcher<PtxDriver> {
    Launcher::new(PtxDriver::new(kernels, options))
}

impl PtxDriver {
    fn new(kernels: Arc<Kernels>, options: Options) -> Self {
        let Options { chip, build, kernel, seed, .. } = options;
        // The shim knows what a build is compiled with: sizes do not differ between compilers.
        let shim = logitd_shim::open(ShimOptions { build, ..ShimOptions::default() });
        let properties = Properties {
            kernel,
            residency: Residency::of_blocks(options.resident_blocks, 227 << 10),
            grid_residency: None,
            packing: options.packing,
            team_blocks: options.team_blocks,
            stage: options.stage,
            ..*shim.driver().properties()
        };
        let device = DeviceInfo {
            id: "ptx".into(),
            name: "PTX on the CPU".into(),
            isa: format!("sm_{chip} {} {kernel:?}, order {seed}", build.name()),
            threads: 1,
        };
        let mut memory = Memory::default();
        let mut slot = || SlotMemory {
            host_input: vec![0; CAPACITY.input_bytes],
            input: memory.allocate(Vec::new()),
            output: memory.allocate(Vec::new()),
        };
        let slots = (0..SLOTS).map(|_| slot()).collect();
        let control = memory.allocate(vec![0; 8]);
        let scratch_bytes = CAPACITY.rows * properties.geometry.scratch_bytes as usize;
        let scratch = memory.allocate(vec![0; scratch_bytes]);
        let tiles = memory.allocate(Vec::new());
        let executed = Vec::new();
        Self {
            options,
            kernels,
            device,
            properties,
            memory,
            slots,
            control,
            scratch,
            tiles,
            launches: 0,
            executed,
        }
    }

    /// How often each step of the kernel ran in the last launch.
    pub fn executed(&self) -> &[u64] {
        &self.executed
    }

    /// The kernel that launches run.
    pub fn program(&self) -> &Program {
        program(&self.kernels, self.options.kernel)
    }

    /// That a launch left tickets, counters and histograms as it found them: zero.
    fn check_clean(&self) -> Result<(), String> {
        let row = self.properties.geometry.scratch_bytes as usize;
        let list = self.properties.geometry.list as usize * size_of::<u64>();
        let rows = self.memory.buffer(self.scratch).chunks_exact(row);
        let scratch = rows.flat_map(|scratch| &scratch[..row - list]);
        match self.memory.buffer(self.control).iter().chain(scratch).all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err("the launch left its scratch memory dirty".into()),
        }
    }
}

impl Driver for PtxDriver {
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
        SLOTS
    }

    fn addresses(&self, slot: usize) -> Addresses {
        let SlotMemory { input, output, .. } = self.slots[slot];
        let Self { control, scratch, tiles, .. } = *self;
        Addresses { input, output, control, scratch, tiles }
    }

    fn input(&mut self, slot: usize) -> &mut [u8] {
        // Ones are a NaN in every dtype: whoever reads beside a row has another status.
        self.slots[slot].host_input.fill(0xff);
        &mut self.slots[slot].host_input
    }

    fn start(&mut self, slot: usize, wanted: &Launch) -> Result<(), String> {
        let slot = &self.slots[slot];
        let batch = &wanted.batch;
        // Exactly what the launch may touch: a byte more is an error.
        let input = slot.host_input.get(..wanted.input_bytes).ok_or("the input does not fit")?;
        input.clone_into(self.memory.buffer_mut(slot.input));
        let tiles_bytes = batch.row_count as usize * batch.tile_capacity as usize * 16;
        for (buffer, bytes) in [(slot.output, wanted.output_bytes), (self.tiles, tiles_bytes)] {
            let buffer = self.memory.buffer_mut(buffer);
            buffer.clear();
            buffer.resize(bytes, 0xff);
        }
        let cluster = match self.options.kernel {
            Kernel::Grid => 1,
            Kernel::Cluster => batch.team_blocks,
        };
        let geometry = Geometry {
            blocks: batch.row_count * batch.team_blocks,
            threads: self.properties.geometry.threads,
            cluster,
            dynamic_shared_bytes: wanted.shared_bytes as usize,
            resident_blocks: self.options.resident_blocks.max(batch.team_blocks),
        };
        self.launches += 1;
        let seed = match self.options.seed {
            0 => 0,
            seed => (seed << 32) + self.launches,
        };
        let kernels = self.kernels.clone();
        if let Some(adjust) = &wanted.adjust {
            let blocks = adjust.row_count * adjust.row_blocks;
            let geometry = Geometry {
                blocks,
                cluster: 1,
                dynamic_shared_bytes: adjust::SHARED_BYTES as usize,
                ..geometry
            };
            launch(&kernels.adjust, geometry, &bytes_of_adjust(adjust), &mut self.memory, seed)?;
        }
        let unstaged = |batch: &Batch| Geometry {
            blocks: batch.row_count * batch.team_blocks,
            cluster: 1,
            dynamic_shared_bytes: wanted.unstaged_shared_bytes() as usize,
            ..geometry
        };
        if let Some(cut) = &wanted.cut {
            let argument = [&bytes_of(&cut.batch)[..], &cut.cuts.to_le_bytes()].concat();
            launch(&kernels.cut, unstaged(&cut.batch), &argument, &mut self.memory, seed)?;
            self.check_clean()?;
        }
        let program = program(&kernels, self.options.kernel);
        self.executed = launch(program, geometry, &bytes_of(batch), &mut self.memory, seed)?;
        self.check_clean()?;
        for inspect in wanted.inspect.iter().flatten() {
            let argument = [&bytes_of(&inspect.batch)[..], &inspect.asked.to_le_bytes()].concat();
            launch(&kernels.inspect, unstaged(&inspect.batch), &argument, &mut self.memory, seed)?;
            self.check_clean()?;
        }
        Ok(())
    }

    fn finish(&mut self, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn output(&self, slot: usize) -> &[u8] {
        self.memory.buffer(self.slots[slot].output)
    }
}

fn program(kernels: &Kernels, kernel: Kernel) -> &Program {
    match kernel {
        Kernel::Grid => &kernels.grid,
        Kernel::Cluster => &kernels.cluster,
    }
}

/// The kernels' argument as they read it.
fn bytes_of(batch: &Batch) -> Vec<u8> {
    let Batch { rows, outcomes, draws, control, scratch, tiles, .. } = *batch;
    let Batch { row_count, team_blocks, tile_capacity, stage_bytes, .. } = *batch;
    let longs = [rows, outcomes, draws, control, scratch, tiles].map(u64::to_le_bytes);
    let words = [row_count, team_blocks, tile_capacity, stage_bytes].map(u32::to_le_bytes);
    longs.as_flattened().iter().chain(words.as_flattened()).copied().collect()
}

/// The argument of `logitd_adjust` as it reads it.
fn bytes_of_adjust(batch: &AdjustBatch) -> Vec<u8> {
    let AdjustBatch { rows, row_count, row_blocks } = *batch;
    let words = [row_count, row_blocks].map(u32::to_le_bytes);
    rows.to_le_bytes().iter().chain(words.as_flattened()).copied().collect()
}

/// Asks `logitd_probe` whether its compiler kept to the arithmetic.
pub fn probe(program: &Program) -> Result<(), String> {
    let question = Probe::question();
    let Probe { a, b, c, tiny, sum, fused, half_tiny, quotient } = question;
    let words = [a, b, c, tiny, sum, fused, half_tiny, quotient].map(f32::to_le_bytes);
    let mut memory = Memory::default();
    let at = memory.allocate(words.as_flattened().to_vec());
    let geometry =
        Geometry { blocks: 1, threads: 1, cluster: 1, dynamic_shared_bytes: 0, resident_blocks: 1 };
    launch(program, geometry, &at.to_le_bytes(), &mut memory, 0)?;
    let (words, _) = memory.buffer(at).as_chunks();
    let [sum, fused, half_tiny, quotient] = [4, 5, 6, 7].map(|n| f32::from_le_bytes(words[n]));
    Probe { sum, fused, half_tiny, quotient, ..question }.verdict()
}
