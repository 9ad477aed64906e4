//! A build of the kernels as a process of its own, and as a driver: `kernels/host/runner.cpp` is the other
//! end. The launcher above it is the one that drives devices.

use logitd_core::backend::DeviceInfo;
use logitd_core::backend::cuda::abi::{Batch, Probe};
use logitd_core::backend::cuda::adjust::AdjustBatch;
use logitd_core::backend::cuda::cuts::CutBatch;
use logitd_core::backend::cuda::driver::{Addresses, Driver, Launch};
use logitd_core::backend::cuda::inspect::InspectBatch;
use logitd_core::backend::cuda::launcher::Launcher;
use logitd_core::backend::cuda::plan::{Capacity, Geometry, Kernel, Properties, Residency};
use logitd_shim::{Order, ShimOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What fits a launch of this suite.
const CAPACITY: Capacity =
    Capacity { rows: 64, input_bytes: 4 << 20, draws: 4096, tiles: 8192, answer_bytes: 1 << 20 };

/// A driver that has another process run the kernels.
pub struct Runner {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// What the process says when it dies.
    said: std::fs::File,
    options: ShimOptions,
    device: DeviceInfo,
    properties: Properties,
    addresses: Addresses,
    input: Vec<u8>,
    output: Vec<u8>,
    launches: u64,
}

impl Runner {
    /// Starts a program with a planted fault at work (0: none). `options.build` is the program's own.
    pub fn start(program: &Path, fault: u32, options: ShimOptions) -> Result<Self, String> {
        let said = tempfile::tempfile().map_err(|e| e.to_string())?;
        let mut child = Command::new(program)
            .arg(fault.to_string())
            // Fibers that a failed launch leaves behind are no leak.
            .env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0")
            .env("UBSAN_OPTIONS", "print_stacktrace=1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said.try_clone().map_err(|e| e.to_string())?)
            .spawn()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        let (to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let device = DeviceInfo {
            id: "runner".into(),
            name: "CUDA kernels in another process".into(),
            isa: format!("{:?}, {:?}", options.kernel, options.order),
            threads: 1,
        };
        let geometry = Geometry {
            threads: 0,
            list: 0,
            count_bins: 0,
            mass_bins: 0,
            shared_bytes: 0,
            scratch_bytes: 0,
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
        let addresses = Addresses { input: 0, output: 0, control: 0, scratch: 0, tiles: 0 };
        let (input, output) = (vec![0; CAPACITY.input_bytes], Vec::new());
        let mut runner = Self {
            child,
            to,
            from,
            said,
            options,
            device,
            properties,
            addresses,
            input,
            output,
            launches: 0,
        };
        runner.greet().map_err(|e| runner.obituary(&e))?;
        Ok(runner)
    }

    /// The same as a backend.
    pub fn backend(program: &Path, fault: u32, options: ShimOptions) -> Launcher<Self> {
        Launcher::new(Self::start(program, fault, options).unwrap_or_else(|why| panic!("{why}")))
    }

    /// Whether the program's compiler kept to the arithmetic.
    pub fn probe(&mut self) -> Result<(), String> {
        let question = Probe::question();
        let mut request = self.request(1, 0, 0, None);
        let Probe { a, b, c, tiny, .. } = question;
        for x in [a, b, c, tiny, 0.0, 0.0, 0.0, 0.0] {
            request.extend(x.to_bits().to_le_bytes());
        }
        let answer = self.ask(&request, &[])?;
        let x = |i: usize| f32::from_bits(u32_at(&answer, i * 4));
        let (sum, fused, half_tiny, quotient) = (x(4), x(5), x(6), x(7));
        Probe { sum, fused, half_tiny, quotient, ..question }.verdict()
    }

    fn greet(&mut self) -> io::Result<()> {
        let sizes =
            [CAPACITY.rows, CAPACITY.input_bytes, CAPACITY.output_bytes(), CAPACITY.tiles_bytes()];
        let sizes: Vec<u8> = sizes.iter().flat_map(|&n| (n as u64).to_le_bytes()).collect();
        self.to.write_all(&sizes)?;
        let mut hello = [0; 72];
        self.from.read_exact(&mut hello)?;
        self.properties.geometry = Geometry {
            threads: u32_at(&hello, 0),
            list: u32_at(&hello, 4),
            count_bins: u32_at(&hello, 8),
            mass_bins: u32_at(&hello, 12),
            shared_bytes: u64_at(&hello, 16),
            scratch_bytes: u64_at(&hello, 24),
        };
        self.addresses = Addresses {
            input: u64_at(&hello, 32),
            output: u64_at(&hello, 40),
            control: u64_at(&hello, 48),
            scratch: u64_at(&hello, 56),
            tiles: u64_at(&hello, 64),
        };
        Ok(())
    }

    /// A request, as `kernels/host/runner.cpp` reads it.
    fn request(
        &self,
        command: u32,
        shared: u32,
        resident: u32,
        launch: Option<&Launch>,
    ) -> Vec<u8> {
        let (order, seed) = match self.options.order {
            Order::Shuffled(seed) => (0, seed.wrapping_mul(1 << 32) + self.launches),
            Order::First => (1, 0),
            Order::Last => (2, 0),
        };
        let kernel = u32::from(self.options.kernel == Kernel::Cluster);
        let mut bytes = Vec::new();
        put32(&mut bytes, &[command, 0]);
        put64(&mut bytes, &[seed]);
        put32(&mut bytes, &[kernel, order, shared, resident]);
        match launch {
            None => bytes.extend([0; size_of::<Batch>() + BESIDE_BYTES + 16]),
            Some(launch) => {
                put_batch(&mut bytes, &launch.batch);
                put_beside(&mut bytes, launch);
                put64(&mut bytes, &[launch.input_bytes as u64, launch.output_bytes as u64]);
            }
        }
        bytes
    }

    fn ask(&mut self, request: &[u8], payload: &[u8]) -> Result<Vec<u8>, String> {
        let mut exchange = || {
            self.to.write_all(request)?;
            self.to.write_all(payload)?;
            let mut reply = [0; 16];
            self.from.read_exact(&mut reply)?;
            let mut bytes = vec![0; u64_at(&reply, 8) as usize];
            self.from.read_exact(&mut bytes)?;
            Ok((u32_at(&reply, 0), bytes))
        };
        match exchange() {
            Ok((0, bytes)) => Ok(bytes),
            Ok((_, text)) => Err(String::from_utf8_lossy(&text).into_owned()),
            Err(error) => Err(self.obituary(&error)),
        }
    }

    /// Why the process does not answer any more.
    fn obituary(&mut self, error: &io::Error) -> String {
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        let mut said = String::new();
        let _ =
            self.said.seek(SeekFrom::Start(0)).and_then(|_| self.said.read_to_string(&mut said));
        format!("the process has ended ({error}; {status}): {said}")
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Driver for Runner {
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
        1
    }

    fn addresses(&self, _: usize) -> Addresses {
        self.addresses
    }

    fn input(&mut self, _: usize) -> &mut [u8] {
        // Ones are a NaN in every dtype: whoever reads beside a row has another status.
        self.input.fill(0xff);
        &mut self.input
    }

    fn start(&mut self, _: usize, launch: &Launch) -> Result<(), String> {
        self.launches += 1;
        let resident = self.options.resident_blocks.max(launch.batch.team_blocks);
        let request = self.request(0, launch.shared_bytes, resident, Some(launch));
        let payload = self.input[..launch.input_bytes].to_vec();
        self.output = self.ask(&request, &payload)?;
        Ok(())
    }

    fn finish(&mut self, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn output(&self, _: usize) -> &[u8] {
        &self.output
    }
}

/// Arguments of the launches before and after.
const BESIDE_BYTES: usize =
    size_of::<AdjustBatch>() + size_of::<CutBatch>() + 2 * size_of::<InspectBatch>();

fn put_batch(bytes: &mut Vec<u8>, batch: &Batch) {
    let Batch { rows, outcomes, draws, control, scratch, tiles, .. } = *batch;
    let Batch { row_count, team_blocks, tile_capacity, stage_bytes, .. } = *batch;
    put64(bytes, &[rows, outcomes, draws, control, scratch, tiles]);
    put32(bytes, &[row_count, team_blocks, tile_capacity, stage_bytes]);
}

fn put_beside(bytes: &mut Vec<u8>, launch: &Launch) {
    match launch.adjust {
        None => bytes.extend([0; size_of::<AdjustBatch>()]),
        Some(AdjustBatch { rows, row_count, row_blocks }) => {
            put64(bytes, &[rows]);
            put32(bytes, &[row_count, row_blocks]);
        }
    }
    match launch.cut {
        None => bytes.extend([0; size_of::<CutBatch>()]),
        Some(CutBatch { batch, cuts }) => {
            put_batch(bytes, &batch);
            put64(bytes, &[cuts]);
        }
    }
    for inspect in launch.inspect {
        match inspect {
            None => bytes.extend([0; size_of::<InspectBatch>()]),
            Some(InspectBatch { batch, asked }) => {
                put_batch(bytes, &batch);
                put64(bytes, &[asked]);
            }
        }
    }
}

fn put32(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put64(bytes: &mut Vec<u8>, values: &[u64]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
